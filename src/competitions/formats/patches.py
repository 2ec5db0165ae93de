"""Patches as the CorroSeg challenge packs them: .npy files in a zip or a folder, or a CSV."""

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from weakref import finalize

import numpy as np
import pandas as pd

from src.competitions import PatchSplit
from src.competitions.formats import zip_files
from src.terminal.errors import UserError

SIZE = 36
PIXELS = SIZE * SIZE
NAME = re.compile(r"well_(0|[1-9]\d{0,4})_patch_(0|[1-9]\d{0,4})")
LARGEST_NPY = 64 * 1024  # bytes; a patch takes 10 KiB in the widest type
LONGEST_LINE = 1 << 16  # bytes of a CSV, unpacked; twice what 1,296 numbers of full precision take
MOST_PATCHES = 1_200_000  # or lines of a CSV; a hundred times the challenge's
# patches between the first and the last of a well: a strip has room for every one
MOST_MISSING = 2_000


def csv_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the 1,296 values, as text, of every row of a CSV, plain, gzipped or zipped; a
    row at a time is in memory.
    """
    with _undamaged(path), _opened_csv(path) as stream:
        header = stream.readline(LONGEST_LINE).rstrip(b"\r\n")
        if header.split(b",")[1:] != [str(column).encode() for column in range(PIXELS)]:
            raise UserError(
                f"{path}: the first line must be a name column and the columns 0 to "
                f"{PIXELS - 1}: download it again"
            )
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE), b""), start=2):
            row = line.rstrip(b"\r\n")
            name, _, values = row.partition(b",")
            if number > MOST_PATCHES or len(line) == LONGEST_LINE:
                raise UserError(
                    f"{path}: line {number} is too long, or one too many, for a file "
                    "of the challenge: download it again"
                )
            if row and row.count(b",") != PIXELS:
                start = name.decode("utf-8", "replace")[:80]
                raise UserError(
                    f"{path}: {start} has {row.count(b',')} values instead of "
                    f"{PIXELS}: download it again"
                )
            if row:
                yield name.decode("utf-8", "replace"), values


@contextmanager
def _opened_csv(path: Path) -> Iterator[BinaryIO]:
    if path.suffix != ".zip":
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        inside = [
            info for info in zip_files.entries(archive, path) if info.filename.endswith(".csv")
        ]
        if len(inside) != 1:
            raise UserError(f"{path}: holds {len(inside)} CSV files instead of one")
        with archive.open(inside[0]) as stream:
            yield stream


def read_images(path: Path) -> PatchSplit:
    """The patches of a zip, a folder or a CSV, in natural order."""
    if path.is_dir():
        return in_order(*npy_patches(npy_files(path)), path)
    return in_order(*(_zip if path.suffix == ".zip" else _image_csv)(path), path)


def in_order(names: list[str], read_one: Callable[[int], np.ndarray], path: Path) -> PatchSplit:
    """Patches by the numbers in their names; `path` is what to blame."""
    check_names(names, path)
    key = np.array([key_of(name) for name in names], np.int32)
    check_numbers(key[:, 0], key[:, 1], path)
    order = np.lexsort((key[:, 1], key[:, 0]))

    def read_rows(rows: np.ndarray) -> np.ndarray:
        return np.array([read_one(int(row)) for row in order[rows]], np.float32).reshape(
            -1, SIZE, SIZE
        )

    return PatchSplit(np.array(names, object)[order], read_rows, key[order, 0], key[order, 1])


Patches = tuple[list[str], Callable[[int], np.ndarray]]


def _zip(path: Path) -> Patches:
    """The patches of a zip, which stays open for as long as they may be read."""
    with _undamaged(path):
        archive = zipfile.ZipFile(path)
        inside = zip_files.entries(archive, path)
        if len(inside) > MOST_PATCHES:
            raise UserError(
                f"{path}: holds {len(inside)} files, a hundred times as many as the "
                "challenge has: download it again"
            )
        infos = [info for info in inside if info.filename.endswith(".npy")]
        for info in infos:
            if info.file_size > LARGEST_NPY:
                problem = (
                    f"{info.filename} is {info.file_size} bytes, too large for a "
                    f"{SIZE}x{SIZE} patch"
                )
                raise UserError(f"{path}: {problem}: download it again")

    def read_one(row: int) -> np.ndarray:
        with _undamaged(path), archive.open(infos[row]) as stream:
            return _parse_npy(zip_files.whole(stream), f"{path}: {infos[row].filename}")

    return [info.filename.rpartition("/")[2].removesuffix(".npy") for info in infos], read_one


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """What decompressors raise on damaged bytes as one line."""
    try:
        yield
    except zip_files.DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error}): download it again") from None


def npy_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*.npy") if not file.name.startswith("."))


def npy_patches(files: list[Path]) -> Patches:
    """The names of patches in .npy files, and their reader."""

    def read_one(row: int) -> np.ndarray:
        try:
            with open(files[row], "rb") as stream:
                content = stream.read(LARGEST_NPY)
        except OSError as error:
            raise UserError(
                f"{files[row]}: cannot be read ({error.strerror}): download it again"
            ) from None
        return _parse_npy(content, str(files[row]))

    return [file.stem for file in files], read_one


def _parse_npy(content: bytes, where: str) -> np.ndarray:
    """One (36, 36) array of real numbers out of the bytes of a .npy file; never unpickles."""
    start = 10 + int.from_bytes(content[8:10], "little")
    try:
        shape, fortran, dtype = _npy_header(content[:start])
    except Exception as error:
        # numpy's parser of headers raises whatever Python's own tokenizer raises
        raise UserError(
            f"{where} is no .npy file of version 1 ({error}): download it again"
        ) from None
    if dtype.kind not in "fiu":
        raise UserError(
            f"{where} holds values of type {dtype}, not numbers: it is no patch of the challenge"
        )
    if shape != (SIZE, SIZE):
        raise UserError(
            f"{where} has shape {shape} instead of {(SIZE, SIZE)}: it is no patch of the challenge"
        )
    if len(content) - start != PIXELS * dtype.itemsize:
        raise UserError(f"{where} is cut short or has bytes to spare: download it again")
    values = np.frombuffer(content, dtype, offset=start).reshape(
        shape, order="F" if fortran else "C"
    )
    # beyond float32 is infinite, and so invalid like any other value that is no thickness
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


@lru_cache(maxsize=16)
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type in the header of a .npy file; the patches of a download
    share theirs.
    """
    stream = io.BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("a later version")
    return np.lib.format.read_array_header_1_0(stream)


def _image_csv(path: Path) -> Patches:
    """The patches of a CSV, which are laid into a temporary file: lines may stand in any order,
    and be packed.
    """
    names, lines, laid = [], csv_rows(path), TemporaryFile()  # noqa: SIM115 - closed when nobody can read it any more
    while rows := list(islice(lines, 1000)):
        names += [name for name, _ in rows]
        content = io.BytesIO(b"\n".join(values for _, values in rows))
        options = {
            "quoting": csv.QUOTE_NONE,
            "lineterminator": "\n",
            "encoding_errors": "replace",
            "low_memory": False,
        }
        # neither quotes nor carriage returns make two cells one, or one line two
        table = pd.read_csv(content, header=None, **options)
        text = [column for column in table.columns if table[column].dtype.kind not in "fiu"]
        if text:
            raise UserError(
                f"{path}: column {text[0]} holds text where only numbers may stand: "
                "download it again"
            )
        with np.errstate(over="ignore"):  # as in a .npy file
            laid.write(np.ascontiguousarray(table.to_numpy(np.float32)).data)

    def read_one(row: int) -> np.ndarray:
        laid.seek(4 * PIXELS * row)
        return np.frombuffer(laid.read(4 * PIXELS), np.float32).reshape(SIZE, SIZE)

    finalize(read_one, laid.close)
    return names, read_one


def key_of(name: str) -> tuple[int, int]:
    """Well and patch number: the natural order."""
    match = NAME.fullmatch(name)
    assert match, name
    return int(match[1]), int(match[2])


def check_names(names: list[str], path: Path) -> None:
    if not names:
        raise UserError(f"{path}: holds no patches")
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(
                f"{path}: '{name[:80]}' is not named well_<n>_patch_<k> with plain "
                "numbers below 100,000"
            )
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{path}: {name} stands in it twice: keep the one that counts")
        seen.add(name)


def check_numbers(well: np.ndarray, number: np.ndarray, path: Path) -> None:
    """Refuse a well whose patches are numbered far apart: its strip would have room for all that
    are missing.
    """
    for own in np.unique(well):
        numbers = number[well == own]
        missing = int(np.ptp(numbers)) + 1 - len(numbers)
        if missing > MOST_MISSING:
            problem = (
                f"well {own} has patches {numbers.min()} to {numbers.max()}, but {missing} "
                "of them are missing"
            )
            raise UserError(
                f"{path}: {problem}: get the whole well, or take away what does not belong to it"
            )
