"""Moments in other processes that a test holds on to, instead of looking out for them in time."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

STOPPING = Path(__file__).parent / "stopping"
LIMIT = 900  # seconds after which a run hangs; nothing else depends on it


@dataclass(frozen=True)
class Moment:
    """Processes started with this `environment`, and those that they start, stand still whenever
    they have put a file of some name in place, until the test lets go.

    The gate is a lock of the test's own process: if that ends, all go on.
    """

    folder: Path
    gate: TextIO
    environment: dict[str, str]

    def stopped(self) -> dict[int, Path]:
        """The processes that have come to it, and the files that they put in place."""
        return {int(path.stem): Path(path.read_text()) for path in self.folder.glob("*.stopped")}

    def let_go(self) -> None:
        fcntl.flock(self.gate, fcntl.LOCK_UN)


@contextmanager
def after_saving(name: str, folder: Path) -> Iterator[Moment]:
    """The moment after a file of this name was put in place; the folder is an empty one for it."""
    path = [str(STOPPING), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(path), "STOP_AFTER": name, "STOP_IN": str(folder)}
    with open(folder / "gate", "w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        moment = Moment(folder, gate, os.environ | own)
        try:
            yield moment
        finally:
            moment.let_go()


def wait_for(what: Callable[[], Any], *processes: subprocess.Popen) -> None:
    """Wait until something holds that goes on to hold; a process without which it never will must
    not end before.
    """
    end = time.monotonic() + LIMIT
    while True:
        gone = [process.args for process in processes if process.poll() is not None]
        if what():
            return
        assert not gone, f"ended too soon: {gone}"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextmanager
def ending(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += map(int, (thread / "children").read_text().split())
    return found
