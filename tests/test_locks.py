"""Locks and temporary names in which something else stands than this project writes there."""

import fcntl
import os
import subprocess
import sys

import pytest

from src.artifacts.files import _holder, replacing
from src.terminal.environment import ROOT

GONE = str((1 << 22) + 1).encode()  # more than Linux numbers processes up to
NO_PROCESS = [b"", b"\xff\xfe 01_train", 23 * b"9", 5000 * b"7", GONE + b" 01_train_folds.py"]
WAITER = """
import sys
from pathlib import Path
from src.artifacts.files import locked
from src.terminal import console
console.start(quiet=False)
with locked(Path(sys.argv[1]), Path("the run")):
    print("mine", flush=True)
"""


@pytest.mark.parametrize("content", [*NO_PROCESS, b"%d a\x1b[2Jb"])
def test_whoever_signed_a_lock_it_is_waited_for(tmp_path, content):
    """The test holds the lock until the other process has said that it waits."""
    lock = tmp_path / ".lock"
    lock.write_bytes(content.replace(b"%d", str(os.getpid()).encode()))
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiter = subprocess.Popen(
            [sys.executable, "-c", WAITER, str(lock)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        line = waiter.stdout.readline()
    assert line == "waiting until another process is done with the run\n"
    assert waiter.communicate()[0] == "mine\n" and waiter.returncode == 0


def test_who_signed_a_lock_is_named(tmp_path):
    (tmp_path / ".lock").write_text(f"{os.getpid()} 01_train_folds.py Bohrung_ä")
    assert _holder(tmp_path / ".lock") == f"process {os.getpid()} (01_train_folds.py Bohrung_ä)"


def test_only_what_a_process_that_is_gone_left_is_removed(tmp_path):
    names = {pid: os.fsencode(tmp_path) + b"/.a.h5." + pid + b".partial" for pid in NO_PROCESS[1:3]}
    names |= {pid: os.fsencode(tmp_path) + b"/.a.h5." + pid + b".partial" for pid in (GONE, b"1")}
    for name in names.values():
        open(name, "w").close()
    with replacing(tmp_path / "a.h5") as partial:
        partial.write_bytes(b"new")
    left = {pid for pid, name in names.items() if os.path.exists(name)}
    assert left == {b"\xff\xfe 01_train", b"1"} and (tmp_path / "a.h5").read_bytes() == b"new"
