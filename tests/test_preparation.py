"""Subsets of the training patches, and scaling."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src import artifacts, recipe
from src.competitions import Raw, RawSplit
from src.competitions.formats import masks
from src.competitions.formats.masks import PackedMasks, pack
from src.wells import blocks, preparation


def split(*sizes: int) -> RawSplit:
    group = np.repeat(np.arange(1, len(sizes) + 1), sizes).astype(np.int32)
    number = np.concatenate([np.arange(size) for size in sizes]).astype(np.int32)
    name = np.array([f"well_{g}_patch_{n}" for g, n in zip(group, number, strict=True)], object)
    image = np.random.default_rng(0).normal(size=(len(name), 36, 36)).astype(np.float32)
    return RawSplit(
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
    "member": [{"name": "a", "network": {"name": "n"}, "phase": [{"epochs": 1}]}],
}


def prepared_by(
    folder: Path, how: str, change=lambda train, test: None
) -> tuple[artifacts.Arrays, artifacts.Arrays, dict]:
    """Two wells of different level and spread, one of them with a pixel that is no measurement, and
    a test well that has none.

    Both splits as prepared, and the notes.
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
        [],
    )
    chosen = recipe.parse(RECIPE | {"data": {"scaling": how}, "folds": {"count": 2}}, "t")
    paths = artifacts.Paths(folder, folder)
    list(preparation.prepare(SimpleNamespace(name="t", read=lambda _: raw), chosen, paths, {}))
    parts = [
        artifacts.read_split(paths.prepared(chosen), part, ["image", "valid", "group"])
        for part in ("train", "test")
    ]
    return *parts, artifacts.read_notes(paths.prepared(chosen))


def test_each_well_is_scaled_by_the_median_and_spread_of_its_own_valid_pixels(tmp_path):
    raw = prepared_by(tmp_path / "global", "global")[0]
    train, test, notes = prepared_by(tmp_path / "per_well", "per_well")
    for arrays, wells in ((train, (1, 2)), (test, (1,))):
        for well in wells:
            own = arrays["group"] == well
            counted = arrays["image"][own][arrays["valid"][own] | ~arrays["valid"][own].any()]
            # before the last, common fit
            low, middle, high = np.percentile(
                counted * notes["scale"] + notes["center"], [25, 50, 75]
            )
            assert (low, middle, high) == (0, 0, 0) or (
                middle == pytest.approx(0, abs=1e-5) and high - low == pytest.approx(1, abs=1e-5)
            )
    assert np.percentile(raw["image"][4:], 75) - np.percentile(raw["image"][4:], 25) > 1.5


def test_a_well_that_is_scaled_by_itself_changes_no_other(tmp_path):
    def poison(train, test):
        train[4:] = np.random.default_rng(1).normal(50, 10, train[4:].shape)

    clean, poisoned = (
        prepared_by(tmp_path / "a", "per_well"),
        prepared_by(tmp_path / "b", "per_well", poison),
    )
    for part in (0, 1):  # test well 1 is another pipe than training well 1
        own = slice(0, 4)
        undone = [
            result[part]["image"][own] * result[2]["scale"] + result[2]["center"]
            for result in (clean, poisoned)
        ]
        np.testing.assert_allclose(*undone, atol=1e-5)


@pytest.mark.parametrize("how", ["global", "per_pixel", "per_well"])
def test_the_prepared_file_does_not_depend_on_the_blocks(tmp_path, how, monkeypatch):
    whole = prepared_by(tmp_path / "whole", how)
    monkeypatch.setattr(blocks, "PATCHES", 1)
    monkeypatch.setattr("src.wells.preparation.slices", lambda number: masks.slices(number, 3))
    monkeypatch.setattr("src.wells.cleaning.slices", lambda number: masks.slices(number, 3))
    for part, expected in zip(prepared_by(tmp_path / "parts", how)[:2], whole, strict=False):
        for name, array in part.items():
            np.testing.assert_array_equal(array, expected[name])
    contents = [
        artifacts.content_digest(tmp_path / name / "prepared/corroseg.h5")
        for name in ("whole", "parts")
    ]
    assert contents[0] == contents[1]


def test_four_times_the_wells_take_hardly_more_memory(tmp_path, monkeypatch):
    """A patch has 14 KB of arrays, of which its mask as bits and a few numbers stay in memory."""
    monkeypatch.setattr(blocks, "PATCHES", 20)
    monkeypatch.setattr("src.wells.preparation.slices", lambda number: masks.slices(number, 20))
    monkeypatch.setattr("src.wells.cleaning.slices", lambda number: masks.slices(number, 20))
    chosen, peaks = recipe.parse(RECIPE | {"folds": {"count": 2}}, "t"), {}

    def draw(rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(len(rows), 36, 36)).astype(np.float32)

    for number in (10, 40):
        train, test = (replace(split(*[10] * number), read=draw) for _ in range(2))
        raw, paths = (
            Raw(train, replace(test, mask=None), []),
            artifacts.Paths(tmp_path / str(number), tmp_path),
        )
        for _ in range(2):  # once, so that what is imported late is there
            tracemalloc.start()
            list(
                preparation.prepare(
                    SimpleNamespace(name="t", read=lambda _, raw=raw: raw), chosen, paths, {}
                )
            )
            peaks[number] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert (peaks[40] - peaks[10]) / (2 * 300) < 1500
