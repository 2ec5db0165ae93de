"""How far the tasks are, and how long they will still take."""

import heapq
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from src.terminal import console


def since(began: float) -> str:
    """The time since a moment of `time.monotonic()`, as in 01:30."""
    return tqdm.format_interval(time.monotonic() - began)


class Estimate:
    """The time that tasks of different lengths will still take, `jobs` at a time, by the pace since
    this run began.

    What earlier runs have done counts as done but not for the pace, nor does the time before the
    first sign of progress, in which processes start and data are read.
    """

    def __init__(self, lengths: list[float], shares: list[float], jobs: int) -> None:
        self.lengths, self.shares, self.jobs = lengths, shares, jobs
        self.work = self.busy = 0.0  # length done, and seconds that workers spent on it
        self.begun = False

    def update(self, shares: list[float], seconds: float) -> None:
        """Take in which share of each task is done now, so many seconds after the last time."""
        self.work += sum(
            length * max(0.0, new - old)
            for length, new, old in zip(self.lengths, shares, self.shares, strict=True)
        )
        self.busy += seconds * min(self.jobs, sum(share < 1 for share in self.shares))
        if self.work and not self.begun:
            self.begun = True
            # otherwise a whole task has gone by
            if all(new < 1 or old == 1 for new, old in zip(shares, self.shares, strict=True)):
                self.work = self.busy = 0.0
        self.shares = shares

    @property
    def done(self) -> float:
        """The share of all work that is done, 0 to 1."""
        return sum(
            length * share for length, share in zip(self.lengths, self.shares, strict=True)
        ) / sum(self.lengths)

    def remaining(self) -> float | None:
        """Seconds until the last task ends, each in its turn going to the worker that is free
        first; None while the pace is unknown.
        """
        if not self.work:
            return None
        free = [0.0] * self.jobs
        for length, share in zip(self.lengths, self.shares, strict=True):
            heapq.heapreplace(free, free[0] + length * (1 - share) * self.busy / self.work)
        return max(free)


class Bar:
    """A bar over all tasks, moved by a thread that reads their progress files; works for any
    process that shares the disk.

    On a terminal it is drawn twice a second. Elsewhere, and in the log, it is a line now and then:
    every half minute at first, then whenever a tenth more time has passed.
    """

    def __init__(self, title: str, files: list[Path], lengths: list[float], jobs: int) -> None:
        self.title, self.files, self.done, self.stop = title, files, set(), threading.Event()
        self.estimate = Estimate(lengths, self.shares(), jobs)
        self.began = self.last = time.monotonic()
        self.due = 30.0
        self.drawn = console.says() and sys.stderr.isatty()
        layout = "{desc} |{bar}| {elapsed} gone, "
        self.bar = tqdm(
            total=1.0,
            desc=title,
            bar_format=layout,
            ncols=_columns() if self.drawn else None,
            leave=False,
            disable=not self.drawn,
        )
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Callable[[int], None]:
        self.thread.start()
        return self.done.add

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.bar.close()

    def shares(self) -> list[float]:
        return [
            1.0 if number in self.done else _read_share(path)
            for number, path in enumerate(self.files)
        ]

    def watch(self) -> None:
        while not self.stop.wait(0.5):
            now = time.monotonic()
            self.estimate.update(self.shares(), now - self.last)
            self.last = now
            self.show(now - self.began)

    def show(self, elapsed: float) -> None:
        left = self.estimate.remaining()
        to_go = "?" if left is None else tqdm.format_interval(left)
        times = (
            f"{tqdm.format_interval(elapsed)} gone, {to_go} to go, {len(self.done)} of "
            f"{len(self.files)} tasks"
        )
        begin = f"{self.title} {self.estimate.done:4.0%}"
        if self.drawn:
            self.bar.n, self.bar.bar_format = self.estimate.done, f"{begin} |{{bar}}| {times}"
            self.bar.ncols = _columns()
            self.bar.refresh()
        if elapsed >= self.due:
            self.due = elapsed + max(30.0, elapsed / 10)
            console.note(f"{begin}, {times}")
            if console.says() and not self.drawn:
                print(f"{begin}, {times}", file=sys.stderr, flush=True)


def _columns() -> int:
    """How wide the bar may be: behind it there is room for the ^C that a terminal writes, which
    would otherwise begin a line below, and the bar could not be cleared any more.
    """
    return max(20, (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 3)


def _read_share(path: Path) -> float:
    try:
        # a task is done when it says so itself
        return min(float(path.read_text(encoding="utf-8")), 0.9999)
    except (OSError, ValueError):
        return 0.0  # not begun, just finished, or being written
