"""Images with a drawn mask for each: folders of files, matched by their names without the
ending.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competitions.formats.image_files import ENDINGS, decode, header
from src.terminal.errors import UserError

JUNK = ("thumbs.db", "desktop.ini")  # what some systems put beside images


@dataclass(frozen=True)
class Pairs:
    """The images of a folder in natural order of their names, and the mask of each."""

    images: list[Path]
    masks: list[Path]
    size: np.ndarray  # (N, 2) int32, rows and columns

    @property
    def names(self) -> np.ndarray:
        return np.array([image.name for image in self.images], object)


@dataclass(frozen=True)
class ReadColour:
    """Decodes the i-th image: (H, W, 3) uint8; grey ones get three equal channels."""

    paths: list[Path]

    def __call__(self, index: int) -> np.ndarray:
        pixels = decode(self.paths[index])
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def find(images: Path, masks: Path, endings: tuple[str, ...]) -> Pairs:
    """The images of one folder with their masks in another; of both only the headers are read.

    Args:
        endings: of the masks.

    Raises:
        UserError: a folder is missing or empty; an image has no mask, or a mask no image; a file is
            damaged, not of 8 bit, or a mask of another size than its image.
    """
    found = listed(images, ENDINGS)
    if not found:
        raise UserError(
            f"{images} holds no images: put files there that end in {', '.join(ENDINGS)}"
        )
    drawn = matched(found, masks, endings)
    sizes = []
    for image, mask in zip(found, drawn, strict=True):
        own, other = header(image), header(mask)
        for path, head in ((image, own), (mask, other)):
            if head.dtype is not np.uint8:
                raise UserError(
                    f"{path} has {np.dtype(head.dtype).name} pixels: save it again with 8 bit"
                )
        if (own.height, own.width) != (other.height, other.width):
            mismatch = (
                f"{mask} is {other.height} x {other.width}, but {image} {own.height} x "
                f"{own.width} (rows x columns)"
            )
            raise UserError(f"{mismatch}: mend one")
        sizes.append((own.height, own.width))
    return Pairs(found, drawn, np.array(sizes, np.int32))


def matched(images: list[Path], folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The mask of each image, of the same name but for the ending.

    Raises:
        UserError: an image has no mask, or a mask no image.
    """
    mask_of = {path.stem: path for path in listed(folder, endings)}
    for image in images:
        if image.stem not in mask_of:
            missing = f"{folder / image.stem}{' or '.join(endings)} is missing"
            raise UserError(
                f"{missing}: {image} needs a mask, an all-black one where there is no defect"
            )
    stray = sorted(mask_of.keys() - {image.stem for image in images})
    if stray:
        raise UserError(
            f"{mask_of[stray[0]]} belongs to no image in {images[0].parent}: take it "
            "away, or give the image its name"
        )
    return [mask_of[image.stem] for image in images]


def listed(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files with one of these endings in natural order; no two may share a stem, by which
    images and masks are matched.

    Raises:
        UserError: there is no such folder, or names are unprintable or share a stem.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: make that folder and put files there that end in "
            f"{', '.join(endings)}"
        )
    found = sorted((path for path in visible(folder) if has_ending(path, endings)), key=natural)
    first: dict[str, Path] = {}
    for path in found:
        if not path.name.isprintable():
            raise UserError(
                f"{folder} holds a file called {path.name!a}: give it a name of plain "
                "letters and digits"
            )
        other = first.setdefault(path.stem, path)
        if other is not path:
            raise UserError(
                f"{folder}: {other.name} and {path.name} share the name {path.stem}: "
                "rename one, or keep the one that counts"
            )
    return found


def visible(folder: Path) -> list[Path]:
    """What a folder holds, without what systems hide or put there."""
    return [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in JUNK
    ]


def has_ending(path: Path, endings: tuple[str, ...]) -> bool:
    # A link that leads nowhere is no folder, counts, and is told about when it is opened.
    return path.suffix.lower() in endings and not path.is_dir()


def natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts image2 before image10."""
    # a text, a number, a text, and so on; there are digits beside these that int does not take
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name
