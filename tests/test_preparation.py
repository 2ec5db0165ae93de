"""Subsets of the training patches."""

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
