"""The CorroSeg challenge (ENS Challenge Data no. 144, SLB): ultrasonic thickness maps of wells, cut
into 36x36 patches.

Raw files, found by pattern because their names carry random suffixes:
    X_train*, X_test*   a zip or a folder of well_{n}_patch_{k}.npy, or a CSV with a patch a row
    y_train*.csv        masks, a patch a row, also as .csv.gz or .csv.zip
A CSV has the patch's name, then 1,296 values in row-major order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from src.competitions import Competition, Raw
from src.competitions.formats import rle
from src.competitions.formats.masks import PackedMasks, pack, slices
from src.competitions.formats.patches import (
    PIXELS,
    SIZE,
    check_names,
    csv_rows,
    key_of,
    npy_files,
    read_images,
)
from src.competitions.metrics import Metric, iou
from src.recipe import Data
from src.terminal.errors import UserError

IMAGES = ("", ".csv", ".csv.gz", ".zip")  # endings; the empty one is a folder
MASKS = (".csv.gz", ".zip", ".csv")

# The first release of the masks shifted well 1 by this many patches and had a well 0; the
# organisers' correction undoes both.
SHIFT = 450


def files(folder: Path, data: Data) -> dict[str, list[Path]]:
    """Every raw file that `read` will read, by the split that it is for."""
    train = _find(folder, "X_train", IMAGES)
    test = _find(folder, "X_test", IMAGES)
    masks = _find(folder, "y_train", MASKS)
    return {"train": [*_inside(train), masks], "test": _inside(test)}


def _inside(path: Path) -> list[Path]:
    return npy_files(path) if path.is_dir() else [path]


def read(folder: Path, data: Data) -> Raw:
    """All patches and masks of a download folder.

    Raises:
        UserError: a file is missing, ambiguous, damaged or not of the challenge's format; a patch
            has no mask. What is wrong inside a .npy file is told when it is read.
    """
    train = read_images(_find(folder, "X_train", IMAGES))
    test = read_images(_find(folder, "X_test", IMAGES))
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
    key = np.array([key_of(name) for name in names])
    wells = {key_of(name)[0] for name in images}
    if 0 in wells or 0 not in key[:, 0]:
        return names, masks, []
    drop = (key[:, 0] == 0) | ((key[:, 0] == 1) & (key[:, 1] < SHIFT))
    rename = (key[:, 0] == 1) & ~drop
    renamed = np.where(rename, [f"well_1_patch_{number - SHIFT}" for number in key[:, 1]], names)
    lacking = {name for name in images if key_of(name)[0] == 1} - set(renamed[rename])
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
    for name, values in csv_rows(path):
        names.append(name)
        masks.append(np.packbits(_mask_row(values, name, path)))
    check_names(names, path)
    return np.array(names, object), PackedMasks(np.array(masks, np.uint8), (SIZE, SIZE))


def write_submission(
    path: Path, folder: Path, names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """Write the masks in the organisers' layout, a patch a row, and read them back.

    Args:
        names: (N,) every test patch in the test set's order.
        codes: (N, 1) run-length codes.

    Raises:
        UserError: what was written does not read back as these names and masks.
    """
    bits = [
        pack(rle.decode([code for (code,) in codes[rows]], SIZE, SIZE, "row"))
        for rows in slices(len(codes))
    ]
    masks = PackedMasks(np.concatenate(bits), (SIZE, SIZE))
    with open(path, "wb") as file:
        file.writelines(masks_as_csv(names, masks))
    read_names, read = read_masks(path)
    if list(read_names) != list(names) or not np.array_equal(read.bits, masks.bits):
        raise UserError(f"{path}: the submission does not read back as predicted")


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


COMPETITION = Competition(
    name="corroseg",
    kind="wells",
    source="challengedata.ens.fr/participants/challenges/144",
    files=files,
    read=read,
    metric=Metric("mean patch IoU", iou),
    write_submission=write_submission,
    order="row",
)
