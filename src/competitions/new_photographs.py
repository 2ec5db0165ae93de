"""New photographs for a trained model, in the place of a competition's test set: an image, or a
folder of images of any sizes (`src.competitions.formats.image_files`). What cannot be read is left
out, and told.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.competitions import Competition, PhotoSplit, Raw
from src.competitions.folder import ReadImage, check_kept
from src.competitions.formats.image_files import ENDINGS, LARGEST_PLACE, decode, header
from src.competitions.formats.image_pairs import listed
from src.competitions.formats.tables import write_table
from src.recipe import Data
from src.terminal.errors import UserError


def of(known: Competition, training: dict[str, Any]) -> Competition:
    """A competition that reads new photographs as the training ones of another were.

    Args:
        training: `src.artifacts.run.Run.training`.
    """
    channels, dtype = training["shape"][2], np.dtype(training["dtype"]).type

    def read(path: Path, data: Data) -> Raw:
        return read_like(path, training["classes"], channels, dtype)

    return replace(known, files=files, read=read, write_submission=write_submission)


def files(path: Path, data: Data) -> dict[str, list[Path]]:
    """Every file that `read` will read."""
    if not path.exists():
        raise UserError(f"{path} is missing: name an image, or a folder of images")
    found = [path] if path.is_file() else listed(path, ENDINGS)
    if not found:
        raise UserError(f"{path} holds no images: put files there that end in {', '.join(ENDINGS)}")
    return {"train": [], "test": found}


def read_like(path: Path, classes: list[str], channels: int, dtype: type) -> Raw:
    """The images that a network can take which was trained on so many channels of this type.

    Each is decoded once, to leave out what cannot be.

    Raises:
        UserError: there is no such image.
    """
    kept, size, refused = [], np.zeros((0, 2), np.int32), []
    for file in files(path, Data())["test"]:
        try:
            own = np.append(size, [_checked_size(file, channels, dtype)], axis=0)
        except UserError as error:
            refused.append(str(error))
            continue
        # every one gets the room of the tallest and the widest
        if np.prod(own.max(0), dtype=int) * channels * np.dtype(dtype).itemsize > LARGEST_PLACE:
            refused.append(f"{file} is too large beside the others: cut it into pieces")
            continue
        kept, size = [*kept, file], own
    if not kept:
        raise UserError(f"{path}: nothing can be predicted: {refused[0]}")
    names = np.array([file.name for file in kept], object)
    split = PhotoSplit(names, size, ReadImage(kept, channels, dtype))
    return Raw(None, split, [], classes, channels, dtype, {"refused": refused})


def _checked_size(file: Path, channels: int, dtype: type) -> tuple[int, int]:
    """Rows and columns of an image that was decoded once."""
    found = header(file)
    check_kept(file, found, channels, dtype)
    decode(file)
    return found.height, found.width


def write_submission(
    path: Path, folder: Path, names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """Write `ImageId,ClassId,EncodedPixels` and read it back (as `src.competitions.folder`)."""
    write_table(path, names, codes)
