"""The CorroSeg challenge (ENS Challenge Data no. 144, SLB): ultrasonic thickness maps of wells, cut
into 36x36 patches.

Raw files, found by pattern because their names carry random suffixes:
    X_train*, X_test*   a zip or a folder of well_{n}_patch_{k}.npy, or a CSV with a patch a row
    y_train*.csv        masks, a patch a row, also as .csv.gz or .csv.zip
A CSV has the patch's name, then 1,296 values in row-major order.
"""

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from weakref import finalize

import numpy as np
import pandas as pd

from src.competitions import Competition, Raw, RawSplit
from src.competitions.formats import zip_files
from src.competitions.formats.masks import PackedMasks, slices
from src.scoring import metrics
from src.terminal.errors import UserError

SIZE = 36
PIXELS = SIZE * SIZE
NAME = re.compile(r"well_(0|[1-9]\d{0,4})_patch_(0|[1-9]\d{0,4})")
IMAGES = ("", ".csv", ".csv.gz", ".zip")  # endings; the empty one is a folder
MASKS = (".csv.gz", ".zip", ".csv")
LARGEST_NPY = 64 * 1024  # bytes; a patch takes 10 KiB in the widest type
LONGEST_LINE = 1 << 16  # bytes of a CSV, unpacked; twice what 1,296 numbers of full precision take
MOST_PATCHES = 1_200_000  # or lines of a CSV; a hundred times the challenge's
# patches between the first and the last of a well: a strip has room for every one
MOST_MISSING = 2_000

# The first release of the masks shifted well 1 by this many patches and had a well 0; the
# organisers' correction undoes both.
SHIFT = 450


def files(folder: Path) -> list[Path]:
    """Every raw file that `read` will read."""
    found = [
        _find(folder, "X_train", IMAGES),
        _find(folder, "X_test", IMAGES),
        _find(folder, "y_train", MASKS),
    ]
    return [file for path in found for file in (_npy_files(path) if path.is_dir() else [path])]


def read(folder: Path) -> Raw:
    """All patches and masks of a download folder.

    Raises:
        UserError: a file is missing, ambiguous, damaged or not of the challenge's format; a patch
            has no mask. What is wrong inside a .npy file is told when it is read.
    """
    train = _read_images(_find(folder, "X_train", IMAGES))
    test = _read_images(_find(folder, "X_test", IMAGES))
    masks_file = _find(folder, "y_train", MASKS)
    mask_names, masks = read_masks(masks_file)
    mask_names, masks, notes = correct_release(mask_names, masks, train.name)

    row_of = {name: row for row, name in enumerate(mask_names)}
    lacking = [name for name in train.name if name not in row_of]
    if lacking:
        raise UserError(
            f"{masks_file}: {len(lacking)} patches have no mask, first {lacking[0]}: "
            "get images and masks of one release"
        )
    spare = len(row_of) - len(train.name)
    if spare:
        notes.append(f"{masks_file.name}: {spare} masks without an image dropped")
    ordered = masks.take(np.array([row_of[name] for name in train.name]))
    return Raw(replace(train, mask=ordered), test, notes)


def correct_release(
    names: np.ndarray, masks: PackedMasks, images: np.ndarray
) -> tuple[np.ndarray, PackedMasks, list[str]]:
    """Masks of either release under the names of their images.

    The original release is recognised by masks of a well 0 that has no images. Its correction by
    the organisers: drop well 0 and the first 450 masks of well 1, and count well 1's others from 0
    again.

    Raises:
        UserError: masks of a well 0 without images, but well 1 is not numbered as in the original
            release.
    """
    key = np.array([_key(name) for name in names])
    wells = {_key(name)[0] for name in images}
    if 0 in wells or 0 not in key[:, 0]:
        return names, masks, []
    drop = (key[:, 0] == 0) | ((key[:, 0] == 1) & (key[:, 1] < SHIFT))
    rename = (key[:, 0] == 1) & ~drop
    renamed = np.where(rename, [f"well_1_patch_{number - SHIFT}" for number in key[:, 1]], names)
    lacking = {name for name in images if _key(name)[0] == 1} - set(renamed[rename])
    if lacking:
        raise UserError(
            "y_train: has masks of a well 0 without images, like the original release, but then "
            f"{len(lacking)} patches of well 1 "
            f"have no mask (first {min(lacking)}): get images and masks of one release"
        )
    note = (
        f"original release of the masks: {drop.sum()} masks of wells 0 and 1 dropped, "
        f"{rename.sum()} of well 1 renamed"
    )
    return renamed[~drop], masks.take(~drop), [note]


def read_masks(path: Path) -> tuple[np.ndarray, PackedMasks]:
    """Names (N,) and masks (N, 36, 36) of a CSV in the organisers' layout, plain or packed.

    Raises:
        UserError: the file is damaged, a row is not 1,296 values of 0 or 1, or a name is not a
            patch's or stands twice.
    """
    names, masks = [], []
    for name, values in _csv_rows(path):
        names.append(name)
        masks.append(np.packbits(_mask_row(values, name, path)))
    _check_names(names, path)
    return np.array(names, object), PackedMasks(np.array(masks, np.uint8), (SIZE, SIZE))


def write_masks(path: Path, names: Sequence[str], masks: np.ndarray | PackedMasks) -> None:
    """Write masks (N, 36, 36) of 0 and 1 in the organisers' layout: the official submission
    file.
    """
    with open(path, "wb") as file:
        file.writelines(masks_as_csv(names, masks))


def masks_as_csv(names: Sequence[str], masks: np.ndarray | PackedMasks) -> Iterator[bytes]:
    """Masks (N, 36, 36) of 0 and 1 as a CSV in the organisers' layout, some lines at a time."""
    yield b"".join(b",%d" % column for column in range(PIXELS)) + b"\n"
    for rows in slices(len(masks)):
        own = masks[rows]
        cells = np.full((len(own), PIXELS, 2), ord(","), np.uint8)
        cells[:, :, 1] = own.reshape(-1, PIXELS) + ord("0")
        yield b"".join(
            name.encode() + row.tobytes() + b"\n"
            for name, row in zip(names[rows], cells, strict=True)
        )


def _mask_row(text: bytes, name: str, path: Path) -> np.ndarray:
    """The 1,296 values of one row; `0,1,...` as bytes at once, other spellings word by word."""
    if len(text) == 2 * PIXELS - 1:
        values = np.frombuffer(text, np.uint8)[::2] - np.uint8(ord("0"))
        if (values <= 1).all():
            return values
    words = [word.strip() for word in text.split(b",")]
    for word in words:
        if word not in (b"0", b"1", b"0.0", b"1.0"):
            raise UserError(
                f"{path}: {name} holds '{word.decode('utf-8', 'replace')[:20]}' where "
                "a mask may hold only 0 or 1"
            )
    return np.array([word[:1] == b"1" for word in words], np.uint8)


def _csv_rows(path: Path) -> Iterator[tuple[str, bytes]]:
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


def _find(folder: Path, stem: str, endings: tuple[str, ...]) -> Path:
    """The one file (or, for the empty ending, folder) called `stem<anything><ending>`."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: put the challenge's files there (X_train*.zip, "
            "X_test*.zip, y_train*.csv)"
        )
    found = sorted(
        path
        for path in folder.iterdir()
        if path.name.startswith(stem) and _has_ending(path, endings)
    )
    if not found:
        raise UserError(
            f"{folder} holds no {stem}*{endings[-1]}: put the challenge's file there as downloaded"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder}: both {found[0].name} and {found[1].name} could be {stem}: "
            "keep the one that counts"
        )
    return found[0]


def _has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    return any(
        path.is_dir() if ending == "" else path.is_file() and path.name.endswith(ending)
        for ending in endings
    )


def _read_images(path: Path) -> RawSplit:
    """The patches of a zip, a folder or a CSV, in natural order."""
    names, read_one = (_zip if path.suffix == ".zip" else _folder if path.is_dir() else _image_csv)(
        path
    )
    _check_names(names, path)
    key = np.array([_key(name) for name in names], np.int32)
    _check_numbers(key[:, 0], key[:, 1], path)
    order = np.lexsort((key[:, 1], key[:, 0]))

    def read_rows(rows: np.ndarray) -> np.ndarray:
        return np.array([read_one(int(row)) for row in order[rows]], np.float32).reshape(
            -1, SIZE, SIZE
        )

    return RawSplit(np.array(names, object)[order], read_rows, key[order, 0], key[order, 1])


# names, and how to read the one in a row, (36, 36) float32
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
        with _undamaged(path):
            return _parse_npy(archive.read(infos[row]), f"{path}: {infos[row].filename}")

    return [info.filename.rpartition("/")[2].removesuffix(".npy") for info in infos], read_one


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """What decompressors raise on damaged bytes as one line."""
    try:
        yield
    except zip_files.DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error}): download it again") from None


def _npy_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*.npy") if not file.name.startswith("."))


def _folder(path: Path) -> Patches:
    files = _npy_files(path)

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
    names, lines, laid = [], _csv_rows(path), TemporaryFile()  # noqa: SIM115 - closed when nobody can read it any more
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


def _key(name: str) -> tuple[int, int]:
    """Well and patch number: the natural order."""
    match = NAME.fullmatch(name)
    assert match, name
    return int(match[1]), int(match[2])


def _check_names(names: list[str], path: Path) -> None:
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


def _check_numbers(well: np.ndarray, number: np.ndarray, path: Path) -> None:
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


COMPETITION = Competition(
    name="corroseg",
    source="challengedata.ens.fr/participants/challenges/144",
    files=files,
    read=read,
    metric="mean patch IoU",
    score=metrics.patch_iou,
    rle_order="row",
    write_masks=write_masks,
    read_masks=read_masks,
)
