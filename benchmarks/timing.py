"""Two ways to do the same work, timed in turns, and what a table says about them."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from src.terminal.errors import UserError

ROOT = Path(__file__).parent.parent


@dataclass
class Times:
    """Seconds by the clock and of all cores, one a repetition."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, step: Callable[[], object]) -> None:
        clock, cores = time.perf_counter(), time.process_time()
        step()
        self.wall.append(time.perf_counter() - clock)
        self.cpu.append(time.process_time() - cores)


@dataclass(frozen=True)
class Comparison:
    """`count` units of work done our way and by a named baseline; `one_process` where all of the
    work is in this process.
    """

    what: str
    baseline: str
    count: int
    unit: str
    ours: Times
    plain: Times
    one_process: bool = True

    def line(self) -> str:
        rates = [
            _spread([self.count / seconds for seconds in times.wall])
            for times in (self.ours, self.plain)
        ]
        clock = _spread(
            [plain / ours for ours, plain in zip(self.ours.wall, self.plain.wall, strict=True)],
            ".2f",
        )
        cores = statistics.median(
            plain / ours for ours, plain in zip(self.ours.cpu, self.plain.cpu, strict=True)
        )
        return (
            f"| {self.what} | {rates[0]} {self.unit}/s | {self.baseline} | {rates[1]} "
            f"{self.unit}/s | {clock} | {_of_cores(self, cores)} |"
        )


HEADER = (
    "| what | here | baseline | baseline's rate | times faster | by CPU seconds "
    "|\n|---|---|---|---|---|---|"
)


def _of_cores(comparison: Comparison, ratio: float) -> str:
    return f"{ratio:.2f}" if comparison.one_process else "-"


def compare(
    what: str,
    baseline: str,
    count: int,
    unit: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    repeats: int,
    one_process: bool = True,
) -> Comparison:
    """Do both in turns, `repeats` times after one turn that does not count: what else a machine
    has to do slows both alike.
    """
    ours(), plain()
    result = Comparison(what, baseline, count, unit, Times(), Times(), one_process)
    for _ in range(repeats):
        result.ours.take(ours)
        result.plain.take(plain)
    print(result.line(), flush=True)
    return result


def _spread(values: Sequence[float], form: str = "") -> str:
    """Median and range."""
    shown = [
        _number(value, form) for value in (statistics.median(values), min(values), max(values))
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _number(value: float, form: str) -> str:
    return format(value, form) if form else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Run:
    """A stage as a user types it: seconds by the clock, seconds of all cores, and the largest
    process's memory in MiB.
    """

    wall: float
    cpu: float
    memory: float


# A process counts as its own the memory of the one that started it, as it was then: so a small one
# starts the script and counts.
WATCH = """import json, os, sys
script = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, used = os.wait4(script, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))"""


def run(script: str, *arguments: str) -> Run:
    """Run a script of the project to its end.

    Raises:
        UserError: it failed; the message holds what it said last.
    """
    began = time.perf_counter()
    command = [sys.executable, "-S", "-c", WATCH, script, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    wall = time.perf_counter() - began
    *said, counted = done.stdout.decode("utf-8", "replace").splitlines()
    code, cpu, memory = json.loads(counted)
    if code:
        raise UserError(f"{script} {' '.join(arguments)} failed: {' '.join(said)[-300:]}")
    return Run(wall, cpu, memory / 1024)


def machine(device: torch.device) -> str:
    """One sentence about the machine, for beside the figures."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
            name,
        )
    where = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return (
        f"{os.cpu_count()} cores of an {name}{where}; torch {torch.__version__}; "
        f"{time.strftime('%d %B %Y, %H:%M')}; {load()}"
    )


def load() -> str:
    """How many processes wanted a core lately: beside more than there are cores, figures are
    worth less.
    """
    return f"load average {os.getloadavg()[0]:.1f}"
