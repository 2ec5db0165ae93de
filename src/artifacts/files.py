"""Files that are whole or absent, and have one writer at a time."""

import errno
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors

from src.terminal import console
from src.terminal.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it, flushed to disk, when the block ends well,
    removed when it does not.
    """
    partial = _partial(path)
    try:
        with writable(path):
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns what writing raises on a full or a broken disk into one line that names `path`."""
    try:
        yield
    except Exception as error:
        if _no_space(error):
            raise UserError(
                f"{path}: no space left on the device; free some and run the same command again"
            ) from None
        if isinstance(error, (OSError, safetensors.SafetensorError)):
            raise UserError(
                f"{path}: cannot be written ({error}); mend that and run the same command again"
            ) from None
        raise


def _partial(path: Path) -> Path:
    """A temporary name of this process's own beside `path`; what processes that are gone left
    under such names is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        pid = leftover.name.removeprefix(f".{path.name}.").removesuffix(".partial")
        if pid.isdecimal() and (pid == str(os.getpid()) or not _alive(pid)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _alive(pid: str) -> bool:
    """Whether a process of this number runs; a text that cannot be a number of one says no."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _no_space(error: Exception) -> bool:
    """Whether a write failed for lack of space; HDF5 and safetensors put the system's error
    number into errors of their own.
    """
    named = re.search(r"errno = (\d+)|os error (\d+)", str(error))
    number = int(named[1] or named[2]) if named else getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a whole folder; an existing one gives way only when the new one is
    complete.
    """
    partial, old = _partial(path), path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(lock: Path, what: Path, shared: bool = False) -> Iterator[None]:
    """One process at a time at `what`, or several that share it; who has to wait says so, and for
    whom.

    The lock goes with its process, however that ends.

    Args:
        lock: a file for this purpose alone; in it stands the name of a process that has the lock.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    # reading is enough, where nothing may be written
    with os.fdopen(os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)) as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"waiting until {_holder(lock)} is done with {what}")
            fcntl.flock(file, kind)
        _sign(lock, f"{os.getpid()} {' '.join([Path(sys.argv[0]).name, *sys.argv[1:2]])}")
        try:
            yield
        finally:
            _sign(lock, "")


def _sign(lock: Path, name: str) -> None:
    with suppress(OSError):  # a courtesy to those who wait
        lock.write_text(name, encoding="utf-8")


def _holder(lock: Path) -> str:
    name = lock.read_bytes().decode("utf-8", "replace")
    pid, _, command = name.partition(" ")
    return f"process {pid} ({command})" if name.isprintable() and _alive(pid) else "another process"
