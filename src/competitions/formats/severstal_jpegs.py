"""The photographs of Severstal: JPEGs of one size in a folder or in a zip, read one at a time by
any process.
"""

import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from src.competitions.formats import zip_files
from src.terminal.errors import UserError

HEIGHT, WIDTH = 256, 1600
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\.jpg")
LARGEST_JPEG = 4 << 20  # bytes; three times the bare pixels
AGAIN = "download it again"


@dataclass(frozen=True)
class JpegReader:
    """Calling it reads the i-th of `entries`, paths within a folder or a zip, as (256, 1600, 1)
    uint8.

    Raises:
        UserError: the file is damaged or of another size.
    """

    path: Path
    entries: tuple[str, ...]

    def __call__(self, index: int) -> np.ndarray:
        with self._opened(index) as (stream, where):
            content = io.BytesIO(zip_files.whole(stream))
            return np.array(_jpeg(content, where).convert("L"))[:, :, None]

    def check(self, index: int) -> None:
        """Only the header is read: a quarter of a millisecond, where pixels take ten times as
        long.
        """
        with self._opened(index) as (stream, where):
            _jpeg(stream, where)

    @contextmanager
    def _opened(self, index: int) -> Iterator[tuple[BinaryIO, str]]:
        entry = self.entries[index]
        where = f"{self.path}: {entry}" if is_zip(self.path) else f"{self.path / entry}"
        try:
            size = _size(self.path, entry)
            if size > LARGEST_JPEG:
                raise UserError(
                    f"{where} has {size} bytes, too large for a {WIDTH}x{HEIGHT} JPEG: {AGAIN}"
                )
            with _open(self.path, entry) as stream:
                yield stream, where
        except zip_files.DAMAGE as error:
            raise UserError(f"{where}: cannot be read ({error}): {AGAIN}") from None


def places(path: Path) -> dict[str, str]:
    """Where in a folder or zip each image is, by name.

    Raises:
        UserError: a JPEG that is not named as the competition's are, or a name that stands there
            twice.
    """
    found: dict[str, str] = {}
    for entry in entries(path):
        name = entry.rpartition("/")[2]
        if not NAME.fullmatch(name):
            raise UserError(
                f"{path}: '{entry[:80]}' is not named as an image of the competition, "
                "as in 0002cc93b.jpg: remove it"
            )
        if name in found:
            raise UserError(
                f"{path}: {name} stands in it twice ({found[name]}, {entry}): keep "
                "the one that counts"
            )
        found[name] = entry
    return found


def entries(path: Path) -> list[str]:
    """The JPEGs in a folder or zip, without the hidden files that some systems add."""
    inside = _zip_entries(path) if is_zip(path) else _folder_entries(path)
    parts = [(entry, entry.split("/")) for entry in inside if entry.lower().endswith(".jpg")]
    return sorted(
        entry for entry, part in parts if part[0] != "__MACOSX" and not part[-1].startswith(".")
    )


def _folder_entries(path: Path) -> list[str]:
    return [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]


def _zip_entries(path: Path) -> list[str]:
    try:
        return [info.filename for info in zip_files.entries(_archive(path), path)]
    except zip_files.DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error}): {AGAIN}") from None


def is_zip(path: Path) -> bool:
    return path.suffix == ".zip"


def _size(path: Path, entry: str) -> int:
    """Bytes of a file in a folder or zip, unpacked."""
    return (
        _archive(path).getinfo(entry).file_size if is_zip(path) else (path / entry).stat().st_size
    )


def _open(path: Path, entry: str) -> BinaryIO:
    return _archive(path).open(entry) if is_zip(path) else open(path / entry, "rb")


def _archive(path: Path) -> zipfile.ZipFile:
    """An open zip, the same on every call while the file stays as it is."""
    return _archive_of(path, path.stat().st_mtime_ns, os.getpid())


@lru_cache(maxsize=2)
def _archive_of(path: Path, changed: int, process: int) -> zipfile.ZipFile:
    """A forked process opens its own: it would share the position in the file with its parent."""
    return zipfile.ZipFile(path)


def _jpeg(stream: BinaryIO, where: str) -> JpegImageFile:
    """A JPEG of the competition's size; only its header has been read, so that none can unpack
    to more than its 400 KiB.
    """
    photograph = JpegImageFile(stream)
    if photograph.size != (WIDTH, HEIGHT):
        width, height = photograph.size
        raise UserError(
            f"{where} has {width}x{height} pixels instead of {WIDTH}x{HEIGHT}: it is "
            "no image of the competition"
        )
    return photograph
