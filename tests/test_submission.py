"""The submission files of wells are read back before they get their names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import recipe
from src.artifacts import hdf5
from src.artifacts.run import Run
from src.competitions import corroseg
from src.competitions.formats import rle
from src.modality import open_run
from src.stages.submit import write_codes
from src.terminal.errors import UserError

NAMES = np.array([f"well_1_patch_{k}" for k in (0, 1, 2, 10)], object)
RECIPE = {
    "name": "system",
    "competition": "corroseg",
    "member": [{"name": "net", "network": {"name": "ring_unet"}, "phase": [{"epochs": 1}]}],
}


@pytest.fixture
def masks() -> np.ndarray:
    masks = (np.random.default_rng(0).random((4, 36, 36)) < 0.3).astype(np.uint8)
    masks[1] = 0
    masks[2] = 1
    return masks


def run_of(folder: Path, masks: np.ndarray) -> Run:
    """A run whose ensemble's file holds these masks of the test set, in another order."""
    run = open_run(recipe.parse(RECIPE, "here"), folder / "data", folder / "out")
    hdf5.write(run.prepared("test"), {"name": NAMES}, {})
    order = [2, 0, 3, 1]
    arrays = {"test/name": NAMES[order], "test/mask": masks[order][:, None]}
    arrays["test/probability"] = arrays["test/mask"].astype(np.float16)
    hdf5.write(run.ensemble, arrays, {})
    return run


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.submissions.iterdir()}


def test_both_files_hold_every_patch_in_order(tmp_path: Path, masks: np.ndarray) -> None:
    run = run_of(tmp_path, masks)
    assert all(check.passed for check in write_codes(run))
    codes = pd.read_csv(run.submission(), keep_default_na=False)
    assert codes.columns.tolist() == ["name", "rle"]
    assert codes["name"].tolist() == NAMES.tolist()
    assert codes["rle"].tolist()[1:3] == ["", "1 1296"]
    np.testing.assert_array_equal(rle.decode(codes["rle"], 36, 36, "row"), masks)

    official = pd.read_csv(run.submission("_official.csv"), index_col=0)
    assert official.index.tolist() == NAMES.tolist()
    assert official.columns.tolist() == [str(column) for column in range(1296)]
    np.testing.assert_array_equal(official.to_numpy(), masks.reshape(4, -1))


def test_a_test_patch_without_a_mask_is_named(tmp_path: Path, masks: np.ndarray) -> None:
    run = run_of(tmp_path, masks)
    hdf5.write(run.prepared("test"), {"name": np.append(NAMES, "well_9_patch_9")}, {})
    with pytest.raises(UserError, match="lacks well_9_patch_9"):
        write_codes(run)


def damaged_by(how: str):
    """The organisers' layout, written otherwise than it is read back."""
    whole = corroseg.masks_as_csv

    def rows(names: Sequence[str], masks: np.ndarray):
        head, *lines = b"".join(whole(names, masks)).splitlines(keepends=True)
        cells = lines[3].rsplit(b",", 1)
        flipped = cells[0] + (b",0\n" if cells[1] == b"1\n" else b",1\n")
        names_of = [line.partition(b",") for line in lines]
        swapped = [
            b"".join((names_of[other][0], *own[1:]))
            for own, other in zip(names_of, (1, 0, 2, 3), strict=True)
        ]
        return {
            "one pixel wrong": [head, *lines[:3], flipped],
            "names swapped": [head, *swapped],
            "rows swapped": [head, lines[1], lines[0], *lines[2:]],
            "row lost": [head, *lines[:-1]],
            "cut short": [b"".join([head, *lines])[:-100]],
        }[how]

    return rows


@pytest.mark.parametrize(
    "how", ["one pixel wrong", "names swapped", "rows swapped", "row lost", "cut short"]
)
def test_an_official_file_that_reads_back_otherwise_is_not_kept_nor_is_the_other(
    tmp_path: Path, masks: np.ndarray, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_codes(run_of(tmp_path, 1 - masks))
    run = run_of(tmp_path, masks)
    before = files(run)
    monkeypatch.setattr(corroseg, "masks_as_csv", damaged_by(how))
    with pytest.raises(UserError, match=r"system_official\.csv"):
        write_codes(run)
    assert files(run) == before and len(before) == 2


@pytest.mark.parametrize("how", ["by columns", "shifted"])
def test_run_lengths_of_other_masks_are_refused(
    tmp_path: Path, masks: np.ndarray, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_codes(run_of(tmp_path, 1 - masks))
    run, encode = run_of(tmp_path, masks), rle.encode
    before = files(run)

    def wrong(masks: np.ndarray, _: str) -> list[str]:
        order = "column" if how == "by columns" else "row"
        return encode(masks if how == "by columns" else np.roll(masks, 1, 2), order)

    monkeypatch.setattr(rle, "encode", wrong)
    with pytest.raises(UserError, match=r"system\.csv: the run lengths of well_1_patch_0"):
        write_codes(run)
    assert files(run) == before
