"""Masks as bits."""

from itertools import chain

import numpy as np
import pytest

from src.competitions.formats.masks import PackedMasks, pack, slices


@pytest.mark.parametrize("size", [(36, 36), (3, 5)])
def test_masks_come_back_by_row_rows_and_slice(size: tuple[int, int]) -> None:
    masks = (np.random.default_rng(0).random((7, *size)) < 0.4).astype(np.uint8)
    packed = PackedMasks(pack(masks), size)
    assert packed.shape == masks.shape and packed.bits.nbytes == 7 * -(-size[0] * size[1] // 8)
    for rows in (3, slice(2, 5), np.array([6, 0, 0]), masks.any((1, 2))):
        np.testing.assert_array_equal(packed[rows], masks[rows])
        assert packed[rows].dtype == np.uint8
    np.testing.assert_array_equal(packed.take(np.array([4, 1]))[:], masks[[4, 1]])


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11])
def test_slices_follow_each_other(number: int) -> None:
    parts = [list(range(number))[rows] for rows in slices(number, 5)]
    assert [*chain(*parts)] == list(range(number)) and all(0 < len(part) <= 5 for part in parts)
