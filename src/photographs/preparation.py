"""From the organisers' photographs to train.h5 and test.h5, one photograph in memory at a time.

Photographs keep their values; those smaller than the largest lie in the upper left corner of their
place, and `size` says how large they are. Beside the arrays of the contract there are `size` (N,
2), `moments` (N, 2, C), the mean and mean square of each channel, white being 1, `frame` (N,) where
they are a video's, and for training `shows` (N, K), which classes of defects a photograph shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.artifacts import hdf5, lineage
from src.artifacts.hdf5 import Writer
from src.artifacts.run import Run
from src.competitions import PhotoSplit, Raw
from src.competitions.formats.image_files import LARGEST_PLACE
from src.photographs import duplicates
from src.recipe import Folds
from src.scoring import folds
from src.terminal.errors import UserError

BLOCK = 1 << 22  # pixels whose moments are taken at a time
WHITE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # what counts as white in each type


def prepare(run: Run, splits: list[str]) -> Iterator[str]:
    """Write some splits' prepared files; yields what the user should know."""
    raw = run.competition.read(run.raw, run.recipe.data)
    yield from raw.notes
    for split in splits:
        own = first(raw.train, run.recipe.data.patches) if split == "train" else raw.test
        _check_place(own, raw, run.raw)
        yield from (write_train if split == "train" else write_test)(run, own, raw)


def write_train(run: Run, split: PhotoSplit, raw: Raw) -> Iterator[str]:
    """Write train.h5; yields a table of its folds."""
    settings = run.recipe.folds
    with hdf5.writing(run.prepared("train"), lineage.prepared(run, "train")) as file:
        thumbnails, shows = _write_split(file, split, raw)
        group = _groups(split, thumbnails, settings)
        label = np.column_stack([shows, ~shows.any(1)])
        usable = np.ones(len(group), bool)
        fold, excluded = folds.assign(group, label, usable, settings, split.frame)
        known = {"group": group, "shows": shows, "fold": fold, "excluded": excluded}
        for name, array in known.items():
            file.put(name, array)
    yield from summary(raw.classes, shows, group, fold)
    left_out = fold < 0
    if left_out.any():
        yield f"{left_out.sum()} training photographs are in no fold: {excluded[left_out][0]}"


def write_test(run: Run, split: PhotoSplit, raw: Raw) -> Iterator[str]:
    """Write test.h5."""
    with hdf5.writing(run.prepared("test"), lineage.prepared(run, "test")) as file:
        _write_split(file, split, raw)
        file.metadata.update(raw.about)
        file.put("group", np.full(len(split.name), -1, np.int32))
    yield f"{len(split.name)} test photographs"


def _check_place(split: PhotoSplit, raw: Raw, folder: Path) -> None:
    """Every photograph has the room of the tallest and the widest one, which must fit in memory
    several times over.
    """
    height, width = split.size.max(0, initial=1).tolist()
    room = (
        height
        * width
        * max(
            raw.channels * np.dtype(raw.dtype).itemsize, len(raw.classes) if split.read_mask else 0
        )
    )
    if room > LARGEST_PLACE:
        tallest, widest = split.name[split.size.argmax(0)]
        problem = (
            f"with the height of {tallest} ({height}) and the width of {widest} ({width}) "
            f"every photograph takes {room >> 20} MiB"
        )
        raise UserError(
            f"{folder}: {problem}, more than {LARGEST_PLACE >> 20}: cut photographs "
            "into pieces of about the same size"
        )


def first(split: PhotoSplit, count: int | None) -> PhotoSplit:
    """A split of at most `count` photographs, evenly spread over their order."""
    if count is None or count >= len(split.name):
        return split
    rows = np.linspace(0, len(split.name) - 1, count).round().astype(int)
    group, frame = (None if array is None else array[rows] for array in (split.group, split.frame))
    read_mask = None if split.read_mask is None else _Picked(split.read_mask, rows)
    return PhotoSplit(
        split.name[rows], split.size[rows], _Picked(split.read_image, rows), read_mask, group, frame
    )


def _groups(train: PhotoSplit, thumbnails: np.ndarray, settings: Folds) -> np.ndarray:
    """What folds never part (N,): the stretches of a video, the competition's own groups, or
    photographs that look alike.
    """
    if train.frame is None:
        return duplicates.groups(thumbnails) if train.group is None else train.group
    if settings.scheme == "group":
        raise UserError(
            "the photographs are frames of one video, which only its order divides: "
            'set scheme = "blocks" in [folds]'
        )
    return folds.blocks(train.frame, settings.number)


@dataclass(frozen=True)
class _Picked:
    """A reader of some rows of another reader's."""

    read: object
    rows: np.ndarray

    def __call__(self, row: int) -> np.ndarray:
        return self.read(int(self.rows[row]))


def _write_split(file: Writer, split: PhotoSplit, raw: Raw) -> tuple[np.ndarray, np.ndarray]:
    """Write a split; returns thumbnails (N, 256) and which classes are shown (N, K)."""
    count, (height, width) = len(split.name), split.size.max(0, initial=1)
    white = WHITE[np.dtype(raw.dtype).name]
    file.metadata.update(classes=raw.classes, white=white)
    file.put("name", split.name)
    file.put("size", split.size.astype(np.int32))
    if split.frame is not None:
        file.put("frame", split.frame)
    file.create("image", (count, height, width, raw.channels), raw.dtype, compressed=True)
    if split.read_mask:
        file.create("mask", (count, len(raw.classes), height, width), np.uint8, compressed=True)
    thumbnails = np.zeros((count, np.prod(duplicates.SIZE)), np.float32)
    shows, moments = np.zeros((count, len(raw.classes)), bool), np.zeros((count, 2, raw.channels))
    for row in range(count):
        image = split.read_image(row)
        file.write("image", row, image[None])
        thumbnails[row] = duplicates.thumbnail(image)
        moments[row] = _moments(image.reshape(-1, raw.channels), white)
        if split.read_mask:
            mask = split.read_mask(row)
            file.write("mask", row, mask[None])
            shows[row] = mask.any((1, 2))
    file.put("moments", moments)
    return thumbnails, shows


def _moments(pixels: np.ndarray, white: float) -> np.ndarray:
    """Mean and mean square (2, C) of pixels (P, C), a block at a time: as floating point all of
    them may not fit in memory.
    """
    total = np.zeros((2, pixels.shape[1]))
    for start in range(0, len(pixels), BLOCK):
        bright = pixels[start : start + BLOCK] / np.float32(white)
        total += bright.sum(0, dtype=np.float64), (bright**2).sum(0, dtype=np.float64)
    return total / len(pixels)


def summary(
    classes: list[str], shows: np.ndarray, group: np.ndarray, fold: np.ndarray
) -> Iterator[str]:
    """A table of the folds, and how large the groups are that stay together."""
    sizes = np.bincount(np.unique(group, return_inverse=True)[1])
    yield (
        f"{len(fold)} training photographs; {len(sizes)} groups, the largest of {sizes.max()}, "
        "are never split"
    )
    yield "  fold  photographs  without defects  " + "  ".join(f"class {name}" for name in classes)
    for number in range(fold.max() + 1):
        own = shows[fold == number]
        cells = "  ".join(
            f"{count:{len(name) + 6}}" for name, count in zip(classes, own.sum(0), strict=True)
        )
        yield f"  {number:4}  {len(own):11}  {(~own.any(1)).sum():15}  {cells}"
