"""Repair of corrupt pixels, and scaling."""

import numpy as np
import pytest
from sklearn.preprocessing import RobustScaler

from src.networks.scaling import Scaling
from src.wells import cleaning, geometry


def fit_scaling(image: np.ndarray, valid: np.ndarray, per_pixel: bool) -> Scaling:
    parts = cleaning.Parts(len(image), lambda rows: (image[rows], valid[rows]))
    return cleaning.fit_scaling(parts, per_pixel)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (np.nan, False),
        (np.inf, False),
        (-np.inf, False),
        (-999.25, False),
        (-999, False),
        (-100, False),
        (100, False),
        (3e38, False),
        (-0.94, True),
        (0.47, True),
        (0, True),
    ],
)
def test_only_finite_values_nearer_to_0_than_the_placeholders_are_valid(
    value: float, valid: bool
) -> None:
    image = np.array([[[0.1, value]]], np.float32)
    assert cleaning.find_valid(image).tolist() == [[[True, valid]]]


def fill_pixel_by_pixel(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The documented rule on a strip, one pixel and one step at a time."""
    values, known = values.astype(np.float64), known.copy()
    rows, columns = values.shape
    while known.any() and not known.all():
        old_values, old_known = values.copy(), known.copy()
        for row, column in zip(*np.nonzero(~old_known), strict=True):
            left = [(row, (column - step) % columns, step) for step in range(1, columns)]
            right = [(row, (column + step) % columns, step) for step in range(1, columns)]
            above = [(row - step, column, step) for step in range(1, row + 1)]
            below = [(row + step, column, step) for step in range(1, rows - row)]
            nearest = [
                next(((r, c, s) for r, c, s in path if old_known[r, c]), None)
                for path in (left, right, above, below)
            ]
            found = [(old_values[r, c], 1 / s) for r, c, s in filter(None, nearest)]
            if found:
                values[row, column] = sum(value * weight for value, weight in found) / sum(
                    weight for _, weight in found
                )
                known[row, column] = True
    return values if known.all() else np.zeros_like(values)


def split_of(rng: np.random.Generator) -> tuple[np.ndarray, list[geometry.Strip]]:
    """Patches 4 x 5 of three strips, in shuffled order, one with a gap in its numbering."""
    order = rng.permutation(9)
    group, depth = (
        np.repeat([1, 1, 2], [3, 3, 3])[order],
        np.array([0, 1, 2, 0, 1, 2, 0, 1, 3])[order],
    )
    phase = np.repeat([0, 1, 0], 3)[order]
    return rng.normal(size=(9, 4, 5)).astype(np.float32), geometry.strips(group, depth, phase)


@pytest.mark.parametrize("seed", range(12))
def test_repair_follows_the_rule_applied_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, strips = split_of(rng)
    valid = rng.random(image.shape) > rng.choice([0.1, 0.5, 0.95])
    valid[rng.integers(9)] = False  # a wholly corrupt patch
    valid[rng.integers(9), rng.integers(4)] = False  # a row lost
    image[~valid] = rng.choice([np.nan, -999.25, -999], (~valid).sum())
    result = cleaning.repair(image, valid, strips)
    for strip in strips:
        known = strip.stack(valid)
        expected = fill_pixel_by_pixel(np.where(known, strip.stack(image), 0), known)
        present = np.repeat(strip.index >= 0, 4)
        np.testing.assert_allclose(
            strip.stack(result)[present], expected[present], rtol=1e-4, atol=1e-5
        )


def test_valid_pixels_keep_every_bit_and_the_input_is_untouched() -> None:
    rng = np.random.default_rng(0)
    image, strips = split_of(rng)
    valid = rng.random(image.shape) > 0.3
    image[~valid] = np.nan
    before = image.tobytes()
    result = cleaning.repair(image, valid, strips)
    assert result.dtype == np.float32
    assert image.tobytes() == before
    assert result[valid].tobytes() == image[valid].tobytes()
    assert np.isfinite(result).all()


def test_nearest_pixels_are_weighted_by_inverse_distance_around_the_ring() -> None:
    image = np.array([[[9, 9, 9, 9, 9], [np.nan, np.nan, 6, 3, 1], [9, 9, 9, 9, 9]]], np.float32)
    valid = np.isfinite(image)
    result = cleaning.repair(
        image, valid, geometry.strips(np.array([1]), np.array([0]), np.array([0]))
    )
    # Column 0: 1 at distance 1 across the seam, 6 at distance 2, 9 above, 9 below.
    assert result[0, 1, 0] == pytest.approx((1 + 6 / 2 + 9 + 9) / (1 + 1 / 2 + 1 + 1))
    assert result[0, 1, 1] == pytest.approx((1 / 2 + 6 + 9 + 9) / (1 / 2 + 1 + 1 + 1))


def test_a_wholly_corrupt_patch_inside_a_well_interpolates_between_its_neighbours() -> None:
    ramp = np.repeat(np.arange(12, dtype=np.float32), 5).reshape(3, 4, 5)
    valid = np.ones(ramp.shape, bool)
    valid[1] = False
    damaged = np.where(valid, ramp, -999.25).astype(np.float32)
    result = cleaning.repair(
        damaged, valid, geometry.strips(np.full(3, 1), np.arange(3), np.zeros(3, int))
    )
    np.testing.assert_allclose(result, ramp, rtol=1e-6)


def test_a_strip_without_a_valid_pixel_becomes_zeros_and_others_are_not_asked() -> None:
    image = np.full((2, 3, 4), 7, np.float32)
    image[1] = -999.25
    valid = cleaning.find_valid(image)
    result = cleaning.repair(
        image, valid, geometry.strips(np.array([1, 2]), np.zeros(2, int), np.zeros(2, int))
    )
    assert (result[0] == 7).all()
    assert (result[1] == 0).all()


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(3, 2, (40, 3, 4)).astype(np.float32) * np.arange(
        1, 13, dtype=np.float32
    ).reshape(3, 4)
    valid = rng.random(image.shape) > 0.2
    return image, valid


def test_global_scaling_is_median_and_interquartile_range_of_the_valid_pixels() -> None:
    image, valid = noisy(0)
    low, middle, high = np.percentile(image[valid].astype(np.float64), [25, 50, 75])
    for filler in (0, 1e6):  # what stands in an invalid pixel does not matter
        scaling = fit_scaling(np.where(valid, image, np.float32(filler)), valid, per_pixel=False)
        np.testing.assert_allclose(scaling.center, middle, rtol=1e-5)
        np.testing.assert_allclose(scaling.scale, high - low, rtol=1e-5)
    scaled = scaling.apply(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, (image - middle) / (high - low), rtol=1e-4, atol=1e-5)


def test_per_pixel_scaling_fits_each_position_by_itself() -> None:
    image, valid = noisy(1)
    scaling = fit_scaling(image, valid, per_pixel=True)
    assert scaling.center.shape == scaling.scale.shape == (3, 4)
    scaled = scaling.apply(image)
    for row, column in np.ndindex(3, 4):
        own = valid[:, row, column]
        values = image[own, row, column]
        low, middle, high = np.percentile(values.astype(np.float64), [25, 50, 75])
        np.testing.assert_allclose(
            [scaling.center[row, column], scaling.scale[row, column]],
            [middle, high - low],
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            scaled[own, row, column],
            RobustScaler().fit_transform(values[:, None])[:, 0],
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("per_pixel", [False, True])
def test_scaling_is_that_of_scikit_learn_to_the_last_digit(per_pixel: bool) -> None:
    image, valid = noisy(4)
    image[:, 0, 0] = 5  # without a spread
    values = np.where(valid, image, np.nan).reshape(40, -1) if per_pixel else image[valid][:, None]
    fitted, scaling = RobustScaler().fit(values), fit_scaling(image, valid, per_pixel)
    np.testing.assert_array_equal(scaling.center.ravel(), fitted.center_.astype(np.float32))
    np.testing.assert_array_equal(scaling.scale.ravel(), fitted.scale_.astype(np.float32))


def test_a_position_that_is_never_valid_stays_finite() -> None:
    image, valid = noisy(3)
    valid[:, 1, 2] = False
    scaling = fit_scaling(image, valid, per_pixel=True)
    assert np.isfinite(scaling.apply(image)).all()


@pytest.mark.parametrize("per_pixel", [False, True])
def test_scaling_twice_equals_scaling_once_with_the_second_fit(per_pixel: bool) -> None:
    image, valid = noisy(2)
    part = slice(0, 25)  # as a fold refits on its own wells
    once = fit_scaling(image[part], valid[part], per_pixel).apply(image)
    first = fit_scaling(image, valid, per_pixel).apply(image)
    twice = fit_scaling(first[part], valid[part], per_pixel).apply(first)
    np.testing.assert_allclose(twice, once, rtol=1e-4, atol=1e-4)
