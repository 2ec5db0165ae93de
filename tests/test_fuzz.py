"""The fuzzer: that it finds what it is meant to find, and a short run of it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fuzz
import numpy as np
import pytest
from fuzz_inputs import INPUTS
from fuzz_mutations import MUTATIONS, Job

from src.artifacts import hdf5
from src.terminal.errors import UserError

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def case(tmp_path: Path) -> fuzz.Case:
    """One whose prepared file is there already, small and whole."""
    job = Job(tmp_path / "data" / "raw" / "corroseg", INPUTS[0].recipe)
    case = fuzz.Case(
        1,
        INPUTS[0],
        next(own for own in MUTATIONS if own.kind == "cut off"),
        "a file",
        tmp_path,
        job,
    )
    case.made.mkdir(parents=True)
    write_prepared(case.made / "corroseg")
    return case


def write_prepared(
    folder: Path, image: float = 0.5, names: tuple[str, str] = ("a", "b"), mask: int = 1
) -> None:
    for split in ("train", "test"):
        arrays = {"name": np.array(names, object), "image": np.full((2, 3, 3), image)}
        arrays |= {"mask": np.full((2, 3, 3), mask, np.uint8)} if split == "train" else {}
        hdf5.write(folder / f"{split}.h5", arrays, {"raw": "1"})


def refuse(
    case: fuzz.Case, line: str = "error: {}/X_train.zip: is cut off: download it again\n"
) -> None:
    sys.stderr.write(line.format(case.folder))
    sys.exit(2)


def fill_memory(case: fuzz.Case) -> None:
    """Half a gigabyte over the limit: what is resident is known to some tens of megabytes only."""
    filled = [np.ones(1 << 26)]
    assert filled


def hang(case: fuzz.Case) -> None:
    while True:
        time.sleep(0.01)


def spin(case: fuzz.Case) -> None:
    while True:
        pass


def raise_it(case: fuzz.Case) -> None:
    raise UserError("what command.run should have caught")


def damage(case: fuzz.Case) -> None:
    (case.made / "corroseg" / "train.h5").write_bytes(b"half")
    refuse(case)


def leave_a_part(case: fuzz.Case) -> None:
    (case.made / ".corroseg.h5.1.partial").touch()
    refuse(case)


RUNS = {
    "made": (lambda case: None, fuzz.PREPARED),
    "refused": (refuse, fuzz.REFUSED),
    "a traceback": (raise_it, "ended with code 1"),
    "another code": (lambda case: os._exit(66), "ended with code 66"),
    "killed": (lambda case: os.kill(os.getpid(), 15), "ended with code -15"),
    "too much memory": (fill_memory, "took too much memory"),
    "asleep": (hang, "hung"),
    "busy": (spin, "hung"),
    "damaged": (damage, "damaged what was there"),
    "left over": (leave_a_part, "damaged what was there"),
    "silent": (lambda case: sys.exit(2), "said it unclearly"),
    "two lines": (
        lambda case: refuse(case, "error: {0}/a: b\nerror: {0}/c: d\n"),
        "said it unclearly",
    ),
    "an escape": (lambda case: refuse(case, "error: {}/\x1b[0m: b\n"), "said it unclearly"),
    "no place": (
        lambda case: refuse(case, "error: something: is wrong\n"),
        "did not say where, or what to do",
    ),
    "no advice": (
        lambda case: refuse(case, "error: {}/X_train.zip is wrong\n"),
        "did not say where, or what to do",
    ),
    "a warning": (lambda case: sys.stderr.write("UserWarning"), "printed on stderr"),
    "nothing made": (lambda case: shutil.rmtree(case.made / "corroseg"), "made nothing"),
    "infinite": (
        lambda case: write_prepared(case.made / "corroseg", np.inf),
        "made values that are not finite",
    ),
    "doubles": (
        lambda case: write_prepared(case.made / "corroseg", names=("a", "a")),
        "made names twice",
    ),
    "odd masks": (
        lambda case: write_prepared(case.made / "corroseg", mask=2),
        "made labels that are none",
    ),
}


@pytest.mark.parametrize(("run", "outcome"), RUNS.values(), ids=RUNS.keys())
def test_every_bad_end_is_told_from_a_good_one(
    case: fuzz.Case, tmp_path: Path, run: Callable[[fuzz.Case], None], outcome: str
) -> None:
    before = fuzz.contents(case.made)
    resident = fuzz.forked(lambda: None, tmp_path).memory
    limits = {"cpu": 1} if run is spin else {"wall": 1} if run is hang else {}
    ended = fuzz.forked(lambda: run(case), tmp_path, **limits)
    assert fuzz.judge(case, ended, before, memory=resident + (128 << 20)) == outcome


def test_a_bomb_that_is_taken_for_good_is_a_failure(case: fuzz.Case, tmp_path: Path) -> None:
    must_fail = next(own for own in MUTATIONS if own.kind == "zip bombs")
    bomb = fuzz.Case(1, case.input, must_fail, "a bomb", case.folder, case.job)
    assert (
        fuzz.judge(bomb, fuzz.forked(lambda: None, tmp_path), fuzz.contents(case.made))
        == "must be refused"
    )


def test_a_case_is_the_same_every_time(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    INPUTS[0].write(whole / "data" / "raw" / "corroseg")
    flips = next(own for own in MUTATIONS if own.kind == "bytes flipped")
    drawn = [
        fuzz.damage(7, INPUTS[0], flips, whole, seed, tmp_path / str(run))
        for run, seed in enumerate((3, 3, 4))
    ]
    first, same, other = (fuzz.contents(case.job.raw) for case in drawn)
    assert first == same
    assert first != other


def test_a_short_run_finds_nothing() -> None:
    command = [
        sys.executable,
        "tests/fuzz.py",
        "--quick",
        "--cases",
        "60",
        "--seed",
        "1",
        "--end-to-end",
        "1",
    ]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("60 cases of seed 1: 0 failed\n")
