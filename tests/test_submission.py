"""The submission files are checked before they get their names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import competitions
from src.competitions.formats import rle
from src.terminal.errors import UserError
from src.wells import submission

CORROSEG = competitions.get("corroseg")
NAMES = np.array([f"well_1_patch_{k}" for k in (0, 1, 2, 10)], object)


@pytest.fixture
def masks() -> np.ndarray:
    masks = (np.random.default_rng(0).random((4, 36, 36)) < 0.3).astype(np.uint8)
    masks[1] = 0
    masks[2] = 1
    return masks


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "system.csv", tmp_path / "system_official.csv"


def test_both_files_hold_every_patch_in_order(files: tuple[Path, Path], masks: np.ndarray) -> None:
    submission.write(*files, NAMES, masks, CORROSEG)
    codes = pd.read_csv(files[0], keep_default_na=False)
    assert codes.columns.tolist() == ["name", "rle"]
    assert codes["name"].tolist() == NAMES.tolist()
    assert codes["rle"].tolist()[1:3] == ["", "1 1296"]
    np.testing.assert_array_equal(rle.decode(codes["rle"], 36, 36, "row"), masks)

    official = pd.read_csv(files[1], index_col=0)
    assert official.index.tolist() == NAMES.tolist()
    assert official.columns.tolist() == [str(column) for column in range(1296)]
    np.testing.assert_array_equal(official.to_numpy(), masks.reshape(4, -1))


def test_truth_values_are_as_good_as_0_and_1(
    files: tuple[Path, Path], masks: np.ndarray, tmp_path: Path
) -> None:
    submission.write(*files, NAMES, masks.astype(bool), CORROSEG)
    submission.write(tmp_path / "a.csv", tmp_path / "b.csv", NAMES, masks, CORROSEG)
    assert files[0].read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert files[1].read_bytes() == (tmp_path / "b.csv").read_bytes()


Writer = Callable[[Path, np.ndarray, np.ndarray], None]


def one_pixel_wrong(path: Path, names: np.ndarray, masks: np.ndarray) -> None:
    masks = masks.copy()
    masks[3, 35, 35] ^= 1
    CORROSEG.write_masks(path, names, masks)


def transposed(path: Path, names: np.ndarray, masks: np.ndarray) -> None:
    CORROSEG.write_masks(path, names, masks.transpose(0, 2, 1))


def names_swapped(path: Path, names: np.ndarray, masks: np.ndarray) -> None:
    CORROSEG.write_masks(path, names[[1, 0, 2, 3]], masks)


def rows_swapped(path: Path, names: np.ndarray, masks: np.ndarray) -> None:
    CORROSEG.write_masks(path, names[[1, 0, 2, 3]], masks[[1, 0, 2, 3]])


def row_lost(path: Path, names: np.ndarray, masks: np.ndarray) -> None:
    CORROSEG.write_masks(path, names[:-1], masks[:-1])


def cut_short(path: Path, names: np.ndarray, masks: np.ndarray) -> None:
    CORROSEG.write_masks(path, names, masks)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "writer", [one_pixel_wrong, transposed, names_swapped, rows_swapped, row_lost, cut_short]
)
def test_an_official_file_that_reads_back_otherwise_is_not_kept(
    files: tuple[Path, Path], masks: np.ndarray, writer: Writer
) -> None:
    submission.write(*files, NAMES, 1 - masks, CORROSEG)
    before = files[1].read_bytes()
    with pytest.raises(UserError, match=r"system_official\.csv"):
        submission.write(*files, NAMES, masks, replace(CORROSEG, write_masks=writer))
    assert files[1].read_bytes() == before
    assert sorted(path.name for path in files[0].parent.iterdir()) == [
        "system.csv",
        "system_official.csv",
    ]


def test_when_the_official_file_is_not_kept_neither_is_the_other(
    files: tuple[Path, Path], masks: np.ndarray
) -> None:
    submission.write(*files, NAMES, 1 - masks, CORROSEG)
    before = files[0].read_bytes()
    with pytest.raises(UserError, match="nothing was written"):
        submission.write(*files, NAMES, masks, replace(CORROSEG, write_masks=one_pixel_wrong))
    assert files[0].read_bytes() == before


@pytest.mark.parametrize("order", ["column", "row shifted"])
def test_run_lengths_that_read_back_otherwise_are_not_kept(
    files: tuple[Path, Path], masks: np.ndarray, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission.write(*files, NAMES, 1 - masks, CORROSEG)
    before = [file.read_bytes() for file in files]
    encode = rle.encode

    def wrong(masks: np.ndarray, _: str) -> list[str]:
        return encode(masks, "column") if order == "column" else encode(np.roll(masks, 1, 0), "row")

    monkeypatch.setattr(rle, "encode", wrong)
    with pytest.raises(UserError, match=r"system\.csv"):
        submission.write(*files, NAMES, masks, CORROSEG)
    assert [file.read_bytes() for file in files] == before
    assert len(list(files[0].parent.iterdir())) == 2


@pytest.mark.parametrize("value", [2, 255])
def test_masks_of_anything_but_0_and_1_are_refused(
    files: tuple[Path, Path], masks: np.ndarray, value: int
) -> None:
    with pytest.raises(UserError):
        submission.write(*files, NAMES, masks * np.uint8(value), CORROSEG)
    assert list(files[0].parent.iterdir()) == []
