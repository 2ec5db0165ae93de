"""Subsets of the training patches, and scaling."""

import numpy as np
import pytest

from src import preparation
from src.competitions import RawSplit


def split(*sizes: int) -> RawSplit:
    group = np.repeat(np.arange(1, len(sizes) + 1), sizes).astype(np.int32)
    number = np.concatenate([np.arange(size) for size in sizes]).astype(np.int32)
    name = np.array([f"well_{g}_patch_{n}" for g, n in zip(group, number, strict=True)], object)
    return RawSplit(name, np.zeros((len(name), 36, 36), np.float32), group, number, np.zeros((len(name), 36, 36), np.uint8))


@pytest.mark.parametrize("patches", [30, 60, 100])
def test_a_subset_takes_whole_pairs_from_the_top_of_every_well_by_its_share(patches):
    whole = split(100, 60, 37, 3)
    part = preparation.subset(whole, patches)
    for well, size in zip((1, 2, 3, 4), (100, 60, 37, 3), strict=True):
        numbers = part.number[part.group == well]
        assert numbers.tolist() == list(range(len(numbers)))
        assert len(numbers) >= 2 and abs(len(numbers) - patches * size / 200) <= 2
        assert len(numbers) % 2 == 0
    assert len(part.name) == len(part.image) == len(part.mask)


def test_without_a_number_or_with_a_large_one_nothing_is_left_out():
    whole = split(5, 4)
    assert preparation.subset(whole, None) is whole
    assert preparation.subset(whole, 9) is whole


def scaled_by(how: str, change=lambda train, test: None):
    """Two wells of different level and spread, one of them with a pixel that is no measurement, and a test well that has none."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (8, 36, 36)).astype(np.float32)
    image[4:] = 5 * image[4:] + 3
    image[5, 3, 4] = 1e6
    group = np.repeat([1, 2], 4).astype(np.int32)
    train = {"image": image, "valid": image < 1e5, "group": group}
    test = {"image": image[4:6] + 7, "valid": np.zeros((2, 36, 36), bool), "group": np.full(2, 2, np.int32)}
    change(train, test)
    scaling = preparation.scale(train, test, how)
    return train, test, scaling


def test_each_well_is_scaled_by_the_median_and_spread_of_its_own_valid_pixels():
    raw = scaled_by("global")[0]
    train, test, scaling = scaled_by("per_well")
    for split, wells in ((train, (1, 2)), (test, (2,))):
        for well in wells:
            own = split["group"] == well
            counted = split["image"][own][split["valid"][own] | ~split["valid"][own].any()]
            low, middle, high = np.percentile(counted * scaling.scale + scaling.center, [25, 50, 75])  # before the last, common fit
            assert middle == pytest.approx(0, abs=1e-5) and high - low == pytest.approx(1, abs=1e-5)
    assert np.percentile(raw["image"][4:], 75) - np.percentile(raw["image"][4:], 25) > 1.5


def test_a_well_that_is_scaled_by_itself_changes_no_other():
    def poison(train, test):
        train["image"][4:] = np.random.default_rng(1).normal(50, 1e4, train["image"][4:].shape)

    clean, poisoned = scaled_by("per_well"), scaled_by("per_well", poison)
    for split in (0, 1):  # test well 2 is another pipe than training well 2
        own = slice(0, 4)
        undone = [result[split]["image"][own] * result[2].scale + result[2].center for result in (clean, poisoned)]
        np.testing.assert_allclose(*undone, atol=1e-5)
