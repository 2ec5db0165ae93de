"""The task table on a Dask cluster: machines that share the data directory and have the same code
and environment.

joblib's own Dask backend is not used: with a single slot it runs the tasks where the stage was
started, and it waits for ever for a task whose workers have died. This file loads no torch, so that
a worker starts at once; a task loads it in a process of its own.
"""

import fcntl
import hashlib
import logging
import os
import pickle
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, KilledWorker, Status, Worker, as_completed, get_worker

from src.terminal.errors import UserError

ROOT = Path(__file__).parents[2]
PATIENCE = 10  # seconds to wait for the scheduler, and for its first worker
POLL = 0.5  # seconds between two looks at whether a running task is still wanted
NUMERICS = ("torch", "numpy", "scipy", "h5py")  # packages that decide the bytes of an artifact
# a worker whose scheduler is gone, or that was told to stop at once
ENDING = (Status.closing, Status.closed, Status.failed)
WORKER = "python -m distributed.cli.dask_worker"


@dataclass(frozen=True)
class Cluster:
    """`address` is tcp://host:8786 or a scheduler file (.json); `shared` the data directory,
    under one path on all machines.
    """

    address: str
    shared: Path

    def offers(self, wanted: str, gpus: int) -> tuple[str, int]:
        """Either "cpu" or "cuda", and how many tasks at a time; "auto" takes CUDA where workers
        offer GPUs.

        Raises:
            UserError: no scheduler, no worker, or no worker with so many GPUs for a task.
        """
        with self._client() as client:
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
        most = (
            0
            if wanted == "cpu"
            else max(int(worker["resources"].get("GPU", 0)) for worker in workers)
        )
        if most < gpus and (wanted == "cuda" or gpus > 1):
            raise UserError(
                f"--cluster {self.address}, --device {wanted}: no worker offers the {gpus} GPU(s) "
                "of a task: "
                f"start workers with --resources GPU={gpus}"
            )
        if not most:
            return "cpu", sum(worker["nthreads"] for worker in workers)
        return "cuda", sum(
            min(worker["nthreads"], int(worker["resources"].get("GPU", 0)) // gpus)
            for worker in workers
        )

    def run(
        self, tasks: list[tuple[Any, ...]], gpus: int, environment: dict[str, str]
    ) -> Iterator[int]:
        """Run every task, each on a slot of a worker, in a process of `src.tasks.parallel`; yields
        their numbers as they are done.

        A task whose worker dies is given to another one. Leaving the iterator early ends the tasks
        that are under way.

        Args:
            gpus: that each task takes of a worker's GPU resource; 0 on CPUs.
            environment: variables of each task's process.
        """
        needs = {"GPU": gpus} if gpus else None
        with lit(self.shared) as beacon, self._client() as client:
            common = (fingerprint(), beacon, environment)
            futures = {
                client.submit(
                    work,
                    pickle.dumps(task),
                    *common,
                    key=f"task-{number}-{uuid4().hex}",
                    resources=needs,
                ): number
                for number, task in enumerate(tasks)
            }
            try:
                for future in as_completed(futures, loop=client.loop):
                    future.result()
                    yield futures[future]
            except KilledWorker as error:
                raise UserError(
                    f"a task was the end of {error.allowed_failures + 1} workers, the last "
                    f"{error.last_worker.address}"
                ) from None
            except CancelledError:
                raise UserError(
                    f"--cluster {self.address}: the scheduler is gone; run the same "
                    "command again to go on"
                ) from None
            finally:
                client.cancel(list(futures), force=True)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """A connection to a scheduler that has at least one worker, and none that could not load
        this file: that would be its end.
        """
        for name in ("distributed", "distributed.client"):
            # what goes wrong is said in one line below
            logging.getLogger(name).setLevel(logging.CRITICAL)
        file = self.address.endswith(".json")
        if file and not Path(self.address).is_file():
            raise UserError(f"--cluster {self.address}: no such scheduler file")
        where = {"scheduler_file" if file else "address": self.address}
        try:
            client = Client(**where, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--cluster {self.address}: no Dask scheduler answers ({error}); "
                "start one with dask scheduler"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:
                raise UserError(
                    f"--cluster {self.address}: the scheduler has no workers: start "
                    f"some with {WORKER}"
                ) from None
            for worker, found in client.run(find_spec, __name__, on_error="return").items():
                if found is None or isinstance(found, Exception):
                    raise UserError(
                        f"worker {worker} does not find the code: start it in the "
                        f"checkout with {WORKER}"
                    )
            yield client


def fingerprint() -> dict[str, str]:
    """What must be alike on all machines for a task to give the same result."""
    code = hashlib.sha256()
    for file in sorted((ROOT / "src").rglob("*.py")):
        code.update(file.read_bytes())
    versions = {name: metadata.version(name) for name in NUMERICS}
    return {"code in src/": code.hexdigest()[:12], "python": platform.python_version(), **versions}


@contextmanager
def lit(shared: Path) -> Iterator[Path]:
    """A file in a directory, of a name that no other has, and locked for as long as the block
    runs: by it machines know a shared disk.
    """
    for left in shared.glob(".shared-*"):
        if unseen(left):  # nobody holds it: its stage was killed
            left.unlink(missing_ok=True)
    beacon = shared / f".shared-{uuid4().hex}"
    with open(beacon, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield beacon
        finally:
            beacon.unlink(missing_ok=True)


def unseen(beacon: Path) -> str | None:
    """What is wrong with the shared disk where it is looked at from here, if anything."""
    try:
        with open(beacon, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except FileNotFoundError:
        return (
            f"does not see {beacon}: all machines must share the data directory, under the "
            "same path"
        )
    except OSError as error:
        return f"cannot lock files in {beacon.parent} ({error.strerror}): mount it with locks"
    return (
        f"does not see the locks of other machines in {beacon.parent}: mount it so that locks "
        "hold between machines"
    )


def work(task: bytes, expected: dict[str, str], beacon: Path, environment: dict[str, str]) -> None:
    """On a worker: one task in a process of its own, which ends early when the task is cancelled or
    the worker dies.

    Raises:
        UserError: this machine has other code or another environment, or does not share the data
            directory.
        Exception: whatever the task raised.
    """
    worker = get_worker()
    here = f"worker {worker.address} on {socket.gethostname()}"
    for name, value in fingerprint().items():
        if value != expected[name]:
            raise UserError(
                f"{here} has {name} {value}, not {expected[name]}: give it the same "
                "checkout and environment"
            )
    wrong = unseen(beacon)
    if wrong:
        raise UserError(f"{here} {wrong}")
    command = [sys.executable, "-m", "src.tasks.parallel", str(os.getpid()), worker.local_directory]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    raised = _outcome(child, task, worker)
    if isinstance(raised, UserError):
        raise UserError(f"{here}: {raised}")
    if raised:
        raise raised
    if child.returncode < 0:
        raise UserError(
            f"{here}: a task was killed (signal {-child.returncode}), most likely out "
            "of memory: let fewer run at a time there"
        )
    if child.returncode:
        raise RuntimeError(
            f"{here}: a task ended with exit code {child.returncode}; the worker's log says why"
        )


def _outcome(child: subprocess.Popen, task: bytes, worker: Worker) -> Exception | None:
    """Waits for a task's process; what the task raised, if anything."""
    key, to_send = worker.get_current_task(), task
    while True:
        try:
            answer = child.communicate(to_send, timeout=POLL)[0]
            return pickle.loads(answer) if answer else None
        except subprocess.TimeoutExpired:
            to_send = None  # it has been sent
        state = worker.state.tasks.get(key)
        if state is None or state.state != "executing" or worker.status in ENDING:
            child.kill()
            child.wait()
            raise CancelledError(key)
