"""Kill the five stages, bundle and apply at random moments and run them on: every file must come
out as if nothing had happened, and no other be left.

Moments are drawn over the time that the stages take undisturbed. A round begins in an empty folder,
goes through the stages, kills each (with its workers) as often as moments fall on it, and runs it
to its end; rounds follow each other until there were enough kills. Usage: python -m tests.chaos
[--kills 50] [--seed 0] [--jobs 2].
"""

import argparse
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from bisect import bisect
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

# One thread a process: these networks gain nothing from more, and the moments should mean the same
# when the machine is busy.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from src.studies import study  # noqa: F401 - all that a stage loads, so that one forked from this process need not load it again
from tests import workplace
from tests.workplace import ROOT, STAGES

A_ROUND = 5  # kills
STEPS = [*STAGES, "bundle", "apply"]
RECIPE = workplace.RECIPE.replace("epochs = 30", "epochs = 5")


class Place:
    """A folder in which the stages run."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder, self.jobs, self.log = folder, jobs, folder.with_suffix(".log")
        folder.mkdir()
        (folder / "tiny.toml").write_text(RECIPE)

    def start(self, stage: str) -> int:
        """The stage in a process of its own, which leads a group with its workers."""
        pid = os.fork()
        if pid == 0:
            self._run(stage)
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        return pid

    def _run(self, stage: str) -> None:
        os.setpgid(0, 0)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [stage, *map(str, self._arguments(stage)), "--device", "cpu"]
        sys.argv += ["--jobs", str(self.jobs)]
        path = ROOT / (stage if stage in STAGES else f"src/cli/{stage}.py")
        code = 1
        try:
            runpy.run_path(str(path), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _arguments(self, stage: str) -> list[str | Path]:
        models, data = self.folder / "models", self.folder / "data"
        if stage == "apply":  # which writes submissions of its own
            (new,) = (data / "raw/demo").glob("X_test*")
            return [models / "tiny", new, self.folder / "out"]
        own = ["--models-dir", models] if stage == "bundle" else []
        folders = ["--data-dir", data, "--submissions-dir", self.folder / "submissions"]
        return [self.folder / "tiny.toml", *folders, *own]

    def finish(self, stage: str) -> float:
        """Run the stage to its end; returns the seconds that it took."""
        began, pid = time.monotonic(), self.start(stage)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            sys.exit(
                f"{stage} failed after these lines:\n"
                + "\n".join(self.log.read_text().splitlines()[-20:])
            )
        return time.monotonic() - began

    def kill(self, stage: str, moment: float) -> float | None:
        """Kill the stage so many seconds after its start, with its workers; if it ends before,
        returns the seconds that it took.
        """
        began, pid = time.monotonic(), self.start(stage)
        while time.monotonic() - began < moment:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return time.monotonic() - began
            time.sleep(0.001)
        os.killpg(pid, signal.SIGKILL)
        return None if os.WIFSIGNALED(os.waitpid(pid, 0)[1]) else moment

    def files(self) -> dict[str, bytes]:
        """All files by name, but for locks and what tells of every run, and without times."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and not path.name.endswith((".lock", "log.txt", "live.html")):
                found[str(path.relative_to(self.folder))] = workplace.without_times(
                    path.name, path.read_bytes()
                )
        return found


def round_of_kills(place: Place, seconds: list[float], draw: random.Random, most: int) -> list[int]:
    """Go through the stages once with at most `most` kills; returns how many each stage got.

    Where a stage ends before its first moment, `seconds` is corrected: the machine is less busy
    than it was.
    """
    ends, kills = list(accumulate(seconds)), [0] * len(STEPS)
    moments = [draw.uniform(0, ends[-1]) for _ in range(most)]
    starts = [end - taken for end, taken in zip(ends, seconds, strict=True)]
    for number, stage in enumerate(STEPS):
        for moment in (moment for moment in moments if bisect(ends, moment) == number):
            taken = place.kill(stage, moment - starts[number])
            if taken is not None:
                seconds[number] = seconds[number] if kills[number] else min(seconds[number], taken)
                break
            kills[number] += 1
        place.finish(stage)
    return kills


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    lines = [f"{name} is left over" for name in found.keys() - expected.keys()]
    lines += [f"{name} is missing" for name in expected.keys() - found.keys()]
    return lines + [
        f"{name} has other bytes"
        for name in found.keys() & expected.keys()
        if found[name] != expected[name]
    ]


def main(kills: int, seed: int, jobs: int, folder: Path) -> None:
    os.environ["LOKY_MAX_CPU_COUNT"] = str(jobs)
    began, draw = time.monotonic(), random.Random(seed)
    undisturbed = Place(folder / "undisturbed", jobs)
    seconds = [undisturbed.finish(stage) for stage in STEPS]
    expected = undisturbed.files()
    print(
        "undisturbed: "
        + ", ".join(
            f"{stage[:6]} {taken:.1f} s" for stage, taken in zip(STEPS, seconds, strict=True)
        ),
        flush=True,
    )
    done, rounds = [0] * len(STEPS), 0
    while sum(done) < kills:
        place = Place(folder / f"round{rounds}", jobs)
        own = round_of_kills(place, seconds, draw, min(A_ROUND, kills - sum(done)))
        done, rounds = [a + b for a, b in zip(done, own, strict=True)], rounds + 1
        wrong = differences(place.files(), expected)
        if wrong:
            sys.exit(f"round {rounds} (seed {seed}): " + "; ".join(wrong))
        shutil.rmtree(place.folder)
        print(
            f"round {rounds}: {sum(own)} kills, {len(expected)} files with the same bytes, none "
            "left over",
            flush=True,
        )
    told = ", ".join(f"{stage[:6]} {count}" for stage, count in zip(STEPS, done, strict=True))
    print(
        f"{sum(done)} kills ({told}) in {rounds} rounds, {time.monotonic() - began:.0f} s: the "
        "same bytes every time"
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--jobs", type=int, default=2, help="worker processes of stages 01 and 02; 1: none"
    )
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(options.kills, options.seed, options.jobs, Path(temporary))
