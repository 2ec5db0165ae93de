"""Severstal: Steel Defect Detection (Kaggle 2019): grey photographs of steel sheets, four kinds of
defects.

Raw files, as Kaggle hands them out:
    train_images, test_images   each a folder of JPEGs, or a zip of that name
    train.csv                   masks, in one of two layouts
    sample_submission.csv       the test images and the layout of a submission
Either csv has the columns ImageId_ClassId and EncodedPixels, four rows an image, or ImageId,
ClassId and EncodedPixels, where train.csv has a row for each class that an image shows and the
sample has a row an image. Masks are run-length codes, column by column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.competitions import PhotoCompetition, Photographs, PhotoSplit
from src.competitions.formats import rle
from src.competitions.formats.severstal_jpegs import (
    AGAIN,
    HEIGHT,
    NAME,
    WIDTH,
    JpegReader,
    entries,
    is_zip,
    places,
)
from src.recipe import Data
from src.terminal.errors import UserError

CLASSES = ["1", "2", "3", "4"]
LABELS = {label: number for number, label in enumerate(CLASSES, start=1)}
NOTHING = ("",) * len(CLASSES)
FOUR_ROWS = {"ImageId_ClassId", "EncodedPixels"}
SHOWN_CLASSES = {"ImageId", "ClassId", "EncodedPixels"}
TRAIN, SAMPLE = "train.csv", "sample_submission.csv"
LARGEST_CSV = 1 << 27  # bytes; five times the real masks
MOST_LINES = 1_000_000

Codes = tuple[str, ...]  # the run-length code of each class


class Row(NamedTuple):
    """A row of train.csv or of the sample. `label` is 1 to 4, or 0 where the sample leaves the
    class to the submission.
    """

    image: str
    label: int
    code: str


class Table(NamedTuple):
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class MaskReader:
    """Calling it decodes the masks of the i-th image: (4, 256, 1600) uint8 of 0 and 1; classes
    may overlap.
    """

    codes: tuple[Codes, ...]

    def __call__(self, index: int) -> np.ndarray:
        return rle.decode(self.codes[index], HEIGHT, WIDTH, "column")


def files(folder: Path, data: Data) -> list[Path]:
    """Every raw file that `read` will read or look for: the two csv files, and the JPEGs or the
    zips that hold them.

    Raises:
        UserError: one is missing, or images are there both as a folder and as a zip.
    """
    found = [_find_csv(folder, TRAIN), _find_csv(folder, SAMPLE)]
    for path in (_find_train(folder), _find_test(folder, data)):
        if path:
            found += [path] if is_zip(path) else [path / entry for entry in entries(path)]
    return found


def read(folder: Path, data: Data) -> Photographs:
    """The photographs of a download folder. Training images without a row in train.csv are taken as
    free of defects.

    The test images are those of the sample, in its order. `data.missing_test` says what becomes of
    those that are not at hand; left out here, they are without defects in the submission.

    Raises:
        UserError: a file is missing, ambiguous, damaged or not of the competition's format, or all
            images of train.csv are missing.
    """
    notes: list[str] = []
    return Photographs(
        _read_train(folder, notes), _read_test(folder, data, notes), CLASSES, 1, np.uint8, notes
    )


def write_submission(
    path: Path, folder: Path, names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """Write the organisers' file to `path`: the rows of the sample in its order and layout, checked
    by reading them back.

    With four rows an image every class gets its code. With a row an image there is room for one
    class: the one with the most pixels (the project's own csv keeps all four). Images without
    defects, or not among `names`, get an empty code and class 1: 0, as in the sample, is no class,
    and an empty mask of one class says the same as an empty mask of any other.

    Args:
        names: N images of the sample.
        codes: for each its four run-length codes, "" where nothing was found.

    Raises:
        UserError: a name is not in the sample or stands twice, a code is none, or the file does not
            read back as written.
    """
    sample = _read_sample(folder)
    found = _by_image(names, codes, {row.image for row in sample.rows}, folder / SAMPLE)
    lines = [",".join(sample.columns)]
    for image, listed, _ in sample.rows:
        masks = found.get(image, NOTHING)
        label = listed or 1 + int(np.argmax([_pixels(code) for code in masks]))
        lines.append(_line(sample.columns, Row(image, label, masks[label - 1])))
    path.write_bytes("\n".join([*lines, ""]).encode())
    _check_submission(path, sample, found)


def _by_image(
    names: Sequence[str], codes: Sequence[Sequence[str]], known: set[str], where: Path
) -> dict[str, Codes]:
    """The four codes of each image, sure to be codes."""
    found = {}
    for name, masks in zip(names, codes, strict=True):
        if name not in known:
            raise UserError(
                f"{where} does not list {name}, which was predicted: run 00_prepare_data.py again"
            )
        if name in found:
            raise UserError(f"{name} was predicted twice: no submission can hold both")
        assert len(masks) == len(CLASSES), masks
        for label, code in enumerate(masks, start=1):
            _check_code(code, f"prediction for {name}, class {label}")
        found[name] = tuple(masks)
    return found


def _line(columns: list[str], row: Row) -> str:
    cells = {
        "ImageId": row.image,
        "ClassId": str(row.label),
        "ImageId_ClassId": f"{row.image}_{row.label}",
        "EncodedPixels": row.code,
    }
    return ",".join(cells[column] for column in columns)


def _check_submission(path: Path, sample: Table, found: dict[str, Codes]) -> None:
    """Compare what stands in the file with the sample's rows and with the predicted codes."""
    written = _read_table(path, LABELS)
    same = written.columns == sample.columns and len(written.rows) == len(sample.rows)
    for row, listed in zip(written.rows, sample.rows, strict=False):
        masks = found.get(row.image, NOTHING)
        largest = max(_pixels(code) for code in masks)
        same &= row.image == listed.image and row.code == masks[row.label - 1]
        same &= row.label == listed.label if listed.label else _pixels(row.code) == largest
    if not same:
        raise UserError(
            f"{path}: the submission does not read back as predicted; nothing was written"
        )


def _read_train(folder: Path, notes: list[str]) -> PhotoSplit:
    path, table = _find_train(folder), _find_csv(folder, TRAIN)
    codes = _read_codes(table)
    found = places(path)
    absent = {image for image in codes if image not in found}
    if len(absent) == len(codes):
        raise UserError(
            f"{path} holds none of the {len(codes)} images of {table}, first "
            f"{next(iter(codes))}: get both of one download"
        )
    if absent:
        notes.append(f"{TRAIN}: masks of {len(absent)} images that are not in {path.name} dropped")
    names = sorted(found)
    unlisted = len(names) - (len(codes) - len(absent))
    if unlisted:
        notes.append(
            f"{TRAIN}: has no row for {unlisted} of {len(names)} images: taken as free of defects"
        )
    return _split(path, found, names, MaskReader(tuple(codes.get(name, NOTHING) for name in names)))


def _read_test(folder: Path, data: Data, notes: list[str]) -> PhotoSplit:
    path = _find_test(folder, data)
    listed = list(dict.fromkeys(row.image for row in _read_sample(folder).rows))
    found = places(path) if path else {}
    absent = [name for name in listed if name not in found]
    if absent and data.missing_test == "error":
        raise UserError(
            f"{path}: {len(absent)} images of {SAMPLE} are missing, first "
            f"{absent[0]}: {_instead(AGAIN)}"
        )
    if absent:
        notes.append(
            f"{SAMPLE}: {len(absent)} of {len(listed)} images are not at hand and get empty masks"
        )
    spare = len(found) - (len(listed) - len(absent))
    if spare:
        notes.append(f"{path.name}: {spare} images that {SAMPLE} does not list left out")
    return _split(path or folder, found, [name for name in listed if name in found])


def _split(
    path: Path, entry_of: dict[str, str], names: list[str], read_mask: MaskReader | None = None
) -> PhotoSplit:
    reader = JpegReader(path, tuple(entry_of[name] for name in names))
    for index in range(len(names)):
        reader.check(index)
    size = np.tile(np.array([HEIGHT, WIDTH], np.int32), (len(names), 1))
    return PhotoSplit(np.array(names, object), size, reader, read_mask)


# The csv files


def _read_codes(path: Path) -> dict[str, Codes]:
    """The codes of every image that train.csv lists, sure to be codes."""
    found: dict[str, list[str]] = {}
    for image, label, code in _read_table(path, LABELS).rows:
        _check_code(code, f"{path}: {image}, class {label}")
        found.setdefault(image, list(NOTHING))[label - 1] = code
    return {image: tuple(codes) for image, codes in found.items()}


def _read_sample(folder: Path) -> Table:
    """The sample; in the layout of a row an image its placeholders for the class are 0."""
    path = _find_csv(folder, SAMPLE)
    columns, rows = _read_table(path, {"0": 0} | LABELS)
    if set(columns) == SHOWN_CLASSES:
        rows = [row._replace(label=0) for row in rows]
        _check_single([(row.image,) for row in rows], path)
    elif len(rows) != len(CLASSES) * len({row.image for row in rows}) or any(
        row.label == 0 for row in rows
    ):
        raise UserError(
            f"{path}: not every image has one row for each of the classes 1 to "
            f"{len(CLASSES)}: {AGAIN}"
        )
    return Table(columns, rows)


def _read_table(path: Path, labels: dict[str, int]) -> Table:
    """The rows of a csv in either layout; `labels` are the classes that may stand in it."""
    header, *lines = _csv_text(path).split("\n")
    columns = _cells(header)
    if len(set(columns)) < len(columns) or set(columns) not in (FOUR_ROWS, SHOWN_CLASSES):
        wanted = "ImageId_ClassId,EncodedPixels or ImageId,ClassId,EncodedPixels"
        raise UserError(
            f"{path}: the first line must be {wanted}, not '{header.strip()[:80]}': {AGAIN}"
        )
    rows = [
        _row(columns, line, labels, f"{path}, line {number}")
        for number, line in enumerate(lines, start=2)
        if line.strip()
    ]
    if not rows:
        raise UserError(f"{path}: has no rows: {AGAIN}")
    _check_single([(row.image, row.label) for row in rows], path)
    return Table(columns, rows)


def _row(columns: list[str], line: str, labels: dict[str, int], where: str) -> Row:
    cells = _cells(line)
    if len(cells) != len(columns):
        raise UserError(f"{where}: has {len(cells)} values instead of {len(columns)}: {AGAIN}")
    row = dict(zip(columns, cells, strict=True))
    image, label = (
        (row["ImageId"], row["ClassId"])
        if "ImageId" in row
        else row["ImageId_ClassId"].rpartition("_")[::2]
    )
    if not NAME.fullmatch(image):
        raise UserError(
            f"{where}: '{image[:80]}' is not the name of an image, as in 0002cc93b.jpg: {AGAIN}"
        )
    if label not in labels:
        raise UserError(
            f"{where}: '{label[:20]}' is no class; they are {', '.join(labels)}: {AGAIN}"
        )
    return Row(image, labels[label], row["EncodedPixels"])


def _cells(line: str) -> list[str]:
    """Neither names nor codes hold commas: quotes, which some writers put around them, and a
    carriage return at the end say nothing.
    """
    return [cell.strip().strip('"').strip() for cell in line.split(",")]


def _check_single(keys: list[tuple], path: Path) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise UserError(f"{path}: {', class '.join(map(str, key))} stands in it twice: {AGAIN}")
        seen.add(key)


def _check_code(code: str, where: str) -> None:
    try:
        # the order of pixels does not matter to what a valid code is
        rle.decode([code], 1, HEIGHT * WIDTH, "row")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _pixels(code: str) -> int:
    return sum(map(int, code.split()[1::2]))


def _csv_text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_CSV + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {AGAIN}") from None
    if len(content) > LARGEST_CSV:
        raise UserError(
            f"{path}: has more than {LARGEST_CSV >> 20} MiB, which no file of this "
            f"competition has: {AGAIN}"
        )
    if content.count(b"\n") > MOST_LINES:
        raise UserError(
            f"{path}: has more than {MOST_LINES:,} lines, which no file of this "
            f"competition has: {AGAIN}"
        )
    return content.decode("utf-8-sig", "replace")


# Folders and zips of images


def _find_csv(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f"{folder / name} is missing: {_put('it', folder)}")
    return folder / name


def _find_train(folder: Path) -> Path:
    path = _find_images(folder, "train_images")
    if not path:
        raise UserError(
            f"{folder / 'train_images'} is missing: "
            f"{_put('the folder or train_images.zip', folder)}"
        )
    return path


def _find_test(folder: Path, data: Data) -> Path | None:
    path = _find_images(folder, "test_images")
    if not path and data.missing_test == "error":
        raise UserError(
            f"{folder / 'test_images'} is missing: "
            f"{_instead(_put('the folder or test_images.zip', folder))}"
        )
    return path


def _put(what: str, folder: Path) -> str:
    return f"put {what} into {folder}, as downloaded from Kaggle"


def _instead(advice: str) -> str:
    return (
        f'{advice}, or set missing_test = "empty" in [data] of the recipe to submit empty '
        "masks for them"
    )


def _find_images(folder: Path, name: str) -> Path | None:
    """The folder `name` or the zip of that name."""
    unpacked, packed = folder / name, folder / f"{name}.zip"
    if unpacked.is_dir() and packed.is_file():
        raise UserError(
            f"{folder}: both {unpacked.name} and {packed.name} could be the images: "
            "keep the one that counts"
        )
    return unpacked if unpacked.is_dir() else packed if packed.is_file() else None


COMPETITION = PhotoCompetition(
    name="severstal",
    source="kaggle.com/c/severstal-steel-defect-detection",
    files=files,
    read=read,
    metric="mean Dice of each image and class, 1 where both are empty",
    write_submission=write_submission,
)
