"""New photographs for a trained model, in the place of a competition's test set: an image, or a
folder (with its subfolders) of images of any sizes (`src.competitions.formats.image_files`). What
cannot be read is left out, and told.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.competitions import Competition, PhotoSplit, Raw
from src.competitions.folder import ReadImage, check_kept
from src.competitions.formats.image_files import ENDINGS, LARGEST_PLACE, decode, header
from src.competitions.formats.new_files import sorted_out
from src.competitions.formats.tables import write_table
from src.recipe import Data
from src.terminal.errors import UserError


def of(known: Competition, training: dict[str, Any]) -> Competition:
    """A competition that reads new photographs as the training ones of another were.

    Args:
        training: `src.artifacts.run.Run.training`.
    """
    read = ReadLike(training["classes"], training["shape"][2], training["dtype"])
    return replace(known, files=files, read=read, write_submission=write_submission)


def files(path: Path, data: Data) -> dict[str, list[Path]]:
    """Every file that `read` will read."""
    return {"train": [], "test": sorted_out(path, ENDINGS)[0]}


@dataclass(frozen=True)
class ReadLike:
    """Reads the images that a network can take which was trained on so many channels of a type.

    Each is decoded once, to leave out what cannot be.
    """

    classes: list[str]
    channels: int
    dtype: str

    def __call__(self, path: Path, data: Data) -> Raw:
        """
        Raises:
            UserError: there is no such image.
        """
        found, refused = sorted_out(path, ENDINGS)
        dtype, sizes = np.dtype(self.dtype).type, {}
        for file in found:
            try:
                _check_name(file, sizes)
                sizes[file] = _checked_size(file, self.channels, dtype)
            except UserError as error:
                refused.append(str(error))
        room = LARGEST_PLACE // (self.channels * np.dtype(dtype).itemsize)
        for file in _too_large(sizes, room):
            refused.append(f"{file} is too large beside the others: cut it into pieces")
            del sizes[file]
        if not sizes:
            raise UserError(f"{path}: nothing can be predicted: {refused[0]}")
        names = np.array([file.name for file in sizes], object)
        read = ReadImage(list(sizes), self.channels, dtype)
        split = PhotoSplit(names, np.array(list(sizes.values()), np.int32), read)
        about = {"refused": refused}
        return Raw(None, split, [], self.classes, self.channels, dtype, about)


def _too_large(sizes: dict[Path, tuple[int, int]], room: int) -> list[Path]:
    """The fewest of the largest images without which all fit into places of so many pixels, as tall
    as the tallest and as wide as the widest.
    """
    kept, left_out = dict(sizes), []
    while kept and np.prod(np.max(list(kept.values()), axis=0), dtype=int) > room:
        left_out.append(max(kept, key=lambda file: max(kept[file])))
        del kept[left_out[-1]]
    return left_out


def _check_name(file: Path, sizes: Iterable[Path]) -> None:
    """Refuse what is called as another file, in any letters: results go by names."""
    if file.name.lower() in {other.name.lower() for other in sizes}:
        raise UserError(f"{file}: another image is called so: give it a name of its own")


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
