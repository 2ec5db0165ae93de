"""The ring geometry, on pipes built for the purpose."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from src.wells import geometry

SIZE = 36


def smooth_ring(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A scanned pipe: smooth down the well and around the ring."""
    return gaussian_filter(
        rng.normal(size=(rows, columns)), columns / 36, mode=("nearest", "wrap")
    ).astype(np.float32)


def cut(strip: np.ndarray, height: int = SIZE) -> np.ndarray:
    return strip.reshape(-1, height, strip.shape[1])


def interleaved_well(rng: np.random.Generator, stretches: int) -> np.ndarray:
    """Patches 2i from the even columns of a 72-column ring, 2i + 1 from its odd columns."""
    scan = smooth_ring(rng, SIZE * stretches, 2 * SIZE)
    return np.stack([cut(scan[:, 0::2]), cut(scan[:, 1::2])], axis=1).reshape(-1, SIZE, SIZE)


def locate(image: np.ndarray, group: np.ndarray, number: np.ndarray) -> tuple[list[int], list[int]]:
    valid = np.isfinite(image) & (image > -100)
    depth, parity = geometry.locate(image, valid, group, number)
    assert depth.dtype == parity.dtype == np.int32
    return depth.tolist(), parity.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_interleaved_and_contiguous_wells_are_told_apart_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.concatenate([interleaved_well(rng, 3), cut(smooth_ring(rng, 5 * SIZE, SIZE))])
    group, number = np.repeat([7, 4], [6, 5]), np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4])
    depth, parity = (
        np.array([0, 0, 1, 1, 2, 2, 0, 1, 2, 3, 4]),
        np.array([0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0]),
    )
    order = rng.permutation(len(image))
    assert locate(image[order], group[order], number[order]) == (
        depth[order].tolist(),
        parity[order].tolist(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_lost_values_do_not_hide_the_interleaving(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.concatenate([interleaved_well(rng, 4), cut(smooth_ring(rng, 4 * SIZE, SIZE))])
    image[0], image[1, :5], image[3], image[9], image[10, 4] = (
        np.nan,
        -999.25,
        -999,
        -999.25,
        np.nan,
    )
    group, number = np.repeat([1, 2], [8, 4]), np.array([*range(8), *range(4)])
    assert locate(image, group, number) == (
        [0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3],
        [0, 1] * 4 + [0] * 4,
    )


def test_a_lost_neighbour_leaves_its_partner_in_its_place() -> None:
    image = interleaved_well(np.random.default_rng(0), 4)
    kept = np.array([1, 2, 3, 4, 6, 7])  # 0 and 5 are missing
    assert locate(image[kept], np.full(6, 1), kept) == ([0, 1, 1, 2, 3, 3], [1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("patches", [1, 3, 7])
def test_an_odd_number_of_contiguous_patches_stays_contiguous(patches: int) -> None:
    image = cut(smooth_ring(np.random.default_rng(0), patches * SIZE, SIZE))
    assert locate(image, np.full(patches, 1), np.arange(patches)) == (
        list(range(patches)),
        [0] * patches,
    )


def test_pairs_begin_at_even_numbers_only() -> None:
    """Patches 1 and 2 of this well are columns of one scan; that is no interleaving."""
    image = interleaved_well(np.random.default_rng(0), 1)
    assert locate(image, np.full(2, 1), np.array([1, 2])) == ([1, 2], [0, 0])


def test_neighbours_in_the_other_order_are_not_taken_for_even_and_odd_columns() -> None:
    image = interleaved_well(np.random.default_rng(0), 2)
    assert locate(image[[1, 0, 3, 2]], np.full(4, 1), np.arange(4)) == ([0, 1, 2, 3], [0] * 4)


def test_ratio_is_infinite_where_nothing_can_be_measured() -> None:
    image = interleaved_well(np.random.default_rng(0), 1)
    valid = np.ones(image.shape, bool)
    assert geometry.interleave_ratio(image[:1], valid[:1], np.array([0])) == np.inf
    assert geometry.interleave_ratio(image, ~valid, np.array([0, 1])) == np.inf
    assert geometry.interleave_ratio(np.zeros_like(image), valid, np.array([0, 1])) == np.inf
    assert geometry.interleave_ratio(image, valid, np.array([0, 1])) < 0.9


def test_patches_are_stacked_downwards_by_depth_and_unstacked_to_their_rows() -> None:
    patches = np.random.default_rng(0).normal(size=(6, 2, 3))
    group, depth, parity = (
        np.array([5, 5, 5, 2, 5, 5]),
        np.array([1, 0, 4, 0, 0, 1]),
        np.array([0, 0, 0, 0, 1, 1]),
    )
    strips = geometry.strips(group, depth, parity)
    assert [(strip.group, strip.parity, strip.index.tolist()) for strip in strips] == [
        (2, 0, [3]),
        (5, 0, [1, 0, -1, -1, 2]),
        (5, 1, [4, 5]),
    ]
    missing = np.zeros((4, 3))
    np.testing.assert_array_equal(
        strips[1].stack(patches), np.concatenate([patches[1], patches[0], missing, patches[2]])
    )
    restored = np.full_like(patches, np.nan)
    for strip in strips:
        strip.unstack(strip.stack(patches), restored)
    np.testing.assert_array_equal(restored, patches)


def test_a_strip_begins_at_its_first_patch_whatever_its_number() -> None:
    assert geometry.strips(
        np.array([1, 1]), np.array([100_000_001, 100_000_000]), np.zeros(2, int)
    )[0].index.tolist() == [1, 0]


def gappy_well() -> tuple[np.ndarray, list[geometry.Strip]]:
    """Patches 4 x 6 of two wells in shuffled order; well 1 lacks the depths 2, 3 and 5."""
    patches = np.random.default_rng(0).normal(size=(8, 4, 6))
    group, depth = np.array([1, 2, 1, 1, 2, 1, 1, 2]), np.array([4, 1, 0, 1, 0, 6, 7, 2])
    return patches, geometry.strips(group, depth, np.zeros(8, int))


def test_a_canvas_repeats_the_nearest_row_where_a_patch_is_missing_and_beyond_the_ends() -> None:
    patches, strips = gappy_well()
    canvas, rows = geometry.Canvas.of(strips, patch_height=4, margin=9), patches.reshape(-1, 6)
    for strip, first in zip(strips, canvas.first, strict=True):
        known = {
            d * 4 + i: patches[row, i]
            for d, row in enumerate(strip.index)
            if row >= 0
            for i in range(4)
        }
        for place in range(-9, 4 * len(strip.index) + 9):
            within = min(max(place, 0), 4 * len(strip.index) - 1)
            nearest = min(known, key=lambda k: abs(k - within))
            np.testing.assert_array_equal(rows[canvas.source[first + place]], known[nearest])


def test_canvas_knows_which_rows_are_in_their_own_place() -> None:
    patches, strips = gappy_well()
    canvas = geometry.Canvas.of(strips, patch_height=4, margin=5)
    assert canvas.length.tolist() == [32, 12]
    assert canvas.first.tolist() == [5, 5 + 32 + 5 + 5]
    assert len(canvas.source) == 32 + 12 + 4 * 5
    assert canvas.real.sum() == 32
    rows = patches.reshape(-1, 6)
    np.testing.assert_array_equal(rows[canvas.source][canvas.position], rows)
    assert canvas.real[canvas.position].all()


@pytest.mark.parametrize(
    ("height", "margin"),
    [(4, 0), (4, 1), (12, 0), (12, 4), (12, 5), (20, 3), (40, 12), (100, 0), (100, 49)],
)
def test_inner_rows_of_windows_cover_every_strip_and_windows_keep_to_their_strip(
    height: int, margin: int
) -> None:
    lengths = [1, 2, 3, 8, 25]
    group, depth = np.repeat(np.arange(5), lengths), np.concatenate([np.arange(n) for n in lengths])
    canvas = geometry.Canvas.of(
        geometry.strips(group, depth, np.zeros(len(group), int)), patch_height=4, margin=height
    )
    starts = canvas.windows(height, margin)
    covered = np.zeros(len(canvas.source), bool)
    owner = np.repeat(np.arange(5), canvas.length + 2 * height)
    for start in starts:
        assert start >= 0
        assert start + height <= len(covered)
        assert len(set(owner[start : start + height])) == 1
        covered[start + margin : start + height - margin] = True
    for first, length in zip(canvas.first, canvas.length, strict=True):
        assert covered[first : first + length].all()
    assert len(starts) <= sum(np.ceil(canvas.length / (height - 2 * margin)) + 1)


def test_neighbours_are_averaged_as_columns_of_the_full_ring() -> None:
    rng = np.random.default_rng(0)
    scan = rng.random((2, 3, 8))  # a channel axis, rows, the ring
    smoothed = np.empty_like(scan)
    for column in range(8):
        smoothed[..., column] = (
            scan[..., column] / 2 + (scan[..., column - 1] + scan[..., (column + 1) % 8]) / 4
        )
    lonely, contiguous = rng.random((2, 2, 3, 4))
    probability = np.stack([scan[..., 1::2], lonely, contiguous, scan[..., 0::2]])
    group, depth, parity = np.array([1, 1, 2, 1]), np.array([0, 1, 0, 0]), np.array([1, 0, 0, 0])
    before = probability.copy()
    result = geometry.average_neighbours(probability, group, depth, parity)
    np.testing.assert_allclose(
        result, np.stack([smoothed[..., 1::2], lonely, contiguous, smoothed[..., 0::2]])
    )
    np.testing.assert_array_equal(probability, before)
