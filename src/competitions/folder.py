"""Anyone's own images, in a folder of data/raw that the recipe names (`data.folder`).

train/images/     PNG, JPEG, TIFF or NPY; sizes may differ (`src.competitions.formats.image_files`)
train/masks/      a PNG for every image under the same name: 0 = no defect, 1..K = class; or 0 and
255 only, which is one class
train/masks.csv   instead of masks/: run-length codes, column-major and 1-based, as Kaggle writes
them, in the columns
                  ImageId,ClassId,EncodedPixels or ImageId_ClassId,EncodedPixels or
                  ImageId,EncodedPixels (one class); an empty code, or no row, means no defect
test/images/      what the submission is for
groups.csv        optional, name,group: training images that show the same thing, which folds must
not part
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.competitions import Competition, PhotoSplit, Raw
from src.competitions.formats import rle
from src.competitions.formats.image_files import ENDINGS, Header, decode, decode_labels, header
from src.competitions.formats.image_pairs import has_ending, listed, matched, visible
from src.competitions.formats.tables import BY_CLASS, read_csv, write_codes
from src.competitions.metrics import MEAN_DICE
from src.recipe import Data
from src.terminal.errors import UserError

MOST_CLASSES = 64  # larger labels are grey values of a picture rather than numbers of classes

JOINED = ("ImageId_ClassId", "EncodedPixels")
ONE_CLASS = ("ImageId", "EncodedPixels")
GROUPS = ("name", "group")
DTYPES = (np.float32, np.uint16, np.uint8)  # of pixels, what holds most first


def files(folder: Path, data: Data) -> dict[str, list[Path]]:
    """Every raw file that `read` will read, by the split that it is for."""
    _check_folder(folder, data)
    images = {part: _images(folder / part / "images") for part in ("train", "test")}
    masks = _masks_at(folder)
    groups = folder / "groups.csv"
    drawn = [masks] if masks.is_file() else listed(masks, (".png",))
    own = [groups] if groups.is_file() else []
    return {"train": [*images["train"], *drawn, *own], "test": images["test"]}


def read(folder: Path, data: Data) -> Raw:
    """The images of a folder and the masks of its training images, decoded when asked for.

    Integers are kept: uint8, or uint16 if any training image has 16 bit (others times 257). If any
    is of floating point all are float32, integers as 0..1. All have one channel if every training
    image has, and three otherwise.

    Raises:
        UserError: the recipe names no folder; a file is missing, damaged, too large, of another
            size than its image, or belongs to none; a test image holds more than the training
            images do.
    """
    _check_folder(folder, data)
    paths = {part: _images(folder / part / "images") for part in ("train", "test")}
    headers = {part: [header(path) for path in own] for part, own in paths.items()}
    channels = max(found.channels for found in headers["train"])
    dtype = _common_type(headers["train"])
    for path, found in zip(paths["test"], headers["test"], strict=True):
        check_kept(path, found, channels, dtype)
    train, test = (_split(paths[part], headers[part], channels, dtype) for part in paths)

    at = _masks_at(folder)
    read_coded_or_drawn = _coded_masks if at.is_file() else _drawn_masks
    classes, read_mask = read_coded_or_drawn(at, paths["train"], train.size)
    groups = folder / "groups.csv"
    group = read_groups(groups, paths["train"]) if groups.is_file() else None
    names = [str(k + 1) for k in range(classes)]
    train = replace(train, read_mask=read_mask, group=group)
    return Raw(train, test, _notes(folder, at), names, channels, dtype)


def write_submission(
    path: Path, folder: Path, names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """Write `ImageId,ClassId,EncodedPixels`, a row for each of the K classes of each test image,
    and read it back.

    Args:
        names: (N,) every file name in test/images, once.
        codes: (N, K) run-length codes, "" where nothing was found.

    Raises:
        UserError: the names are not those of test/images, or the file does not read back as it was
            meant.
    """
    write_codes(path, _images(folder / "test" / "images"), names, codes)


@dataclass(frozen=True)
class ReadImage:
    """Decodes the i-th image: (H, W, channels) of `dtype`."""

    paths: list[Path]
    channels: int
    dtype: type

    def __call__(self, index: int) -> np.ndarray:
        pixels = decode(self.paths[index])
        if pixels.dtype == np.uint8 and self.dtype is np.uint16:
            pixels = pixels * np.uint16(257)  # 255 becomes 65535
        elif pixels.dtype != self.dtype:
            pixels = pixels / np.float32(np.iinfo(pixels.dtype).max)
        return (
            pixels if pixels.shape[2] == self.channels else np.repeat(pixels, self.channels, axis=2)
        )


@dataclass(frozen=True)
class ReadDrawnMask:
    """Decodes the i-th label map: (K, H, W) uint8, where class k is drawn as `labels[k]`."""

    paths: list[Path]
    labels: list[int]

    def __call__(self, index: int) -> np.ndarray:
        drawn = decode_labels(self.paths[index])
        return np.stack([drawn == label for label in self.labels]).astype(np.uint8)


@dataclass(frozen=True)
class ReadCodedMask:
    """Decodes the i-th image's run-length codes: (K, H, W) uint8."""

    path: Path
    names: list[str]
    sizes: np.ndarray  # (N, 2) rows and columns
    codes: list[list[str]]  # (N, K)

    def __call__(self, index: int) -> np.ndarray:
        try:
            return rle.decode(self.codes[index], *self.sizes[index].tolist(), order="column")
        except ValueError as error:
            place = f"{self.path}: {self.names[index]}"
            raise UserError(
                f"{place}: {error}: write runs as 'start length', counted from 1 down the columns"
            ) from None


def _check_folder(folder: Path, data: Data) -> None:
    if data.folder is None:
        raise UserError(
            'the recipe does not say where the images are: add folder = "my_images" '
            "under [data], for data/raw/my_images/"
        )
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: put train/images/, train/masks/ and test/images/ "
            "there, or mend data.folder in the recipe"
        )


def _images(folder: Path) -> list[Path]:
    """The images of a folder in natural order of their names."""
    found = listed(folder, ENDINGS)
    if not found:
        raise UserError(
            f"{folder} holds no images: put files there that end in {', '.join(ENDINGS)}"
        )
    return found


def _notes(folder: Path, masks: Path) -> list[str]:
    """One line for each folder that holds anything but what is read from it."""
    places = [(folder / "train" / "images", ENDINGS), (folder / "test" / "images", ENDINGS)]
    notes = []
    for place, endings in [*places, *([] if masks.is_file() else [(masks, (".png",))])]:
        others = [path for path in visible(place) if not has_ending(path, endings)]
        if others:
            kinds = sorted(
                {
                    "folders" if path.is_dir() else path.suffix.lower() or "no ending"
                    for path in others
                }
            )
            notes.append(f"{place}: {len(others)} other files ignored ({', '.join(kinds)})")
    return notes


def _common_type(headers: list[Header]) -> type:
    present = {found.dtype for found in headers}
    return next(dtype for dtype in DTYPES if dtype in present)


def check_kept(path: Path, found: Header, channels: int, dtype: type) -> None:
    """Networks are made for what the training images hold; what a test image holds beyond is lost.

    Raises:
        UserError: it has colour, or wider pixels, and they have not.
    """
    if found.channels > channels:
        raise UserError(f"{path} has colour, the training images have none: save it as grey")
    if DTYPES.index(found.dtype) < DTYPES.index(dtype):
        own, most = np.dtype(found.dtype).name, np.dtype(dtype).name
        raise UserError(f"{path} has {own} pixels, the training images {most}: save it as those")


def _split(paths: list[Path], headers: list[Header], channels: int, dtype: type) -> PhotoSplit:
    names = np.array([path.name for path in paths], object)
    sizes = np.array([(found.height, found.width) for found in headers], np.int32)
    return PhotoSplit(names, sizes, ReadImage(paths, channels, dtype))


def _masks_at(folder: Path) -> Path:
    """The folder or the table with the masks."""
    drawn, coded = folder / "train" / "masks", folder / "train" / "masks.csv"
    if drawn.is_dir() == coded.is_file():
        problem = (
            "holds both masks/ and masks.csv: keep the one that counts"
            if drawn.is_dir()
            else "holds neither masks/ nor masks.csv"
        )
        raise UserError(
            f"{drawn.parent} {problem}"
            + ("" if drawn.is_dir() else ": put a PNG for every image into masks/")
        )
    return drawn if drawn.is_dir() else coded


def _drawn_masks(folder: Path, images: list[Path], sizes: np.ndarray) -> tuple[int, ReadDrawnMask]:
    """The number of classes and the reader of label maps; every one is decoded once, to see
    which labels there are.
    """
    masks = matched(images, folder, (".png",))
    first: dict[int, Path] = {}  # the first file with each label
    for mask, image, size in zip(masks, images, sizes.tolist(), strict=True):
        drawn = decode_labels(mask)
        if list(drawn.shape) != size:
            raise UserError(
                f"{mask} is {drawn.shape[0]} x {drawn.shape[1]}, but {image} "
                f"{size[0]} x {size[1]} (rows x columns): mend one"
            )
        for label in np.flatnonzero(np.bincount(drawn.ravel())).tolist():
            first.setdefault(label, mask)
    labels = _class_labels(first, folder)
    return len(labels), ReadDrawnMask(masks, labels)


def _class_labels(first: dict[int, Path], folder: Path) -> list[int]:
    """The label of each class: 1..K, or 255 alone where no other is seen."""
    largest = max(first)
    if largest == 0:
        raise UserError(
            f"{folder}: no mask shows any defect, so there is nothing to learn: check "
            "how the masks were saved"
        )
    if first.keys() <= {0, 255}:
        return [255]
    if largest > MOST_CLASSES:
        advice = (
            f"draw classes as 1 to at most {MOST_CLASSES}, or a single class as 0 and 255 "
            "only in every mask"
        )
        raise UserError(f"{first[largest]} holds the label {largest}: {advice}")
    return list(range(1, largest + 1))


def _coded_masks(path: Path, images: list[Path], sizes: np.ndarray) -> tuple[int, ReadCodedMask]:
    """The number of classes and the reader of run-length codes."""
    columns, rows = read_csv(path, [BY_CLASS, JOINED, ONE_CLASS])
    index_of = _index_of(images)
    codes: dict[tuple[int, int], str] = {}
    for row in rows:
        name, number = (
            (row[0].rpartition("_")[::2])
            if columns == JOINED
            else (row[0], row[1] if columns == BY_CLASS else "1")
        )
        if not re.fullmatch(r"[1-9][0-9]?", number) or int(number) > MOST_CLASSES:
            raise UserError(
                f"{path}: {row[0][:80]} has the class '{number[:20]}': number classes "
                f"from 1 to at most {MOST_CLASSES}"
            )
        if name not in index_of:
            raise UserError(
                f"{path}: {name[:80]} is no image in {images[0].parent}: take its row "
                "away, or put the image there"
            )
        if (index_of[name], int(number)) in codes:
            raise UserError(
                f"{path}: {name}, class {number}, stands in it twice: join the runs in one row"
            )
        codes[index_of[name], int(number)] = row[-1]
    if not any(code.strip() for code in codes.values()):
        raise UserError(
            f"{path}: no row shows any defect, so there is nothing to learn: check "
            "how the codes were written"
        )
    # also one that is listed and never found: the submission has it
    classes = max(number for _, number in codes)
    ordered = [
        [codes.get((index, k + 1), "") for k in range(classes)] for index in range(len(images))
    ]
    return classes, ReadCodedMask(path, [image.name for image in images], sizes, ordered)


def read_groups(path: Path, images: list[Path]) -> np.ndarray:
    """The group (N,) int32 of each training image, numbered in the order of the groups' names."""
    index_of = _index_of(images)
    texts = [""] * len(images)
    for name, text in read_csv(path, [GROUPS])[1]:
        if name not in index_of:
            raise UserError(
                f"{path}: {name[:80]} is no image in {images[0].parent}: list training images only"
            )
        if not text or texts[index_of[name]]:
            problem = (
                "stands in it twice: keep one row"
                if text
                else ("has no group: write any name, one of its own if it is like no other")
            )
            raise UserError(f"{path}: {name} {problem}")
        texts[index_of[name]] = text
    if "" in texts:
        lacking = images[texts.index("")].name
        raise UserError(
            f"{path}: {texts.count('')} training images have no group, first "
            f"{lacking}: list every one, or remove groups.csv"
        )
    return np.unique(texts, return_inverse=True)[1].astype(np.int32)


def _index_of(images: list[Path]) -> dict[str, int]:
    """The number of each image by its name, with and without the ending."""
    return {image.stem: index for index, image in enumerate(images)} | {
        image.name: index for index, image in enumerate(images)
    }


COMPETITION = Competition(
    name="folder",
    kind="photographs",
    source="your own images: README.md",
    files=files,
    read=read,
    metric=MEAN_DICE,
    write_submission=write_submission,
)
