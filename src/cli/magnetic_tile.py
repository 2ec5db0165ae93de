"""The magnetic-tile defects of Huang et al. (2020), laid out as images of one's own: the
competition "folder" reads the result.

    python -m src.cli.magnetic_tile FROM data/raw/magnetic_tile

FROM holds MT_<class>/Imgs/exp<E>_num_<N>.jpg and a .png of the same name, its mask. A fifth of the
groups below, spread over the classes, goes to test/images, with their truth in test/masks, which no
training reads.

What identifies a tile. Measured on 692 of the 1,344 images (all with defects, 300 without): N, the
place in one long recording, tells the tile, and E, 0 to 6, the lighting under which it was taken.
In the order of N the lightings run 1, 2, ... 6 and start again. Of 433 neighbours in that order, at
most 60 apart, whose E rises, the thumbnails of 16x16 correlate by .98 in the median; of 229 where E
does not rise, by .36. Correlation alone does not tell tiles apart: of pairs at most 60 apart only a
third exceeds .99, while for a fifth of the images a tile with other defects, ground on the same
machine, exceeds .95. But 14 pairs of equal size that are more than 60 apart, up to 2,559, correlate
by .997 to .9999: one tile under one lighting, handed out again under another number.

So images belong to one group if their N differ by at most `REACH`, or if their thumbnails correlate
above `ALIKE`: 176 groups. That joins some neighbouring tiles that need not be, and no image is left
with one of another group that correlates above `ALIKE`.

Source: Y. Huang, C. Qiu, K. Yuan, Surface defect saliency of magnetic tile, The Visual Computer 36
(2020), 85-96; github.com/abin24/Magnetic-tile-defect-datasets.
"""

import argparse
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse.csgraph import connected_components

from src.cli.photo_folder import check_new, write_parts
from src.competitions.formats.image_files import decode
from src.terminal import command
from src.terminal.errors import UserError

CLASSES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")  # labels 1 to 5; MT_Free has no defects
NAME = re.compile(r"exp(\d)_num_(\d{1,9})")
REACH = 400  # in N; the widest gap seen inside one tile is 356
ALIKE = 0.99
TEST_SHARE = 5  # one group of so many


@dataclass(frozen=True)
class Tiles:
    """The images in the order of their numbers."""

    path: list[Path]
    label: np.ndarray  # (N,) int, 0 for MT_Free
    number: np.ndarray  # (N,) int


def lay_out(source: Path, target: Path) -> str:
    """Write `target` as the competition "folder" reads it; returns what was written, in words.

    Raises:
        UserError: `source` holds no such images, one has no mask or a mask of another size, or
            `target` exists.
    """
    check_new(target)
    tiles = find(source)
    group = group_alike(tiles.number, thumbnails(tiles.path))
    labels, names = tiles.label.tolist(), [_name(path) for path in tiles.path]
    titles = np.array([f"tile_{own}" for own in group])

    def write(number: int, part: Path) -> None:
        _write(tiles.path[number], labels[number], part)

    return write_parts(target, names, titles, choose_test(group, tiles.label), write)


def find(source: Path) -> Tiles:
    """Every image of the data set.

    Raises:
        UserError: there is none, or one has no mask or a name of another form.
    """
    found = []
    for label, kind in enumerate(("Free", *CLASSES)):
        for path in (source / f"MT_{kind}" / "Imgs").glob("*.jpg"):
            match = NAME.fullmatch(path.stem)
            if not match:
                raise UserError(
                    f"{path} is not named exp<E>_num_<N>.jpg: it is no image of this "
                    "data set, take it away"
                )
            if not path.with_suffix(".png").is_file():
                raise UserError(
                    f"{path.with_suffix('.png')} is missing: download the data set again"
                )
            found.append((int(match[2]), label, path))
    if not found:
        raise UserError(
            f"{source} holds no MT_<class>/Imgs/*.jpg: name the folder of the downloaded data set"
        )
    number, label, path = zip(*sorted(found), strict=True)
    return Tiles(list(path), np.array(label), np.array(number))


def thumbnails(paths: list[Path]) -> np.ndarray:
    """(N, 256) float64: each image as means over a grid of 16x16, without their mean, of length
    1.
    """
    small = np.empty((len(paths), 256))
    for row, path in zip(small, paths, strict=True):
        row[:] = np.asarray(
            Image.fromarray(decode(path)[..., 0]).resize((16, 16), Image.Resampling.BOX), float
        ).ravel()
    small -= small.mean(1, keepdims=True)
    return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-9)


def group_alike(number: np.ndarray, thumbnail: np.ndarray) -> np.ndarray:
    """The group (N,) of each image: the smallest number in it, for images in ascending order of
    their numbers (N,).
    """
    linked = (np.abs(number[:, None] - number) <= REACH) | (thumbnail @ thumbnail.T > ALIKE)
    count, member = connected_components(linked, directed=False)
    first = np.array([number[member == own].min() for own in range(count)])
    return first[member]


def choose_test(group: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Whether each image (N,) is one to test on: of the groups of each kind, in order, the third of
    every five.

    A group's kind is the rarest label in it, so that rare classes are spread evenly.
    """
    count = np.bincount(label)
    kind = {
        own: min(label[group == own].tolist(), key=lambda of: (count[of], of))
        for own in np.unique(group).tolist()
    }
    chosen = []
    for one in sorted(set(kind.values())):
        chosen += [own for own in sorted(kind) if kind[own] == one][TEST_SHARE // 2 :: TEST_SHARE]
    return np.isin(group, chosen)


def _write(path: Path, label: int, target: Path) -> None:
    mask = decode(path.with_suffix(".png"))[..., 0] > 127
    if mask.shape != decode(path).shape[:2]:
        raise UserError(
            f"{path.with_suffix('.png')} is of another size than its image: download "
            "the data set again"
        )
    shutil.copyfile(path, target / "images" / _name(path))
    Image.fromarray(mask * np.uint8(label)).save(
        (target / "masks" / _name(path)).with_suffix(".png")
    )


def _name(path: Path) -> str:
    return f"{path.parts[-3].removeprefix('MT_')}_{path.name}"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("source", metavar="FROM", type=Path, help="the downloaded data set")
    arguments.add_argument(
        "target", metavar="TO", type=Path, help="a new folder, such as data/raw/magnetic_tile"
    )
    command.run(lambda options: print(lay_out(options.source, options.target)), arguments)
