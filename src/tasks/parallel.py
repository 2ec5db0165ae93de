"""The task table: independent tasks on joblib here, or on a Dask cluster, with one progress bar
over all of them.
"""

import argparse
import fcntl
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib
import torch

from src.networks.devices import choose_device
from src.tasks import progress
from src.tasks.cluster import Cluster
from src.terminal import console
from src.terminal.errors import UserError

ENVIRONMENT = {
    # cuBLAS is deterministic only with this, and it must be set before CUDA starts
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # OpenMP threads that spin while idle would take the cores from the other tasks
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class Options:
    """What a command line says of where tasks run; None means as many as fit."""

    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None
    cluster: str | None = None
    gpus_per_task: int = 1
    shared: Path = Path("data")  # the data directory, which the machines of a cluster share

    @staticmethod
    def of(arguments: argparse.Namespace, shared: Path | None = None) -> "Options":
        """From the arguments of `src.terminal.command.add_places`; `shared` if not --data-dir."""
        names = ("device", "jobs", "threads", "cluster", "gpus_per_task")
        own = {name: getattr(arguments, name) for name in names if name in arguments}
        return Options(**own, shared=(shared or arguments.data_dir).absolute())


@dataclass(frozen=True)
class Workers:
    """Who does the tasks of a table: `jobs` at a time, here or on a cluster.

    How many CPU `threads` a task gets decides the order of sums, and so its bytes: it depends on
    the size of the whole table and on the machine where the stage is started, neither on what is
    still to do nor on where a task runs.
    """

    device: torch.device
    jobs: int
    threads: int
    gpus: int = 1  # that one task takes, where the device is CUDA
    cluster: Cluster | None = None

    def __str__(self) -> str:
        return (
            f"{self.device} of the cluster {self.cluster.address}"
            if self.cluster
            else str(self.device)
        )

    def run(
        self,
        function: Callable[..., Any],
        calls: list[tuple[Any, ...]],
        shares: list[Path],
        lengths: list[float],
        title: str,
        names: Sequence[str] = (),
        watch: Sequence[progress.Watch] = (),
    ) -> None:
        """Run `function(*call)` for every call, each in a process of its own when there are several
        at a time.

        Args:
            shares: for each call a file where it writes the share it has finished, from 0 to 1,
                while it runs, and behind a space whatever else it says of itself.
            lengths: how long each call takes, compared with the others; for the estimate of the
                time left.
            names: of the calls, where a terminal is to show what each says.
            watch: called now and then with how far all are.
        """
        if not calls:
            return
        with progress.Bar(title, shares, lengths, self.jobs, names, watch) as finished:
            for number in (
                self._there(function, calls) if self.cluster else self._here(function, calls, title)
            ):
                finished(number)

    def _here(
        self, function: Callable[..., Any], calls: list[tuple[Any, ...]], title: str
    ) -> Iterator[int]:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with (
            TemporaryDirectory() as slots,
            joblib.parallel_config("loky", n_jobs=self.jobs, inner_max_num_threads=self.threads),
        ):
            own = (os.getpid(), console.state(), Path(slots), self.device, self.gpus)
            numbered = (
                joblib.delayed(_numbered)(number, function, call, *own)
                for number, call in enumerate(calls)
            )
            # Loky replaces workers that have grown, between two tasks; that is of no concern to the
            # user.
            warnings.filterwarnings(
                "ignore", "A worker stopped while some jobs were given to the executor", UserWarning
            )
            try:
                with _interrupts_held():  # it starts the workers
                    done = joblib.Parallel(return_as="generator_unordered", batch_size=1)(numbered)
                yield from done
            except joblib.externals.loky.process_executor.TerminatedWorkerError:
                raise UserError(
                    f"{title}: a worker process died, most likely out of memory: use fewer --jobs "
                    "or a smaller batch_size"
                ) from None

    def _there(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Iterator[int]:
        limits = dict.fromkeys(
            joblib.parallel.ParallelBackendBase.MAX_NUM_THREADS_VARS, str(self.threads)
        )
        gpus = self.gpus if self.device.type == "cuda" else 0
        there = [(function, call, console.state(), self.device, self.gpus) for call in calls]
        return self.cluster.run(there, gpus, ENVIRONMENT | limits)


def workers(options: Options, tasks: int, gpus: int = 1) -> Workers:
    """Who does a table of so many tasks, with so many GPUs a task.

    Raises:
        UserError: the machine or the cluster has not what is asked for.
    """
    if options.cluster:
        return _of_cluster(Cluster(options.cluster, options.shared), options, tasks, gpus)
    device = choose_device(options.device)
    own = torch.cuda.device_count() if device.type == "cuda" else 0
    if gpus > 1 and own < gpus:
        raise UserError(
            f"--gpus-per-task {gpus}: there are {own} GPUs to use here; ask for no "
            "more, or use --cluster"
        )
    cores = joblib.cpu_count()
    most = own // gpus if own else max(1, cores // (options.threads or 1))
    jobs = min(options.jobs or most, tasks)
    return Workers(device, jobs, options.threads or max(1, cores // jobs), gpus)


def _of_cluster(cluster: Cluster, options: Options, tasks: int, gpus: int) -> Workers:
    if options.jobs:
        raise UserError(
            "--jobs has no meaning with --cluster: the workers' --nthreads say how "
            "many tasks each runs at a time"
        )
    name, slots = cluster.offers(options.device, gpus)
    cores = joblib.cpu_count()
    # by the machine where the stage is started, so that the bytes do not hang on the cluster
    here = min(max(1, cores // (options.threads or 1)), tasks)
    threads = options.threads or max(1, cores // here)
    return Workers(torch.device(name), min(slots, tasks) or here, threads, gpus, cluster)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block ends, and never reaches the processes and threads that begin in
    it: they end with this process, and have nothing to say of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _numbered(
    number: int,
    function: Callable[..., Any],
    call: tuple[Any, ...],
    parent: int,
    told: console.State,
    slots: Path,
    device: torch.device,
    gpus: int,
) -> int:
    """One call, in this process, on GPUs that no other process of the same `slots` uses while
    there are enough.
    """
    if os.getpid() != parent:
        die_with(parent)
        console.resume(told)
    if choose_device(device.type).type == "cuda":
        shares = torch.cuda.device_count() // gpus
        if not shares:
            raise UserError(
                f"a task is to have {gpus} GPUs, and there are {torch.cuda.device_count()} here"
            )
        torch.cuda.set_device(_slot(slots) % shares * gpus)
    try:
        function(*call)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on the GPU ({error}): use fewer --jobs or a smaller batch_size"
        ) from None
    return number


@cache
def _slot(slots: Path) -> int:
    """The smallest number that no other process at work has; kept, by a lock, until this one
    ends.
    """
    for number in count():
        file = os.open(slots / f"slot{number}", os.O_CREAT | os.O_WRONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        except BlockingIOError:
            os.close(file)


@cache
def die_with(parent: int) -> None:
    """End this process when the one that it works for is killed: nothing else would tell it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _for_worker() -> None:
    """One task of a cluster in a process of its own (`src.tasks.cluster.work`): comes in by
    stdin; what it raises goes out by stdout.
    """
    parent, slots = sys.argv[1:]
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # what the task prints belongs into the worker's log
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    die_with(int(parent))
    function, call, told, device, gpus = pickle.load(sys.stdin.buffer)
    try:
        _numbered(0, function, call, int(parent), told, Path(slots), device, gpus)
    except Exception as error:
        traceback.print_exc()
        answer.write(pickle.dumps(error))
        answer.flush()


if __name__ == "__main__":
    _for_worker()
