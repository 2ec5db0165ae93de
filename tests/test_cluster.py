"""The task table on a Dask cluster: a scheduler and workers on this machine, as they would run
on several.
"""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from src.tasks import cluster
from tests.workplace import ROOT, Workplace


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Place(Workplace):
    """A workplace whose stages take --threads 1 and, on a cluster, no --jobs."""

    def command(self, stage: str, *more: str) -> list[str]:
        return super().command(
            stage,
            *(more[2:] if "--cluster" in more else more),
            "--threads",
            "1",
            "--set",
            "folds.count=2",
        )


class Machines:
    """A scheduler on a free port of the loopback interface, and workers of one slot each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self.start(
            "dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--no-dashboard",
            "--no-show",
        )

    def start(self, program: str, *more: str, cwd: Path = ROOT) -> subprocess.Popen:
        with open(self.folder / f"{program}.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", *more],
                stdout=log,
                stderr=log,
                cwd=cwd,
            )

    def hire(self, count: int = 1, cwd: Path = ROOT) -> subprocess.Popen:
        """Start workers and wait until the scheduler knows them; returns the last."""
        more = (
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(self.folder),
        )
        known = self.registered() + count
        self.workers += [
            self.start("dask_worker", self.address, *more, cwd=cwd) for _ in range(count)
        ]
        wait_for(lambda: self.registered() == known)
        return self.workers[-1]

    def registered(self) -> int:
        log = self.folder / "dask_worker.log"
        return log.read_text().count("Registered to") if log.exists() else 0

    def dismiss(self) -> None:
        while self.workers:
            worker = self.workers.pop()
            worker.kill()
            worker.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    machines = Machines(tmp_path_factory.mktemp("machines"))
    yield machines
    machines.scheduler.kill()
    machines.scheduler.wait()


@pytest.fixture
def machines(scheduler):
    yield scheduler
    scheduler.dismiss()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A run without a cluster."""
    place = Place(tmp_path_factory.mktemp("here"))
    for stage in (
        "00_prepare_data.py",
        "01_train_folds.py",
        "02_predict.py",
        "03_ensemble.py",
        "04_postprocess.py",
    ):
        place.run(stage)
    return place


@pytest.fixture
def there(here, tmp_path):
    """The same data, with nothing trained."""
    for folder in ("prepared", "raw", "truth"):
        shutil.copytree(here.folder / "data" / folder, tmp_path / "data" / folder)
    return Place(tmp_path)


def tasks_of(worker: subprocess.Popen) -> list[int]:
    threads = Path(f"/proc/{worker.pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def trains(place: Place) -> Callable[[], bool]:
    return lambda: bool(list(place.folder.glob("data/runs/**/checkpoint.pt")))


def test_a_worker_killed_in_mid_task_changes_no_byte_of_the_submission(machines, here, there):
    """Of two workers one is killed: its task ends with it, and another one goes on from the
    checkpoint.
    """
    on_cluster = ("--cluster", machines.address)
    machines.hire(2)
    with ThreadPoolExecutor() as pool:
        stage = pool.submit(there.run, "01_train_folds.py", *on_cluster)
        wait_for(lambda: stage.done() or trains(there)())
        worker = next(worker for worker in machines.workers if tasks_of(worker))
        (task,) = tasks_of(worker)
        worker.kill()
        worker.wait()
        wait_for(lambda: not Path(f"/proc/{task}").exists())
        assert trains(there)(), "training ended before its worker could be killed"
        stage.result()
    there.run("02_predict.py", *on_cluster)
    for stage in ("03_ensemble.py", "04_postprocess.py"):
        there.run(stage)
    for pattern in ("data/runs/**/*.safetensors", "data/runs/**/*.h5", "submissions/*.csv"):
        assert here.files(pattern) and there.files(pattern) == here.files(pattern)


def heed_ctrl_c() -> None:
    """Which a program does not if the one that started it was put into the background by a
    shell.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_tasks_on_the_cluster(machines, there):
    worker = machines.hire()
    command = [
        sys.executable,
        *there.command("01_train_folds.py", "", "", "--cluster", machines.address),
    ]
    stage = subprocess.Popen(command, cwd=ROOT, preexec_fn=heed_ctrl_c)
    wait_for(trains(there))
    (task,) = tasks_of(worker)
    stage.send_signal(signal.SIGINT)
    assert stage.wait() == 130
    wait_for(lambda: not Path(f"/proc/{task}").exists())
    assert worker.poll() is None and not tasks_of(worker)
    assert not list(there.folder.glob("data/.shared-*"))


def test_what_a_task_says_comes_back_as_one_line(machines, there):
    machines.hire()
    in_the_way = there.folder / "data/runs/tiny/net/fold0_seed0/weights.safetensors"
    in_the_way.mkdir(parents=True)
    assert f"{in_the_way}: cannot be written" in last_line(there, machines)


def test_a_worker_with_other_code_is_refused(machines, there, monkeypatch):
    machines.hire()
    expected = cluster.fingerprint() | {"torch": "1.0"}
    monkeypatch.setattr(cluster, "fingerprint", lambda: expected)
    line = last_line(there, machines)
    assert "has torch" in line and "not 1.0" in line


def test_a_worker_that_does_not_see_the_data_is_refused(machines, there, monkeypatch):
    machines.hire()
    monkeypatch.setattr(cluster, "lit", lambda folder: nullcontext(folder / "elsewhere"))
    assert "must share the data directory" in last_line(there, machines)


def test_a_disk_is_shared_while_its_beacon_is_seen_and_locked(tmp_path):
    left = tmp_path / ".shared-of-a-killed-stage"
    left.touch()
    with cluster.lit(tmp_path) as beacon, cluster.lit(tmp_path) as another:
        assert (
            cluster.unseen(beacon) is None and cluster.unseen(another) is None and not left.exists()
        )
        unlocked = tmp_path / "unlocked"
        unlocked.touch()
        assert "locks of other machines" in cluster.unseen(unlocked)
    assert "does not see" in cluster.unseen(beacon)


def test_a_worker_that_was_started_outside_the_checkout_is_refused(machines, there, tmp_path):
    machines.hire(cwd=tmp_path)
    assert "does not find the code" in there.refused(
        "01_train_folds.py", "--cluster", machines.address
    )


def last_line(place: Place, machines: Machines) -> str:
    """What stage 01 ends with: exit code 2, and one line below the bar."""
    code, _, errors = place.call("01_train_folds.py", "--cluster", machines.address)
    assert code == 2 and "Traceback" not in errors, errors
    return errors.splitlines()[-1]


def test_a_cluster_that_cannot_work_is_refused_before_anything_is_trained(
    machines, there, monkeypatch
):
    monkeypatch.setattr(cluster, "PATIENCE", 3)
    assert "no workers" in there.refused("01_train_folds.py", "--cluster", machines.address)
    assert "no such scheduler file" in there.refused(
        "01_train_folds.py", "--cluster", "missing.json"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    assert "no Dask scheduler answers" in there.refused("01_train_folds.py", "--cluster", nobody)
    assert "--jobs has no meaning" in there.refused(
        "01_train_folds.py", "--cluster", nobody, "--jobs", "2"
    )
    monkeypatch.setattr(cluster, "PATIENCE", 60)
    machines.hire()
    for more, number in ((["--device", "cuda"], 1), (["--gpus-per-task", "2"], 2)):
        assert f"--resources GPU={number}" in there.refused(
            "01_train_folds.py", "--cluster", machines.address, *more
        )
    assert not list(there.folder.glob("data/runs/**/weights.safetensors"))
