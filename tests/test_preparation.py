"""Subsets of the training patches, and scaling."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src import recipe
from src.artifacts import hdf5
from src.artifacts.run import Run
from src.competitions import PatchSplit, Raw
from src.competitions.formats import masks
from src.competitions.formats.masks import PackedMasks, pack
from src.modality import open_run
from src.wells import blocks, preparation


def split(*sizes: int) -> PatchSplit:
    group = np.repeat(np.arange(1, len(sizes) + 1), sizes).astype(np.int32)
    number = np.concatenate([np.arange(size) for size in sizes]).astype(np.int32)
    name = np.array([f"well_{g}_patch_{n}" for g, n in zip(group, number, strict=True)], object)
    image = np.random.default_rng(0).normal(size=(len(name), 36, 36)).astype(np.float32)
    return PatchSplit(
        name, lambda rows: image[rows], group, number, PackedMasks(pack(image > 1), (36, 36))
    )


@pytest.mark.parametrize("patches", [30, 60, 100])
def test_a_subset_takes_whole_pairs_from_the_top_of_every_well_by_its_share(patches):
    whole = split(100, 60, 37, 3)
    part = preparation.subset(whole, patches)
    for well, size in zip((1, 2, 3, 4), (100, 60, 37, 3), strict=True):
        numbers = part.number[part.group == well]
        assert numbers.tolist() == list(range(len(numbers)))
        assert len(numbers) >= 2 and abs(len(numbers) - patches * size / 200) <= 2
        assert len(numbers) % 2 == 0
    rows = np.flatnonzero(np.isin(whole.name, part.name))
    np.testing.assert_array_equal(part.read(np.arange(len(part.name))), whole.read(rows))
    np.testing.assert_array_equal(part.mask[:], whole.mask[rows])


def test_without_a_number_or_with_a_large_one_nothing_is_left_out():
    whole = split(5, 4)
    assert preparation.subset(whole, None) is whole
    assert preparation.subset(whole, 9) is whole


RECIPE = {
    "name": "t",
    "competition": "corroseg",
    "folds": {"count": 2},
    "member": [{"name": "a", "network": {"name": "ring_unet"}, "phase": [{"epochs": 1}]}],
}


def run_of(folder: Path, raw: Raw, how: str = "global", corrupt: str = "repair") -> Run:
    """A run of a challenge whose raw files are read as `raw`."""
    for name in ("X_train.zip", "X_test.zip", "y_train.csv"):
        (folder / "raw/corroseg").mkdir(parents=True, exist_ok=True)
        (folder / "raw/corroseg" / name).touch()
    chosen = recipe.parse(RECIPE | {"data": {"scaling": how, "corrupt": corrupt}}, "t")
    run = open_run(chosen, folder, folder)
    return replace(run, competition=replace(run.competition, read=lambda *_: raw))


def prepared_by(
    folder: Path, how: str, change=lambda train, test: None, corrupt: str = "repair"
) -> tuple[Run, dict, dict]:
    """Two wells of different level and spread, one of them with a pixel that is no measurement, and
    a test well that has none.

    The run, and both splits as prepared.
    """
    image = np.random.default_rng(0).normal(0, 1, (8, 36, 36)).astype(np.float32)
    image[4:] = 5 * image[4:] + 3
    image[5, 3, 4] = 1e6
    test = image[4:6] + 200
    change(image, test)
    train_split, test_split = split(4, 4), split(2)
    raw = Raw(
        replace(train_split, read=lambda rows: image[rows]),
        replace(test_split, read=lambda rows: test[rows], mask=None),
    )
    run = run_of(folder, raw, how, corrupt)
    list(run.modality.prepare(run, ["train", "test"]))
    return run, *(
        hdf5.read(run.prepared(part), "image", "valid", "group") for part in ("train", "test")
    )


def by_hand(values: np.ndarray) -> tuple[float, float]:
    """Median and interquartile range."""
    low, middle, high = np.percentile(values.astype(np.float64), [25, 50, 75])
    return middle, high - low


def test_both_splits_are_scaled_by_the_training_patches_alone(tmp_path):
    image = np.random.default_rng(0).normal(0, 1, (8, 36, 36)).astype(np.float32)
    image[4:] = 5 * image[4:] + 3
    measured = np.ones(image.shape, bool)
    measured[5, 3, 4] = False
    middle, spread = by_hand(image[measured])
    run, train, test = prepared_by(tmp_path, "global")
    np.testing.assert_array_equal(train["valid"], measured)
    expected = (image - middle) / spread
    np.testing.assert_allclose(train["image"][measured], expected[measured], atol=1e-5)
    assert not test["valid"].any() and not (test["image"] + middle / spread).round(5).any()
    told = hdf5.metadata(run.prepared("train"))
    assert (told["center"], told["scale"]) == pytest.approx((middle, spread))


@pytest.mark.parametrize("how", ["global", "per_pixel"])
def test_the_prepared_files_do_not_depend_on_the_blocks(tmp_path, how, monkeypatch):
    run, *whole = prepared_by(tmp_path / "whole", how)
    monkeypatch.setattr(blocks, "PATCHES", 1)
    monkeypatch.setattr("src.wells.preparation.slices", lambda number: masks.slices(number, 3))
    monkeypatch.setattr("src.wells.cleaning.slices", lambda number: masks.slices(number, 3))
    other, *parts = prepared_by(tmp_path / "parts", how)
    for part, expected in zip(parts, whole, strict=True):
        for name, array in part.items():
            np.testing.assert_array_equal(array, expected[name])
    for part in ("train", "test"):
        assert run.prepared(part).read_bytes() == other.prepared(part).read_bytes()


def test_the_training_file_does_not_know_the_test_set(tmp_path):
    def other_test(train, test):
        test[:] = 0.25

    run, *_ = prepared_by(tmp_path / "one", "global")
    other, *_ = prepared_by(tmp_path / "other", "global", other_test)
    assert run.prepared("train").read_bytes() == other.prepared("train").read_bytes()
    assert run.prepared("test").read_bytes() != other.prepared("test").read_bytes()


def test_dropping_leaves_out_patches_with_a_placeholder_and_repairs_what_is_missing(tmp_path):
    """Of a placeholder below -100 and of one pixel that is no number."""

    def corrupt(train, test):
        train[2, 0, 0], train[6, 1, 1], test[:] = -999.25, np.nan, 0.25
        test[1, 35, 35] = -999

    kept, left_out = {}, {}
    for how in ("repair", "drop"):
        run, *splits = prepared_by(tmp_path / how, "per_pixel", corrupt, how)
        kept[how] = [split["valid"].any((1, 2)).tolist() for split in splits]
        left_out[how] = hdf5.read(run.prepared("train"), "fold")["fold"] == -1
    train, test = kept["drop"]
    assert kept["repair"] == [[True] * 8, [True] * 2]
    assert train == [True, True, False, True, True, True, True, True] and test == [True, False]
    assert left_out["drop"].tolist() == [not own for own in train]
    assert not left_out["repair"].any()


def test_the_test_set_can_be_prepared_by_itself(tmp_path):
    run, *_ = prepared_by(tmp_path, "per_pixel")
    before = {part: run.prepared(part).read_bytes() for part in ("train", "test")}
    run.prepared("test").unlink()
    list(run.modality.prepare(run, ["test"]))
    assert {part: run.prepared(part).read_bytes() for part in ("train", "test")} == before


def test_four_times_the_wells_take_hardly_more_memory(tmp_path, monkeypatch):
    """A patch has 14 KB of arrays, of which its mask as bits and a few numbers stay in memory."""
    monkeypatch.setattr(blocks, "PATCHES", 20)
    monkeypatch.setattr("src.wells.preparation.slices", lambda number: masks.slices(number, 20))
    monkeypatch.setattr("src.wells.cleaning.slices", lambda number: masks.slices(number, 20))
    peaks = {}

    def draw(rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(len(rows), 36, 36)).astype(np.float32)

    for number in (10, 40):
        train, test = (replace(split(*[10] * number), read=draw) for _ in range(2))
        run = run_of(tmp_path / str(number), Raw(train, replace(test, mask=None)))
        for _ in range(2):  # once, so that what is imported late is there
            tracemalloc.start()
            list(run.modality.prepare(run, ["train", "test"]))
            peaks[number] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert (peaks[40] - peaks[10]) / (2 * 300) < 1500
