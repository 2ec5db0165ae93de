"""The prepared file of a competition of photographs: written in one pass, read a photograph at a
time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch

from src import artifacts, networks
from src.artifacts import CreatedFrom, Paths, streams
from src.artifacts.streams import Stream
from src.competitions import PhotoCompetition, Photographs, PhotoSplit
from src.photographs import duplicates
from src.recipe import Folds, Recipe
from src.scoring import folds
from src.terminal.errors import UserError
from src.wells.cleaning import Scaling

# bytes; the room of each photograph in the prepared file, and that of its masks
LARGEST_PLACE = 1 << 28
BLOCK = 1 << 22  # pixels whose moments are taken at a time
FULL = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # what counts as white in each type


def prepare(
    competition: PhotoCompetition, recipe: Recipe, paths: Paths, inputs: CreatedFrom
) -> Iterator[str]:
    """Write the prepared file, one photograph in memory at a time; yields what the user should
    know.

    Photographs keep their values; smaller ones than the largest lie in the upper left corner of
    their place, `size` says how large they are. Beside the arrays of the contract there are `size`
    (N, 2), `moments` (N, 2, C), the mean and mean square of each channel, white being 1, and for
    training `shows` (N, K), which classes of defects a photograph shows.
    """
    folder = paths.raw(recipe.data.folder or competition.name)
    raw = competition.read(folder, recipe.data)
    train = first(raw.train, recipe.data.patches)
    for split in (train, raw.test):
        _check_place(split, raw, folder)
    with streams.streaming(
        paths.prepared(recipe), inputs, classes=raw.classes, white=FULL[np.dtype(raw.dtype).name]
    ) as stream:
        thumbnails, shows = _write_split(stream, "train", train, raw)
        _write_split(stream, "test", raw.test, raw)
        group = _groups(train, thumbnails, recipe.folds)
        label = np.column_stack([shows, ~shows.any(1)])
        fold, excluded = folds.assign(
            group, label, np.ones(len(group), bool), recipe.folds, train.frame
        )
        for name, array in (
            ("group", group),
            ("shows", shows),
            ("fold", fold),
            ("excluded", excluded),
        ):
            stream.put(f"train/{name}", array)
        stream.put("test/group", np.full(len(raw.test.name), -1, np.int32))
    yield from raw.notes
    yield from summary(raw.classes, shows, group, fold, len(raw.test.name))
    left_out = fold < 0
    if left_out.any():
        yield f"{left_out.sum()} training photographs are in no fold: {excluded[left_out][0]}"


def _check_place(split: PhotoSplit, raw: Photographs, folder: Path) -> None:
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


def _write_split(
    stream: Stream, where: str, split: PhotoSplit, raw: Photographs
) -> tuple[np.ndarray, np.ndarray]:
    """Write a split; returns thumbnails (N, 256) and which classes are shown (N, K)."""
    count, (height, width) = len(split.name), split.size.max(0, initial=1)
    stream.put(f"{where}/name", split.name)
    stream.put(f"{where}/size", split.size.astype(np.int32))
    nowhere = np.full(count, -1, np.int32)
    stream.put(f"{where}/depth", nowhere if split.frame is None else split.frame)
    stream.put(f"{where}/phase", nowhere)
    stream.create(f"{where}/image", (count, height, width, raw.channels), raw.dtype)
    if split.read_mask:
        stream.create(f"{where}/mask", (count, len(raw.classes), height, width), np.uint8)
    thumbnails = np.zeros((count, np.prod(duplicates.SIZE)), np.float32)
    shows, moments = np.zeros((count, len(raw.classes)), bool), np.zeros((count, 2, raw.channels))
    white = FULL[np.dtype(raw.dtype).name]
    for row in range(count):
        image = split.read_image(row)
        stream.write(f"{where}/image", row, image)
        thumbnails[row] = duplicates.thumbnail(image)
        moments[row] = _moments(image.reshape(-1, raw.channels), white)
        if split.read_mask:
            mask = split.read_mask(row)
            stream.write(f"{where}/mask", row, mask)
            shows[row] = mask.any((1, 2))
    stream.put(f"{where}/moments", moments)
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
    classes: list[str], shows: np.ndarray, group: np.ndarray, fold: np.ndarray, test: int
) -> Iterator[str]:
    """A table of the folds, and how large the groups are that stay together."""
    sizes = np.bincount(np.unique(group, return_inverse=True)[1])
    yield (
        f"{len(fold)} training and {test} test photographs; {len(sizes)} groups, the largest of "
        f"{sizes.max()}, are never split"
    )
    yield "  fold  photographs  without defects  " + "  ".join(f"class {name}" for name in classes)
    for number in range(fold.max() + 1):
        own = shows[fold == number]
        cells = "  ".join(
            f"{count:{len(name) + 6}}" for name, count in zip(classes, own.sum(0), strict=True)
        )
        yield f"  {number:4}  {len(own):11}  {(~own.any(1)).sum():15}  {cells}"


@dataclass
class Gallery:
    """A prepared split of photographs. Small arrays are at hand; images and masks are read when
    asked for, by each process itself.
    """

    path: Path
    split: str
    name: np.ndarray  # (N,) str
    size: np.ndarray  # (N, 2)
    group: np.ndarray  # (N,)
    moments: np.ndarray  # (N, 2, C)
    classes: list[str]
    white: float
    fold: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))  # (N,), for training
    # (N, K), for training
    shows: np.ndarray = field(default_factory=lambda: np.empty((0, 0), bool))
    _file: h5py.File | None = field(default=None, repr=False)

    @staticmethod
    def open(paths: Paths, recipe: Recipe, split: str) -> "Gallery":
        """
        Raises:
            UserError: the prepared file is missing, damaged, or not one of photographs.
        """
        path = paths.prepared(recipe)
        more = ["fold", "shows"] if split == "train" else []
        arrays = artifacts.read_split(path, split, ["name", "size", "group", "moments", *more])
        notes = artifacts.read_notes(path)
        return Gallery(path, split, **arrays, classes=notes["classes"], white=notes["white"])

    def __getstate__(self) -> dict[str, object]:
        # an open HDF5 file does not travel to another process
        return self.__dict__ | {"_file": None}

    def image(self, row: int) -> np.ndarray:
        """(H, W, C), values as the organisers gave them."""
        height, width = self.size[row]
        return self._read("image", np.s_[row, :height, :width])

    def mask(self, row: int) -> np.ndarray:
        """(K, H, W) uint8 of 0 and 1."""
        height, width = self.size[row]
        if len(self.shows) and not self.shows[row].any():
            return np.zeros((len(self.classes), height, width), np.uint8)  # saves unpacking it
        return self._read("mask", np.s_[row, :, :height, :width])

    def scaling(self, rows: np.ndarray) -> Scaling:
        """Mean and standard deviation of each channel over all pixels of some photographs, white
        being 1.
        """
        area = self.size[rows].prod(1)
        mean, square = np.tensordot(area / area.sum(), self.moments[rows], 1)
        return Scaling(
            mean.astype(np.float32), np.sqrt(np.maximum(square - mean**2, 1e-12)).astype(np.float32)
        )

    def _read(self, name: str, where: tuple[int | slice, ...]) -> np.ndarray:
        with artifacts.reading(self.path):
            if self._file is None:
                self._file = h5py.File(self.path)
            return self._file[f"{self.split}/{name}"][where]


def check(recipe: Recipe, paths: Paths) -> None:
    """Let every network see a crop once, without memory, so that what cannot work is found before
    anything is trained.

    Raises:
        UserError: the recipe asks for what photographs do not have, has no member that segments, or
            a network that cannot be.
    """
    classes, channels = (
        len(artifacts.read_notes(paths.prepared(recipe))["classes"]),
        artifacts.read_shape(paths.prepared(recipe), "train/image")[3],
    )
    for member in recipe.members:
        usual = type(member).model_construct()
        for key in ("augment", "height", "margin", "depth_averages", "beside"):
            if getattr(member, key) != getattr(usual, key):
                raise UserError(
                    f"member '{member.name}': {key} is for pipes; photographs have "
                    "member.photograph instead"
                )
        if member.selection != "last":
            raise UserError(
                f"member '{member.name}': selection = \"{member.selection}\" is not "
                "offered for photographs"
            )
        if member.watch and member.role == "gate":
            raise UserError(f"member '{member.name}': watch is for networks that segment")
        network = networks.sketch(networks.for_photographs(member, classes, channels))
        size = member.photograph.resize or (member.photograph.crops or [[256, 256]])[0]
        try:
            network(torch.empty(2, channels, *size, device="meta"))
        except Exception as error:
            raise UserError(
                f"member '{member.name}': network '{member.network['name']}' cannot take "
                "photographs of "
                f"{size[0]}x{size[1]} pixels ({error}): choose another size or network"
            ) from None
    if all(member.role == "gate" for member in recipe.members):
        raise UserError(
            f'{recipe.name}: a gate alone segments nothing; add a member with role = "segment"'
        )
