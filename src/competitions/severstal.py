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

import numpy as np

from src.competitions import Competition, PhotoSplit, Raw
from src.competitions.formats import rle
from src.competitions.formats.severstal_jpegs import (
    AGAIN,
    HEIGHT,
    WIDTH,
    JpegReader,
    entries,
    is_zip,
    places,
)
from src.competitions.formats.severstal_tables import (
    CLASSES,
    LABELS,
    NOTHING,
    SAMPLE,
    TRAIN,
    Codes,
    Row,
    Table,
    check_code,
    find_csv,
    line_of,
    pixels_of,
    put,
    read_codes,
    read_sample,
    read_table,
)
from src.competitions.metrics import MEAN_DICE
from src.recipe import Data
from src.terminal.errors import UserError


@dataclass(frozen=True)
class MaskReader:
    """Calling it decodes the masks of the i-th image: (4, 256, 1600) uint8 of 0 and 1; classes
    may overlap.
    """

    codes: tuple[Codes, ...]

    def __call__(self, index: int) -> np.ndarray:
        return rle.decode(self.codes[index], HEIGHT, WIDTH, "column")


def files(folder: Path, data: Data) -> dict[str, list[Path]]:
    """Every raw file that `read` will read or look for, by the split that it is for: a csv, and
    JPEGs or the zip that holds them.

    Raises:
        UserError: one is missing, or images are there both as a folder and as a zip.
    """
    train, test = find_csv(folder, TRAIN), find_csv(folder, SAMPLE)
    return {
        "train": [train, *_inside(_find_train(folder))],
        "test": [test, *_inside(_find_test(folder, data))],
    }


def _inside(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return [path] if is_zip(path) else [path / entry for entry in entries(path)]


def read(folder: Path, data: Data) -> Raw:
    """The photographs of a download folder. Training images without a row in train.csv are taken as
    free of defects.

    The test images are those of the sample, in its order. `data.missing_test` says what becomes of
    those that are not at hand; left out here, they are without defects in the submission.

    Raises:
        UserError: a file is missing, ambiguous, damaged or not of the competition's format, or all
            images of train.csv are missing.
    """
    notes: list[str] = []
    train, test = _read_train(folder, notes), _read_test(folder, data, notes)
    return Raw(train, test, notes, CLASSES, 1, np.uint8)


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
    sample = read_sample(folder)
    found = _by_image(names, codes, {row.image for row in sample.rows}, folder / SAMPLE)
    lines = [",".join(sample.columns)]
    for image, listed, _ in sample.rows:
        masks = found.get(image, NOTHING)
        label = listed or 1 + int(np.argmax([pixels_of(code) for code in masks]))
        lines.append(line_of(sample.columns, Row(image, label, masks[label - 1])))
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
            check_code(code, f"prediction for {name}, class {label}")
        found[name] = tuple(masks)
    return found


def _check_submission(path: Path, sample: Table, found: dict[str, Codes]) -> None:
    """Compare what stands in the file with the sample's rows and with the predicted codes."""
    written = read_table(path, LABELS)
    same = written.columns == sample.columns and len(written.rows) == len(sample.rows)
    for row, listed in zip(written.rows, sample.rows, strict=False):
        masks = found.get(row.image, NOTHING)
        largest = max(pixels_of(code) for code in masks)
        same &= row.image == listed.image and row.code == masks[row.label - 1]
        same &= row.label == listed.label if listed.label else pixels_of(row.code) == largest
    if not same:
        raise UserError(
            f"{path}: the submission does not read back as predicted; nothing was written"
        )


def _read_train(folder: Path, notes: list[str]) -> PhotoSplit:
    path, table = _find_train(folder), find_csv(folder, TRAIN)
    codes = read_codes(table)
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
    listed = list(dict.fromkeys(row.image for row in read_sample(folder).rows))
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


def _find_train(folder: Path) -> Path:
    path = _find_images(folder, "train_images")
    if not path:
        raise UserError(
            f"{folder / 'train_images'} is missing: {put('the folder or train_images.zip', folder)}"
        )
    return path


def _find_test(folder: Path, data: Data) -> Path | None:
    path = _find_images(folder, "test_images")
    if not path and data.missing_test == "error":
        raise UserError(
            f"{folder / 'test_images'} is missing: "
            f"{_instead(put('the folder or test_images.zip', folder))}"
        )
    return path


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


COMPETITION = Competition(
    name="severstal",
    kind="photographs",
    source="kaggle.com/c/severstal-steel-defect-detection",
    files=files,
    read=read,
    metric=MEAN_DICE,
    write_submission=write_submission,
)
