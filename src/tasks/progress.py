"""How far the tasks are, what each says of itself, and how long they will still take."""

import heapq
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from src.terminal import console


@dataclass(frozen=True)
class Now:
    """How far a table of tasks is, for those who watch it.

    Args:
        done: the share of all work, 0 to 1.
        words: the times, and how many tasks are done.
        running: by the progress file of each task that runs, what it says of itself.
        finished: the progress files of the tasks that are done.
    """

    done: float
    words: str
    running: dict[Path, str]
    finished: set[Path]


Watch = Callable[[Now], None]
EVERY = 15.0  # seconds from one call of those who watch to the next


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

    def remaining_of(self, number: int) -> float | None:
        """Seconds until one task that runs ends; None while the pace is unknown."""
        rest = self.lengths[number] * (1 - self.shares[number])
        return rest * self.busy / self.work if self.work else None


class Bar:
    """A bar over all tasks, moved by a thread that reads their progress files; works for any
    process that shares the disk.

    On a terminal it is drawn twice a second, and below it a line for each task that runs, where all
    of them have room. Elsewhere, and in the log, it is a line now and then: every half minute at
    first, then whenever a tenth more time has passed.

    Args:
        names: of the tasks, for their lines; none, no lines.
        watch: called by the same thread at once and every `EVERY` seconds.
    """

    def __init__(
        self,
        title: str,
        files: list[Path],
        lengths: list[float],
        jobs: int,
        names: Sequence[str] = (),
        watch: Sequence[Watch] = (),
    ) -> None:
        self.title, self.files, self.done, self.stop = title, files, set(), threading.Event()
        self.names, self.observers = names, watch
        # what a killed run left says nothing of a task that has not begun again
        self.left = [_read(path)[1] for path in files]
        self.estimate = Estimate(lengths, self.shares(), jobs)
        self.began = self.last = time.monotonic()
        self.due, self.watch_due = 30.0, self.began
        self.drawn = console.says() and sys.stderr.isatty()
        layout = "{desc} |{bar}| {elapsed} gone, "
        self.bar = tqdm(
            total=1.0,
            desc=title,
            bar_format=layout,
            ncols=_room()[0] if self.drawn else None,
            leave=False,
            disable=not self.drawn,
        )
        self.below: list[tqdm] = []
        self.noted: set[str] = set()
        self.thread = threading.Thread(target=self.follow, daemon=True)

    def __enter__(self) -> Callable[[int], None]:
        self.thread.start()
        return self.done.add

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self.draw([])
        self.bar.close()
        if self.drawn and console.styled(sys.stderr):  # a ^C may stand on any of its lines
            print("\r\033[J", end="", file=sys.stderr, flush=True)

    def shares(self) -> list[float]:
        self.told = [_read(path) for path in self.files]
        return [
            1.0 if number in self.done else share for number, (share, _) in enumerate(self.told)
        ]

    def running(self) -> dict[int, str]:
        """By its number what each task that runs says of itself, and the time that it takes."""
        return {
            number: f"{words}, {_interval(self.estimate.remaining_of(number))} to go"
            for number, (_, words) in enumerate(self.told)
            if words != self.left[number] and words and number not in self.done
        }

    def follow(self) -> None:
        while not self.stop.wait(0.5):
            now = time.monotonic()
            self.estimate.update(self.shares(), now - self.last)
            self.last = now
            self.show(now - self.began)
            if now >= self.watch_due:
                self.tell(now - self.began)
                self.watch_due = time.monotonic() + EVERY

    def times(self, elapsed: float) -> str:
        return (
            f"{_interval(elapsed)} gone, {_interval(self.estimate.remaining())} to go, "
            f"{len(self.done)} of {len(self.files)} tasks"
        )

    def show(self, elapsed: float) -> None:
        times, begin = self.times(elapsed), f"{self.title} {self.estimate.done:4.0%}"
        if self.drawn:
            self.bar.n, self.bar.bar_format = self.estimate.done, f"{begin} |{{bar}}| {times}"
            self.bar.ncols = _room()[0]
            self.bar.refresh()
            self.draw(self.lines() if self.names else [])
        if elapsed >= self.due:
            self.due = elapsed + max(30.0, elapsed / 10)
            console.note(f"{begin}, {times}")
            if console.says() and not self.drawn:
                print(f"{begin}, {times}", file=sys.stderr, flush=True)

    def lines(self) -> list[str]:
        """A line for each task that runs; none where not all of them have room."""
        running, (columns, rows) = self.running(), _room()
        width = max((len(self.names[number]) for number in running), default=0)
        lines = [f"  {self.names[number]:{width}}  {told}" for number, told in running.items()]
        fits = len(lines) + 1 < rows and all(len(line) <= columns for line in lines)
        return lines if fits else []

    def draw(self, lines: list[str]) -> None:
        """Put these lines below the bar, and no others."""
        while len(self.below) > len(lines):
            self.below.pop().close()
        while len(self.below) < len(lines):
            place = len(self.below) + 1
            # how many rows there are is looked at anew every time
            self.below.append(
                tqdm(position=place, bar_format="{desc}", nrows=place + 2, leave=False)
            )
        for own, line in zip(self.below, lines, strict=True):
            own.display(line)

    def tell(self, elapsed: float) -> None:
        """Call those who watch; an error of theirs is for the log and stops nothing."""
        running = {self.files[number]: told for number, told in self.running().items()}
        finished = {self.files[number] for number in self.done.copy()}
        now = Now(self.estimate.done, self.times(elapsed), running, finished)
        for watch in self.observers:
            try:
                watch(now)
            except Exception as error:
                if repr(error) not in self.noted:
                    self.noted.add(repr(error))
                    console.note(f"warning: {error!r}")


def _interval(seconds: float | None) -> str:
    return "?" if seconds is None else tqdm.format_interval(seconds)


def _room() -> tuple[int, int]:
    """Columns and rows that the bar and what is below may take: behind it there is room for the ^C
    that a terminal writes, which would otherwise begin a line below, and the bar could not be
    cleared any more.
    """
    columns, rows = os.get_terminal_size(sys.stderr.fileno())
    return max(20, (columns or 80) - 3), rows or 24


def _read(path: Path) -> tuple[float, str]:
    """The share of a task that is done, and what it says besides."""
    try:
        share, _, words = path.read_text(encoding="utf-8").partition(" ")
        # a task is done when it says so itself
        return min(float(share), 0.9999), words
    except (OSError, ValueError):
        return 0.0, ""  # not begun, just finished, or being written
