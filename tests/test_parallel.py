"""Who does the tasks of a table: jobs, threads, and which GPU each task gets (told by a stand-in
for CUDA, as none is needed).
"""

import os

import joblib
import pytest
import torch

from src.tasks import parallel
from src.terminal import command, console
from src.terminal.errors import UserError


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are so many GPUs; returns how to do so, and which one was chosen last."""
    chosen = []

    def pretend(count: int) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


def share(tasks: int, *more: str, gpus: int = 1) -> tuple[str, int, int]:
    workers = parallel.workers(command.stage_parser("").parse_args(["demo", *more]), tasks, gpus)
    return workers.device.type, workers.jobs, workers.threads


def test_jobs_and_threads_share_the_cores(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert share(10) == ("cpu", 8, 1)
    assert share(3) == ("cpu", 3, 2)
    assert share(10, "--jobs", "2") == ("cpu", 2, 4)
    assert share(10, "--threads", "3") == ("cpu", 2, 3)
    assert share(10, "--jobs", "4", "--threads", "1") == ("cpu", 4, 1)


def test_gpus_are_shared_out_whole(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert share(10) == ("cuda", 4, 2)
    assert share(10, gpus=2) == ("cuda", 2, 4)
    assert share(10, gpus=3) == ("cuda", 1, 8)
    assert share(10, "--jobs", "8") == ("cuda", 8, 1)
    assert share(10, "--device", "cpu") == ("cpu", 8, 1)
    for more, number in (((), 5), (("--device", "cpu"), 2)):
        with pytest.raises(UserError, match=f"--gpus-per-task {number}: there are"):
            share(10, *more, gpus=number)


@pytest.mark.parametrize(
    ("count", "per_task", "first"),
    [(1, 1, [0, 0, 0]), (2, 1, [0, 1, 0, 1]), (3, 2, [0, 0]), (4, 2, [0, 2, 0, 2]), (8, 4, [0, 4])],
)
def test_tasks_side_by_side_take_the_gpus_in_turn(gpus, tmp_path, count, per_task, first):
    chosen = gpus(count)
    for number in range(len(first)):
        parallel._slot.cache_clear()  # as another process would have it
        parallel._numbered(
            number, int, (), os.getpid(), console.state(), tmp_path, torch.device("cuda"), per_task
        )
    assert chosen == first


def test_a_process_keeps_its_gpu_and_one_that_ends_gives_it_back(gpus, tmp_path):
    chosen = gpus(2)
    parallel._slot.cache_clear()
    for _ in range(2):
        parallel._numbered(
            0, int, (), os.getpid(), console.state(), tmp_path, torch.device("cuda"), 1
        )
    other = os.fork()
    if not other:
        parallel._slot.cache_clear()
        os._exit(parallel._slot(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 1
    parallel._slot.cache_clear()
    assert parallel._slot(tmp_path) == 1
    assert chosen == [0, 0]


def test_a_task_that_needs_more_gpus_than_a_worker_has_is_refused(gpus, tmp_path):
    gpus(1)
    with pytest.raises(UserError, match="to have 2 GPUs, and there are 1"):
        parallel._numbered(
            0, int, (), os.getpid(), console.state(), tmp_path, torch.device("cuda"), 2
        )
