"""Images with their masks, laid out for the competition "folder": most to train on, some to test.

    python -m src.cli.photo_folder FROM data/raw/my_images

FROM holds images/, masks/ (a PNG of the same name for each) and, where some images show the same
thing, groups.csv (name,group). Every fifth group goes to test/images, with its truth in test/masks,
which no training reads. Without groups.csv every image is a group of its own.
"""

import argparse
import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from src.artifacts.files import replacing_folder
from src.competitions.folder import GROUPS, read_groups
from src.competitions.formats.image_files import ENDINGS
from src.competitions.formats.image_pairs import listed, matched
from src.terminal import command
from src.terminal.errors import UserError

TEST_SHARE = 5  # one group of so many


def lay_out(source: Path, target: Path) -> str:
    """Write `target` as the competition "folder" reads it; returns what was written, in words.

    Raises:
        UserError: an image has no mask or no group, there are too few groups, or `target` exists.
    """
    check_new(target)
    images = listed(source / "images", ENDINGS)
    masks = matched(images, source / "masks", (".png",))
    known = source / "groups.csv"
    group = read_groups(known, images) if known.is_file() else np.arange(len(images))
    test = group % TEST_SHARE == TEST_SHARE // 2
    if not test.any():
        raise UserError(f"{source}: {len(np.unique(group))} groups of images are too few to split")

    def write(number: int, part: Path) -> None:
        for path, kind in ((images[number], "images"), (masks[number], "masks")):
            shutil.copyfile(path, part / kind / path.name)

    return write_parts(target, [image.name for image in images], group, test, write)


def check_new(target: Path) -> None:
    """Raises a `UserError` where `target` exists, before anything is read."""
    if target.exists():
        raise UserError(f"{target} is there already: remove it, or name another folder")


def write_parts(
    target: Path,
    names: list[str],
    group: np.ndarray,
    test: np.ndarray,
    write: Callable[[int, Path], None],
) -> str:
    """Write `target`, whose folders images/ and masks/ of train/ and test/ `write` fills, given the
    number of an image and its part; returns what was written, in words.

    Args:
        names: of the images' files; `group` (N,) is what they belong to, `test` (N,) bool.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as partial:
        for part in ("train", "test"):
            for kind in ("images", "masks"):
                (partial / part / kind).mkdir(parents=True)
        for number, in_test in enumerate(test.tolist()):
            write(number, partial / ("test" if in_test else "train"))
        with open(partial / "groups.csv", "w", encoding="utf-8", newline="") as stream:
            rows = [(names[number], group[number]) for number in np.flatnonzero(~test)]
            csv.writer(stream, lineterminator="\n").writerows([GROUPS, *rows])
    counts = [(int(own.sum()), len(np.unique(group[own]))) for own in (~test, test)]
    return "{}: {} images of {} groups to train on, {} of {} to test".format(
        target, *counts[0], *counts[1]
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("source", metavar="FROM", type=Path, help="images/ and masks/")
    arguments.add_argument(
        "target", metavar="TO", type=Path, help="a new folder, such as data/raw/my_images"
    )
    command.run(lambda options: print(lay_out(options.source, options.target)), arguments)
