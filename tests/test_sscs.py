"""SSCS's colour-coded masks by hand, generated photographs, and what is wrong with bad ones."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import competitions
from src.cli import sscs_images
from src.competitions import sscs
from src.recipe import Data
from src.terminal.errors import UserError

REPOSITORY = Path(__file__).parents[1]
# What the authors' own reader calls 0 to 3, in the order in which OpenCV hands it out: blue, green,
# red.
AUTHORS = {(0, 0, 0): 0, (0, 0, 128): 1, (0, 128, 0): 2, (0, 128, 128): 3}
STATES = np.array([[0, 1, 2, 3, 0, 0], [0, 0, 2, 2, 3, 1]], np.uint8)


def png(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def coloured(states: np.ndarray) -> np.ndarray:
    """A mask in red, green, blue by the authors' table, pixel by pixel."""
    colour = {state: bgr[::-1] for bgr, state in AUTHORS.items()}
    return np.array([[colour[state] for state in row] for row in states.tolist()], np.uint8)


def write_raw(folder: Path, lower: bool = False) -> Path:
    for split, count in (("Train", 3), ("Test", 2)):
        for kind, ending in (("Images", "jpeg"), ("Masks", "png")):
            part = folder / (split.lower() if lower else split) / (kind.lower() if lower else kind)
            part.mkdir(parents=True)
            for number in range(count):
                states = np.roll(STATES, number, axis=1)
                pixels = (
                    np.full((2, 6, 3), 10 * number, np.uint8)
                    if kind == "Images"
                    else coloured(states)
                )
                Image.fromarray(pixels).save(part / f"{9 + number}.{ending}")
    return folder


@pytest.mark.parametrize("lower", [False, True])
def test_every_pixel_is_of_the_state_that_its_colour_says(tmp_path: Path, lower: bool) -> None:
    raw = sscs.read(write_raw(tmp_path, lower), Data())
    assert competitions.get("sscs") is sscs.COMPETITION
    assert (raw.classes, raw.channels, raw.dtype) == (["fair", "poor", "severe"], 3, np.uint8)
    for split, count in ((raw.train, 3), (raw.test, 2)):
        assert split.name.tolist() == [f"{9 + number}.jpeg" for number in range(count)]
        assert split.size.tolist() == [[2, 6]] * count
        assert (split.group, split.frame) == (None, None)
        for row in range(count):
            assert (split.read_image(row) == 10 * row).all()
            assert split.read_mask(row).tolist() == [
                (np.roll(STATES, row, axis=1) == k).astype(int).tolist() for k in (1, 2, 3)
            ]
    listed = sscs.files(tmp_path, Data())
    assert set(listed) == {"train", "test"}
    for split, paths in listed.items():
        folder = tmp_path / (split if lower else split.capitalize())
        assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_palette_of_the_colours_reads_alike(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    image = Image.fromarray(STATES, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(folder / "Train/Masks/9.png")
    assert sscs.read(folder, Data()).train.read_mask(0).tolist() == [
        np.equal(STATES, k).astype(int).tolist() for k in (1, 2, 3)
    ]


def test_the_submission_has_a_row_for_each_state_of_each_test_photograph(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw")
    sscs.write_submission(
        tmp_path / "out.csv", folder, ["9.jpeg", "10.jpeg"], [["1 2", "", ""], ["", "", "3 1"]]
    )
    lines = ["9.jpeg,1,1 2", "9.jpeg,2,", "9.jpeg,3,", "10.jpeg,1,", "10.jpeg,2,", "10.jpeg,3,3 1"]
    assert (tmp_path / "out.csv").read_text() == "\n".join(
        ["ImageId,ClassId,EncodedPixels", *lines, ""]
    )


def off_colour(colour: tuple[int, int, int]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        mask = coloured(STATES)
        mask[1, 3] = colour
        (folder / "Train/Masks/9.png").write_bytes(png(mask))

    return change


HERE = (
    r"9.png holds the colour \({}\) in row 1, column 3 \(1 such pixels\), but a mask holds "
    r"only good \(0, 0, 0\), fair"
)
BAD = {
    "blue": (off_colour((0, 0, 128)), HERE.format("0, 0, 128")),
    "nearly red": (off_colour((127, 0, 0)), HERE.format("127, 0, 0")),
    "labels": (
        lambda folder: (folder / "Train/Masks/9.png").write_bytes(png(STATES)),
        r"the colour \(1, 1, 1\) in row 0, column 1",
    ),
    "a pointer": (
        lambda folder: (folder / "Train/Masks/9.png").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\n"
        ),
        "git lfs",
    ),
    "a cut file": (
        lambda folder: (folder / "Train/Masks/9.png").write_bytes(png(coloured(STATES))[:40]),
        "cannot be read",
    ),
    "no mask": (lambda folder: (folder / "Test/Masks/9.png").unlink(), "needs a mask"),
    "another size": (
        lambda folder: (folder / "Train/Masks/9.png").write_bytes(png(coloured(STATES[:1]))),
        "is 1 x 6, but .* 2 x 6",
    ),
    "no folder of masks": (
        lambda folder: (folder / "Test/Masks").rename(folder / "Test/other"),
        "Test holds no masks/",
    ),
    "folders twice": (lambda folder: (folder / "train").mkdir(), "holds both"),
    "nothing": (
        lambda folder: (folder / "Train").rename(folder / "elsewhere"),
        "holds no train/: put Train/ and Test/",
    ),
}


@pytest.mark.parametrize(("change", "problem"), BAD.values(), ids=BAD.keys())
def test_what_is_bad_is_told_in_one_line(
    tmp_path: Path, change: Callable[[Path], object], problem: str
) -> None:
    folder = write_raw(tmp_path)
    change(folder)
    with pytest.raises(UserError, match=problem) as caught:
        sscs.read(folder, Data()).train.read_mask(0)
    assert "\n" not in str(caught.value)


# Generated photographs


def test_generated_photographs_are_read_and_have_about_the_published_shares(tmp_path: Path) -> None:
    sscs_images.generate(tmp_path, images=60, test_images=2, seed=1, size=96)
    raw = sscs.read(tmp_path, Data())
    assert (len(raw.train.name), len(raw.test.name)) == (60, 2)
    share = np.mean([raw.train.read_mask(row).mean((1, 2)) for row in range(60)], axis=0)
    for own, published in zip(share, (0.124, 0.072, 0.014), strict=True):
        assert published / 1.5 < own < published * 1.5
    bright = [raw.train.read_image(row).mean(2) for row in range(60)]
    masks = [raw.train.read_mask(row).astype(bool) for row in range(60)]
    means = [
        np.concatenate([image[mask[k]] for image, mask in zip(bright, masks, strict=True)]).mean()
        for k in range(3)
    ]
    assert means == sorted(means, reverse=True)  # the worse, the darker
    assert raw.train.size.tolist() == [[96, 96]] * 60


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for place, seed in (("a", 3), ("b", 3), ("c", 4)):
        sscs_images.generate(tmp_path / place, 2, 1, seed, 32)
    content = {
        place: {
            path.relative_to(tmp_path / place): path.read_bytes()
            for path in (tmp_path / place).rglob("*.*")
        }
        for place in "abc"
    }
    assert content["a"] == content["b"]
    assert len(content["a"]) == 6
    assert all(
        content["a"][name] != content["c"][name] for name in content["a"] if name.suffix == ".jpeg"
    )


@pytest.mark.parametrize("wrong", [(0, 1, 0, 64), (1, 0, 0, 64), (1, 1, -1, 64), (1, 1, 0, 4)])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="give at least one of each"):
        sscs_images.generate(tmp_path, *wrong)


def test_the_command_leaves_what_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    command = [
        sys.executable,
        "-m",
        "src.cli.sscs_images",
        str(tmp_path),
        "--images",
        "1",
        "--test-images",
        "1",
        "--size",
        "32",
    ]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert "is there already" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["train"]
