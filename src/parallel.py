"""The task table: independent tasks on joblib, with one progress bar over all of them."""

import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import torch

from src import console, progress
from src.errors import UserError


def share_out(tasks: int, jobs: int | None, device: torch.device) -> tuple[int, int]:
    """Tasks at a time, and CPU threads for each.

    It depends on the size of the whole table and not on what is still to do: the number of threads decides the order of sums, and a
    resumed run must give the same bytes.
    """
    cores = joblib.cpu_count()
    jobs = min(jobs or (cores if device.type == "cpu" else 1), tasks)
    return jobs, max(1, cores // jobs)


def run(
    function: Callable[..., Any],
    calls: list[tuple[Any, ...]],
    shares: list[Path],
    lengths: list[float],
    jobs: int,
    threads: int,
    title: str,
) -> None:
    """Run `function(*call)` for every call, `jobs` at a time, each in a process of its own when there are several.

    Args:
        shares: for each call a file where it writes the share it has finished, from 0 to 1, while it runs.
        lengths: how long each call takes, compared with the others; for the estimate of the time left.
        threads: CPU threads that each process may use.
    """
    if not calls:
        return
    # cuBLAS is deterministic only with this, and it must be set before CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # OpenMP threads that spin while idle would take the cores from the other tasks.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with progress.Bar(title, shares, lengths, jobs) as finished, joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads):
        numbered = (joblib.delayed(_numbered)(function, number, call, os.getpid(), console.state()) for number, call in enumerate(calls))
        try:
            for number in joblib.Parallel(return_as="generator_unordered", batch_size=1)(numbered):
                finished(number)
        except joblib.externals.loky.process_executor.TerminatedWorkerError:
            raise UserError(
                f"{title}: a worker process died, most likely out of memory: use fewer --jobs or a smaller batch_size"
            ) from None


def _numbered(function: Callable[..., Any], number: int, call: tuple[Any, ...], parent: int, told: console.State) -> int:
    if os.getpid() != parent:
        _die_with(parent)
        console.resume(told)
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
