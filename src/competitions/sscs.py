"""SSCS, steel structure condition states (Bianchi and Hebdon 2021): photographs of bridge steel,
every pixel good, fair, poor or severe.

data/raw/sscs/ holds the images of 512x512 as published; the case of folders' names does not matter:
    Train/Images, Train/Masks   396 JPEGs, and a PNG for each under the same name
    Test/Images, Test/Masks     44

A mask is coloured by condition state. "good" is whatever is none of the others, background
included, and so no class here.
    good (0, 0, 0)   fair (128, 0, 0) red   poor (0, 128, 0) green   severe (128, 128, 0) yellow
    in red, green, blue
The colours are those of the authors' reader (github.com/beric7/corrosion_cs_classification,
README), which lists them as blue, green, red. A mask of any other colour was shrunk with
interpolation, saved as JPEG or drawn for another set, and is refused. The reader was tried on
generated images (`src.cli.sscs_images`) only: the real ones were not at hand.

Source: E. Bianchi, M. Hebdon, Corrosion Condition State Semantic Segmentation Dataset, 2021,
doi.org/10.7294/16624663.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.competitions import Competition, PhotoSplit, Raw
from src.competitions.formats.image_files import ENDINGS, decode
from src.competitions.formats.image_pairs import ReadColour, find, listed, visible
from src.competitions.formats.tables import write_codes
from src.competitions.metrics import MEAN_DICE
from src.recipe import Data
from src.terminal.errors import UserError

# red, green, blue
COLOURS = {"good": (0, 0, 0), "fair": (128, 0, 0), "poor": (0, 128, 0), "severe": (128, 128, 0)}
CLASSES = [state for state in COLOURS if state != "good"]


def files(folder: Path, data: Data) -> dict[str, list[Path]]:
    """Every raw file that `read` will read, by the split that it is for.

    Raises:
        UserError: a folder is missing.
    """
    return {
        split: [
            path
            for kind, endings in (("images", ENDINGS), ("masks", (".png",)))
            for path in listed(_part(folder, split, kind), endings)
        ]
        for split in ("train", "test")
    }


def read(folder: Path, data: Data) -> Raw:
    """The photographs with their masks (3, H, W): fair, poor and severe. The test photographs have
    theirs too.

    Raises:
        UserError: a file is missing, damaged or of another size than its image.
    """
    return Raw(_split(folder, "train"), _split(folder, "test"), [], CLASSES, 3, np.uint8)


def write_submission(
    path: Path, folder: Path, names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """Write `ImageId,ClassId,EncodedPixels`, rows 1 fair, 2 poor and 3 severe for each test
    photograph, and read it back.

    Args:
        names: (N,) every file name of the test images, once.
        codes: (N, 3) run-length codes, "" where nothing was found.

    Raises:
        UserError: the names are not those of the test images, or the file does not read back as it
            was meant.
    """
    write_codes(path, listed(_part(folder, "test", "images"), ENDINGS), names, codes)


@dataclass(frozen=True)
class ReadStates:
    """Decodes the i-th mask: (3, H, W) uint8.

    Raises:
        UserError: a pixel has a colour that is none of `COLOURS`.
    """

    paths: list[Path]

    def __call__(self, index: int) -> np.ndarray:
        pixels = decode(self.paths[index])
        states = np.stack([(pixels == colour).all(2) for colour in COLOURS.values()])
        unknown = ~states.any(0)
        if unknown.any():
            row, column = np.argwhere(unknown)[0].tolist()
            colour = tuple(np.broadcast_to(pixels[row, column], 3).tolist())
            place = (
                f"{self.paths[index]} holds the colour {colour} in row {row}, column {column} "
                f"({unknown.sum()} such pixels)"
            )
            known = ", ".join(f"{state} {wanted}" for state, wanted in COLOURS.items())
            raise UserError(
                f"{place}, but a mask holds only {known}: get the mask as published, "
                "or resize it without interpolation"
            )
        return states[1:].astype(np.uint8)


def _split(folder: Path, split: str) -> PhotoSplit:
    pairs = find(_part(folder, split, "images"), _part(folder, split, "masks"), (".png",))
    return PhotoSplit(pairs.names, pairs.size, ReadColour(pairs.images), ReadStates(pairs.masks))


def _part(folder: Path, *names: str) -> Path:
    """The folder of these names in turn, in upper or lower case."""
    for name in names:
        found = (
            [path for path in visible(folder) if path.name.lower() == name]
            if folder.is_dir()
            else []
        )
        if len(found) != 1:
            problem = (
                f"holds both {found[0].name} and {found[1].name}: keep the one that counts"
                if found
                else f"holds no {name}/"
            )
            advice = (
                ""
                if found
                else (
                    ": put Train/ and Test/ of the data set into "
                    "data/raw/sscs/, each with Images/ and Masks/"
                )
            )
            raise UserError(f"{folder} {problem}{advice}")
        folder = found[0]
    return folder


COMPETITION = Competition(
    name="sscs",
    kind="photographs",
    source="doi.org/10.7294/16624663",
    files=files,
    read=read,
    metric=MEAN_DICE,
    write_submission=write_submission,
)
