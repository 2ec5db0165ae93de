"""The magnetic-tile defects laid out as images of one's own: what belongs together, and nothing
on both sides.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.cli import magnetic_tile
from src.competitions import folder
from src.recipe import Data
from src.terminal.errors import UserError
from tests.moments import LIMIT

REPOSITORY = Path(__file__).parents[1]
DATA = Data(folder="magnetic_tile")


def test_tiles_are_grouped_by_their_numbers_and_their_looks() -> None:
    number = np.array([10, 30, 430, 831, 5000, 9000])
    looks = np.eye(6)
    looks[5] = looks[0]  # a twin under a far number
    assert magnetic_tile.group_alike(number, looks).tolist() == [10, 10, 10, 831, 5000, 10]


def test_the_third_of_five_groups_of_each_kind_is_tested() -> None:
    group = np.array([1, 1, *range(2, 12)])
    label = np.array([0, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0])  # group 1 holds both; 3 is the rarer
    assert np.unique(group[magnetic_tile.choose_test(group, label)]).tolist() == [3, 8]


def tiny(root: Path, **sizes: tuple[int, int]) -> Path:
    """One image of each kind with a mask; `sizes` are those of masks that do not fit."""
    for place, kind in enumerate(("Free", *magnetic_tile.CLASSES)):
        images = root / f"MT_{kind}" / "Imgs"
        images.mkdir(parents=True)
        Image.new("L", (8, 6), 90).save(images / f"exp1_num_{1000 * place}.jpg")
        Image.new("L", sizes.get(kind, (8, 6))).save(images / f"exp1_num_{1000 * place}.png")
    return root


def test_bad_downloads_are_told_in_one_line_and_leave_nothing(tmp_path: Path) -> None:
    target = tmp_path / "raw" / "tiles"
    with pytest.raises(UserError, match=r"holds no MT_<class>/Imgs/\*\.jpg"):
        magnetic_tile.lay_out(tmp_path, target)
    with pytest.raises(UserError, match=r"exp1_num_3000\.png is of another size than its image"):
        magnetic_tile.lay_out(tiny(tmp_path / "a", Crack=(6, 8)), target)
    (tiny(tmp_path / "b") / "MT_Fray" / "Imgs" / "exp1_num_4000.png").unlink()
    with pytest.raises(UserError, match=r"exp1_num_4000\.png is missing"):
        magnetic_tile.lay_out(tmp_path / "b", target)
    (tiny(tmp_path / "c") / "MT_Free" / "Imgs" / "copy.jpg").touch()
    with pytest.raises(UserError, match=r"copy\.jpg is not named"):
        magnetic_tile.lay_out(tmp_path / "c", target)
    assert not target.exists()
    assert list((tmp_path / "raw").iterdir()) == []


# The real files


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory, magnetic_tile_folder: Path) -> Path:
    target = tmp_path_factory.mktemp("raw") / "magnetic_tile"
    command = [
        sys.executable,
        "-m",
        "src.cli.magnetic_tile",
        str(magnetic_tile_folder),
        str(target),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 2
    assert again.stderr == f"error: {target} is there already: remove it, or name another folder\n"
    return target


def test_the_real_tiles_read_as_images_of_ones_own(tiles: Path, magnetic_tile_folder: Path) -> None:
    photographs = folder.read(tiles, DATA)
    assert (photographs.channels, photographs.dtype, photographs.notes) == (1, np.uint8, [])
    assert photographs.classes == ["1", "2", "3", "4", "5"]
    assert len(photographs.train.name) + len(photographs.test.name) == len(
        list(magnetic_tile_folder.glob("MT_*/Imgs/*.jpg"))
    )
    kinds = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
    for index in range(0, len(photographs.train.name), 7):
        kind, name = photographs.train.name[index].split("_", 1)
        source = magnetic_tile_folder / f"MT_{kind}" / "Imgs" / name
        np.testing.assert_array_equal(
            photographs.train.read_image(index)[..., 0], np.asarray(Image.open(source))
        )
        expected = np.zeros((5, *photographs.train.size[index]), np.uint8)
        if kind != "Free":
            expected[kinds.index(kind)] = (
                np.asarray(Image.open(source.with_suffix(".png")).convert("L")) > 127
            )
        np.testing.assert_array_equal(photographs.train.read_mask(index), expected)


def test_no_tile_is_on_both_sides_and_every_class_is(tiles: Path) -> None:
    names = {
        part: sorted(path.name for path in (tiles / part / "images").iterdir())
        for part in ("train", "test")
    }
    number = {
        part: np.array([int(name.rpartition("_")[2][:-4]) for name in own])
        for part, own in names.items()
    }
    assert np.abs(number["train"][:, None] - number["test"]).min() > 400
    thumbnail = {
        part: magnetic_tile.thumbnails([tiles / part / "images" / name for name in own])
        for part, own in names.items()
    }
    assert (thumbnail["train"] @ thumbnail["test"].T).max() <= 0.99
    for part, own in names.items():
        assert {name.split("_")[0] for name in own} == {"Free", *magnetic_tile.CLASSES}
        assert sorted(path.stem for path in (tiles / part / "masks").iterdir()) == [
            name[:-4] for name in own
        ]
    assert 0.15 < len(names["test"]) / sum(map(len, names.values())) < 0.25
    group = folder.read(tiles, DATA).train.group
    assert len(np.unique(group)) == 141
