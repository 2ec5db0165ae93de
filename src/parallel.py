"""The task table: independent tasks on joblib, with one progress bar over all of them."""

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from src.errors import UserError


def share_out(tasks: int, jobs: int | None, device: torch.device) -> tuple[int, int]:
    """Tasks at a time, and CPU threads for each.

    It depends on the size of the whole table and not on what is still to do: the number of threads decides the order of sums, and a
    resumed run must give the same bytes.
    """
    cores = joblib.cpu_count()
    jobs = min(jobs or (cores if device.type == "cpu" else 1), tasks)
    return jobs, max(1, cores // jobs)


def run(function: Callable[..., Any], calls: list[tuple[Any, ...]], progress: list[Path], jobs: int, threads: int, title: str) -> None:
    """Run `function(*call)` for every call, `jobs` at a time, each in a process of its own when there are several.

    Args:
        progress: for each call a file where it writes the share it has finished, from 0 to 1, while it runs.
        threads: CPU threads that each process may use.
    """
    if not calls:
        return
    # cuBLAS is deterministic only with this, and it must be set before CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # OpenMP threads that spin while idle would take the cores from the other tasks.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with _Bar(progress, title) as finished, joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads):
        numbered = (joblib.delayed(_numbered)(function, number, call, os.getpid()) for number, call in enumerate(calls))
        try:
            for number in joblib.Parallel(return_as="generator_unordered", batch_size=1)(numbered):
                finished(number)
        except joblib.externals.loky.process_executor.TerminatedWorkerError:
            raise UserError(
                f"{title}: a worker process died, most likely out of memory: use fewer --jobs or a smaller batch_size"
            ) from None


def _numbered(function: Callable[..., Any], number: int, call: tuple[Any, ...], parent: int) -> int:
    if os.getpid() != parent:
        _die_with(parent)
    try:
        function(*call)
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory on the GPU ({error}): use fewer --jobs or a smaller batch_size") from None
    return number


@cache
def _die_with(parent: int) -> None:
    """End this worker when the process that it works for is killed: nothing else would tell it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Bar:
    """A bar over all calls, moved by a thread that reads their progress files; works for any process that shares the disk."""

    def __init__(self, progress: list[Path], title: str) -> None:
        self.progress, self.done, self.stop = progress, set(), threading.Event()
        every = 0.5 if sys.stderr.isatty() else 30
        layout = "{desc} {percentage:3.0f}% |{bar:30}| {elapsed} gone, {remaining} to go{postfix}"
        self.bar = tqdm(total=len(progress), desc=title, bar_format=layout, mininterval=every, maxinterval=every)
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Callable[[int], None]:
        self.thread.start()
        return self.done.add

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.move()
        self.bar.close()

    def watch(self) -> None:
        while not self.stop.wait(0.5):
            self.move()

    def move(self) -> None:
        shares = [1.0 if number in self.done else _read_share(path) for number, path in enumerate(self.progress)]
        self.bar.update(max(0.0, sum(shares) - self.bar.n))
        self.bar.set_postfix_str(f"{len(self.done)} of {len(shares)} tasks done", refresh=False)


def _read_share(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0  # not begun, just finished, or being written
