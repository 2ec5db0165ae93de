"""NEA, a naturally eroded wall (Liu et al. 2023): frames of one video, taken by a drone, with
corrosion outlined in each.

data/raw/nea/ holds, as the repository of the pruning study has them
(github.com/gemsanyu/pruned-rust-segmentation, datasets/NEA):
    train/images, train/masks   JPEGs of 1280x720, and a mask for each under the same name
    test/images, test/masks     the same
    valid/images, valid/masks   the same, in some of its revisions; they are trained on like those
    of train
    frames.csv                  optional: frame_index,file or
    frame_index,frame_number,repo_split,file; without it names must begin
                                with the frame's number and an underscore, as 57_399_jpg.rf.e641.jpg
                                does

The masks come in two forms, by revision of that repository.
- JPEG, values 0 to 2: one class, corrosion, any value above 0. They were drawn with 1 only, and the
  2s are overshoot of the JPEG. Measured on 146 of the 292: 78.45 % of the pixels are 0, 21.54 % are
  1 and .015 % are 2; the three channels are always equal. The 2s never fill a block of 8x8, touch
  each other in at most 8 pixels, and are at most .11 % of the marked pixels of an image. Masks of 0
  and 1 packed with the same JPEG tables come back with the same share of 2s, and "above 0" is then
  wrong for .27 % of the pixels, all beside an outline; regions of 2 would come back as regions of
  2.
- PNG, values 0 to 2: the classes 1 and 2 of the annotators, which the study takes as poor and
  severe corrosion. Its scores are on these, and are not to be compared with scores on the JPEGs.

Frames of test/ and valid/ were drawn at random from between those of train/. Thumbnails of frames 2
numbers apart correlate by .87 in the median and up to .999 where the drone hovered, so a score on
test/ is largely one on what was trained on. At 20 numbers apart the most is .75 (median .31), and
of two masks at most .43 is shared (intersection over union). Hence folds by `scheme = "blocks"`
with a gap of 10, which keeps held-out frames at least 21 numbers from those trained on: their score
out of fold is the honest one, if on one wall only. test/ is never trained on, so that the study's
own split can be had with `scheme = "random"`.

Sources: X. Liu et al., A dual attention network for automatic metallic corrosion detection in
natural environment, Journal of Building Engineering 75 (2023), 107014; the pruning study, IEEE
Access 2025, 10.1109/ACCESS.2025.3562435, section 3.1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competitions import Competition, PhotoSplit, Raw
from src.competitions.formats.image_files import ENDINGS, decode, decode_labels
from src.competitions.formats.image_pairs import Pairs, ReadColour, find, listed
from src.competitions.formats.tables import read_csv, write_codes
from src.competitions.metrics import MEAN_DICE
from src.recipe import Data
from src.terminal.errors import UserError

JPEG, PNG = (".jpg", ".jpeg"), (".png",)
CLASSES = {JPEG: ["corrosion"], PNG: ["1", "2"]}
LARGEST = 2  # label
MOST_OVERSHOOT = 0.02  # of the marked pixels of a JPEG; twenty times the most that was measured
FRAMES = [("frame_index", "frame_number", "repo_split", "file"), ("frame_index", "file")]
NUMBER = re.compile(r"[0-9]{1,9}")


def files(folder: Path, data: Data) -> dict[str, list[Path]]:
    """Every raw file that `read` will read, by the split that it is for; frames.csv is for both.

    Raises:
        UserError: train/ or test/ is missing.
    """
    frames = folder / "frames.csv"
    table = [frames] if frames.is_file() else []
    return {
        split: [
            *(
                path
                for part in _parts(folder, split)
                for kind in ("images", "masks")
                for path in listed(part / kind, ENDINGS)
            ),
            *table,
        ]
        for split in ("train", "test")
    }


def read(folder: Path, data: Data) -> Raw:
    """The frames in the order of the video, with their masks, also of test/; (K, H, W) masks have K
    = 1 or 2 classes by their form.

    Raises:
        UserError: a file is missing, damaged, of another size than its image, or in two folders;
            masks are of both forms; a frame has no place in the video; no mask shows corrosion.
    """
    form = _form(folder)
    found = {
        split: [find(part / "images", part / "masks", form) for part in _parts(folder, split)]
        for split in ("train", "test")
    }
    _check_names([image for pairs in found.values() for pair in pairs for image in pair.images])
    table = folder / "frames.csv"
    position = _read_frames(table) if table.is_file() else None
    train, test = (_split(pairs, form, position, table) for pairs in found.values())
    note = (
        f"{folder / 'test'}: its {len(test.name)} frames lie between those of train/: a score on "
        "them flatters, the one out of fold counts"
    )
    return Raw(train, test, [note], CLASSES[form], 3, np.uint8)


def write_submission(
    path: Path, folder: Path, names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """Write `ImageId,ClassId,EncodedPixels`, a row for each of the K classes of each test frame,
    and read it back.

    Args:
        names: (N,) every file name in test/images, once.
        codes: (N, K) run-length codes, "" where nothing was found.

    Raises:
        UserError: the names are not those of test/images, or the file does not read back as it was
            meant.
    """
    write_codes(path, listed(folder / "test" / "images", ENDINGS), names, codes)


@dataclass(frozen=True)
class ReadCorrosion:
    """Decodes the i-th JPEG mask: (1, H, W) uint8, any value above 0 being corrosion.

    Raises:
        UserError: values or their shares are not those of a mask of 0 and 1.
    """

    paths: list[Path]

    def __call__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        value = decode(path).max(2)
        _check_labels(path, value, LARGEST + 1)  # regions of 2 would overshoot to 3
        marked = np.count_nonzero(value)
        if np.count_nonzero(value >= LARGEST) > MOST_OVERSHOOT * marked:
            raise UserError(
                f"{path} shows whole regions of class 2, which a JPEG cannot keep "
                "apart from class 1: use masks saved as PNG"
            )
        return (value > 0)[None].astype(np.uint8)


@dataclass(frozen=True)
class ReadClasses:
    """Decodes the i-th PNG mask: (2, H, W) uint8.

    Raises:
        UserError: it holds another label.
    """

    paths: list[Path]

    def __call__(self, index: int) -> np.ndarray:
        labels = decode_labels(self.paths[index])
        _check_labels(self.paths[index], labels, LARGEST)
        return np.stack([labels == 1, labels == LARGEST]).astype(np.uint8)


def _check_labels(path: Path, labels: np.ndarray, most: int) -> None:
    row, column = np.unravel_index(labels.argmax(), labels.shape)
    if labels[row, column] > most:
        place = f"{path} holds the value {labels[row, column]} in row {row}, column {column}"
        raise UserError(
            f"{place}, but masks of this set hold 0 to {LARGEST}: it is no mask, or "
            "was brightened to be looked at"
        )


def _parts(folder: Path, split: str) -> list[Path]:
    """The folders that make up a split."""
    more = [folder / "valid"] if split == "train" and (folder / "valid").is_dir() else []
    if not (folder / split).is_dir():
        raise UserError(
            f"{folder / split} is missing: put train/ and test/ of the data set "
            "there, each with images/ and masks/"
        )
    return [folder / split, *more]


def _form(folder: Path) -> tuple[str, ...]:
    """Which endings the masks have, the same in all folders."""
    masks = [
        path
        for split in ("train", "test")
        for part in _parts(folder, split)
        for path in listed(part / "masks", JPEG + PNG)
    ]
    forms = [form for form in (JPEG, PNG) if any(path.suffix.lower() in form for path in masks)]
    if len(forms) != 1:
        problem = (
            "masks both as JPEG and as PNG, which do not show the same classes"
            if forms
            else "no masks"
        )
        raise UserError(
            f"{folder} holds {problem}: take train/ and test/ from one revision of the data set"
        )
    return forms[0]


def _check_names(images: list[Path]) -> None:
    first: dict[str, Path] = {}
    for image in images:
        other = first.setdefault(image.name, image)
        if other is not image:
            raise UserError(
                f"{other} and {image} are one frame: keep the one that counts, or the "
                "same would be trained on and predicted"
            )


def _split(
    found: list[Pairs], form: tuple[str, ...], position: dict[str, int] | None, table: Path
) -> PhotoSplit:
    """The frames of some folders in the order of the video."""
    images, masks = (
        [path for pairs in found for path in pairs.images],
        [path for pairs in found for path in pairs.masks],
    )
    frame = np.array(
        [
            _named(path) if position is None else _looked_up(path, position, table)
            for path in images
        ],
        np.int32,
    )
    order = np.argsort(frame, kind="stable")
    images, masks = ([paths[row] for row in order] for paths in (images, masks))
    names, size = (
        np.array([path.name for path in images], object),
        np.concatenate([pairs.size for pairs in found])[order],
    )
    read_mask = ReadCorrosion(masks) if form == JPEG else ReadClasses(masks)
    return PhotoSplit(names, size, ReadColour(images), read_mask, frame=frame[order])


def _named(image: Path) -> int:
    """The number that a frame's name begins with."""
    number = image.name.partition("_")[0]
    if not NUMBER.fullmatch(number):
        table = image.parents[2] / "frames.csv"
        raise UserError(
            f"{image} does not begin with the number of its frame, as 57_399.jpg "
            f"does: write {table} with frame_index,file"
        )
    return int(number)


def _looked_up(image: Path, position: dict[str, int], table: Path) -> int:
    if image.name not in position:
        raise UserError(
            f"{table}: {image.name} has no row: list every image, or take the file "
            "away to go by the images' names"
        )
    return position[image.name]


def _read_frames(path: Path) -> dict[str, int]:
    """The position of each frame by its file's name."""
    columns, rows = read_csv(path, FRAMES)
    found: dict[str, int] = {}
    for row in rows:
        number, name = row[columns.index("frame_index")].strip(), row[columns.index("file")].strip()
        if not NUMBER.fullmatch(number):
            raise UserError(
                f"{path}: {name[:80]} has the frame_index '{number[:20]}': number "
                "frames along the video by whole numbers"
            )
        if name in found:
            raise UserError(f"{path}: {name[:80]} stands in it twice: keep one row")
        found[name] = int(number)
    return found


COMPETITION = Competition(
    name="nea",
    kind="photographs",
    source="github.com/gemsanyu/pruned-rust-segmentation, datasets/NEA",
    files=files,
    read=read,
    metric=MEAN_DICE,
    write_submission=write_submission,
)
