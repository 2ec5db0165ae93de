"""The task table on a Dask cluster: a scheduler and workers on this machine, as they would run
on several.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from src.tasks import cluster
from tests.moments import LIMIT, children, ending, parent, runs, wait_for
from tests.workplace import ROOT, Workplace


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

    def start_on(self, address: str) -> subprocess.Popen:
        """Stage 01 on a cluster, as from a terminal: it heeds Ctrl-C, which a program does not by
        itself if the one that started it was put into the background by a shell.
        """
        code = (
            "import runpy, signal, sys\nfrom src.tasks import cluster\n"
            f"cluster.PATIENCE = {LIMIT}\nsys.argv = sys.argv[1:]\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = self.command("01_train_folds.py", "", "", "--cluster", address)
        return subprocess.Popen([sys.executable, "-c", code, *command], cwd=ROOT)


class Machines:
    """A scheduler on a port of the loopback interface that it finds itself, and workers of one slot
    each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers, self.file = folder, [], folder / "scheduler.json"
        where = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        self.scheduler = self.start("dask_scheduler", *where, "--no-dashboard", "--no-show")
        wait_for(self.read, self.scheduler)
        self.address = self.read()["address"]
        self.client = Client(self.address, timeout=LIMIT, set_as_default=False)

    def read(self) -> dict[str, Any]:
        """What the scheduler says of itself, once it has said it all."""
        try:
            return json.loads(self.file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def start(
        self,
        program: str,
        *more: str,
        cwd: Path = ROOT,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen:
        with open(self.folder / f"{program}.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", *more],
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=environment,
            )

    def hire(
        self, count: int = 1, cwd: Path = ROOT, environment: dict[str, str] | None = None
    ) -> subprocess.Popen:
        """Start workers and wait until the scheduler knows them; returns the last."""
        more = (
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(self.folder),
        )
        self.workers += [
            self.start("dask_worker", self.address, *more, cwd=cwd, environment=environment)
            for _ in range(count)
        ]
        self.wait_for_known(len(self.workers))
        return self.workers[-1]

    def wait_for_known(self, count: int) -> None:
        """Wait until the scheduler knows so many workers."""

        def known(dask_scheduler: Any) -> int:
            return len(dask_scheduler.workers)

        wait_for(lambda: self.client.run_on_scheduler(known) == count, *self.workers)

    def dismiss(self) -> None:
        """Kill all workers and wait until the scheduler has noticed."""
        while self.workers:
            worker = self.workers.pop()
            worker.kill()
            worker.wait()
        self.wait_for_known(0)

    def close(self) -> None:
        self.client.close()
        self.scheduler.kill()
        self.scheduler.wait()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """However busy the machine is: a scheduler that is there, and has workers, is found."""
    monkeypatch.setattr(cluster, "PATIENCE", LIMIT)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    machines = Machines(tmp_path_factory.mktemp("machines"))
    yield machines
    machines.close()


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


def test_a_worker_killed_in_mid_task_changes_no_byte_of_the_submission(
    machines, here, there, moment
):
    """Of two workers one is killed: its task ends with it, and the other one goes on from the
    checkpoint.
    """
    machines.hire(2, environment=moment.environment)
    with ending(there.start_on(machines.address)) as stage:
        wait_for(moment.stopped, stage)  # one of the two tasks, after an epoch
        task, checkpoint = next(iter(moment.stopped().items()))
        (worker,) = [one for one in machines.workers if one.pid == parent(task)]
        worker.kill()
        worker.wait()
        machines.workers.remove(worker)
        wait_for(lambda: not runs(task))
        assert checkpoint.is_file()
        assert not there.files("data/runs/**/*.safetensors")
        moment.let_go()
        assert stage.wait(LIMIT) == 0
    there.run("02_predict.py", "--cluster", machines.address)
    for name in ("03_ensemble.py", "04_postprocess.py"):
        there.run(name)
    for pattern in ("data/runs/**/*.safetensors", "data/runs/**/*.h5", "submissions/*.csv"):
        assert here.files(pattern) and there.files(pattern) == here.files(pattern)


def test_ctrl_c_ends_the_tasks_on_the_cluster(machines, there, moment):
    worker = machines.hire(environment=moment.environment)
    with ending(there.start_on(str(machines.file))) as stage:
        wait_for(moment.stopped, stage, worker)
        (task,) = moment.stopped()
        stage.send_signal(signal.SIGINT)
        assert stage.wait(LIMIT) == 130
    wait_for(lambda: not runs(task) and not children(worker.pid), worker)
    assert moment.stopped().keys() == {task}
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
    wait_for_workers = Client.wait_for_workers
    with monkeypatch.context() as soon:  # to wait for workers, not to connect
        soon.setattr(
            Client,
            "wait_for_workers",
            lambda client, count, timeout: wait_for_workers(client, count, 0.1),
        )
        assert "no workers" in there.refused("01_train_folds.py", "--cluster", machines.address)
    assert "no such scheduler file" in there.refused(
        "01_train_folds.py", "--cluster", "missing.json"
    )
    with monkeypatch.context() as soon, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens there, nor can while this is open
        nobody = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        soon.setattr(cluster, "PATIENCE", 1)
        assert "no Dask scheduler answers" in there.refused(
            "01_train_folds.py", "--cluster", nobody
        )
    assert "--jobs has no meaning" in there.refused(
        "01_train_folds.py", "--cluster", nobody, "--jobs", "2"
    )
    machines.hire()
    for more, number in ((["--device", "cuda"], 1), (["--gpus-per-task", "2"], 2)):
        assert f"--resources GPU={number}" in there.refused(
            "01_train_folds.py", "--cluster", machines.address, *more
        )
    assert not list(there.folder.glob("data/runs/**/weights.safetensors"))
