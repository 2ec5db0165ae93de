"""Images with their masks laid out for the competition "folder": the parts and groups, by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.cli.photo_folder import lay_out
from src.competitions import folder as competition
from src.recipe import Data
from src.terminal.errors import UserError


def write(source: Path, groups: list[str]) -> None:
    for kind in ("images", "masks"):
        (source / kind).mkdir(parents=True)
    for number in range(len(groups)):
        pixels = np.full((4, 6, 3), number, np.uint8)
        Image.fromarray(pixels).save(source / f"images/p{number}.png")
        Image.fromarray(pixels[..., 0] % 2).save(source / f"masks/p{number}.png")
    rows = [f"p{number},{group}" for number, group in enumerate(groups)]
    (source / "groups.csv").write_text("\n".join(["name,group", *rows, ""]))


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_every_fifth_group_is_tested_on_and_none_is_parted(tmp_path):
    write(tmp_path / "from", ["a", "b", "c", "c", "d", "e", "f", "g", "h", "a"])
    told = lay_out(tmp_path / "from", tmp_path / "raw" / "own")
    target = tmp_path / "raw" / "own"
    # of the groups a to h the third and the eighth
    assert stems(target / "test/images") == stems(target / "test/masks") == {"p2", "p3", "p8"}
    assert stems(target / "train/images") == {f"p{n}" for n in (0, 1, 4, 5, 6, 7, 9)}
    assert told.endswith("7 images of 6 groups to train on, 3 of 2 to test")
    with open(target / "groups.csv", encoding="utf-8") as stream:
        group = {row["name"]: row["group"] for row in csv.DictReader(stream)}
    assert group.keys() == {f"p{n}.png" for n in (0, 1, 4, 5, 6, 7, 9)}
    assert group["p0.png"] == group["p9.png"] and len(set(group.values())) == 6
    raw = competition.read(target, Data(folder="own"))
    row = raw.train.name.tolist().index("p5.png")
    assert (raw.train.read_image(row) == 5).all() and raw.train.read_mask(row).all()


def test_without_groups_every_image_is_one(tmp_path):
    write(tmp_path / "from", list("abcde"))
    (tmp_path / "from" / "groups.csv").unlink()
    lay_out(tmp_path / "from", tmp_path / "own")
    assert stems(tmp_path / "own/test/images") == {"p2"}


def test_what_cannot_be_laid_out_is_one_line_and_leaves_nothing(tmp_path):
    write(tmp_path / "from", ["a", "b"])
    with pytest.raises(UserError, match="2 groups of images are too few"):
        lay_out(tmp_path / "from", tmp_path / "own")
    (tmp_path / "from" / "masks" / "p0.png").unlink()
    with pytest.raises(UserError, match=r"p0\.png is missing"):
        lay_out(tmp_path / "from", tmp_path / "own")
    assert not (tmp_path / "own").exists()
    (tmp_path / "own").mkdir()
    with pytest.raises(UserError, match="is there already"):
        lay_out(tmp_path / "from", tmp_path / "own")
