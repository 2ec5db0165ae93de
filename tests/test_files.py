"""Files are written whole or not at all."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from src.artifacts import files
from src.terminal.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    path = tmp_path / "artifact"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), files.replacing(path) as partial:
        partial.write_bytes(b"half of the new")
        raise error("stop")
    assert contents(tmp_path) == ({} if before is None else {"artifact": before})


def test_a_complete_write_replaces_the_old_file_only_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "artifact"
    with files.replacing(path) as partial:
        partial.write_bytes(b"old")
    with files.replacing(path) as partial:
        assert partial.parent == path.parent
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert contents(path.parent) == {"artifact": b"new"}


def test_a_full_disk_is_one_line_for_the_user(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="no space left on the device"),
        files.replacing(tmp_path / "artifact"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "folder"
    if existing:
        path.mkdir()
        (path / "old").write_text("")
    with pytest.raises(ValueError, match="stop"), files.replacing_folder(path) as partial:
        (partial / "new").write_text("")
        raise ValueError("stop")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == (
        ["folder", "folder/old"] if existing else []
    )
    with files.replacing_folder(path) as partial:
        (partial / "new").write_text("")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == [
        "folder",
        "folder/new",
    ]


def test_what_a_killed_process_left_is_swept_and_what_a_running_one_writes_is_not(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    path = tmp_path / "a.txt"
    left, running, foreign = (
        tmp_path / f".a.txt.{part}.partial" for part in (gone.pid, os.getppid(), "notes.1")
    )
    for file in (left, running, foreign):
        file.write_text("half")
    files.write_text(path, "whole")
    assert path.read_text() == "whole"
    assert not left.exists() and running.exists() and foreign.exists()
