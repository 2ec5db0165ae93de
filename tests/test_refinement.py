"""Refinement of probabilities into masks."""

import numpy as np
import pytest
from skimage.segmentation import random_walker

from src.recipe import Postprocess
from src.wells.geometry import strips
from src.wells.postprocess import refinement
from src.wells.postprocess.refinement import Refinement
from tests.drawn_wells import LARGE, SINGLE, SMOOTHING, draw, split_of, split_with_a_faint_groove

ABOVE, BELOW = 0.9, 0.1


def seeded_strip(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image, and a probability with seeds of both kinds, free pixels, and first and last
    columns that are seeded throughout.
    """
    rng = np.random.default_rng(seed)
    image, probability = rng.normal(size=(30, 12)), rng.random((30, 12))
    probability[:, [0, -1]] = np.where(probability[:, [0, -1]] > 0.5, 0.95, 0.05)
    return image, probability


def by_scikit_image(image: np.ndarray, probability: np.ndarray, beta: float) -> np.ndarray:
    labels = np.where(probability > ABOVE, 1, np.where(probability < BELOW, 2, 0))
    return random_walker(image, labels, beta=beta, mode="bf", return_full_prob=True)[0]


@pytest.mark.parametrize("beta", [0, 0.1, 10, 300])
@pytest.mark.parametrize("seed", range(3))
def test_walker_agrees_with_scikit_image_where_the_seam_has_no_say(seed: int, beta: float) -> None:
    image, probability = seeded_strip(seed)
    result = refinement.random_walker(image, probability, beta, ABOVE, BELOW)
    np.testing.assert_allclose(result, by_scikit_image(image, probability, beta), atol=1e-6)
    assert result[(probability <= ABOVE) & (probability >= BELOW)].std() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_walker_closes_the_ring(seed: int) -> None:
    image, probability = seeded_strip(seed)
    whole = refinement.random_walker(image, probability, 1.0, ABOVE, BELOW)
    for shift in (1, 5, 11):
        rolled_image, rolled = np.roll(image, shift, 1), np.roll(probability, shift, 1)
        result = refinement.random_walker(rolled_image, rolled, 1.0, ABOVE, BELOW)
        np.testing.assert_allclose(result, np.roll(whole, shift, 1), atol=1e-8)
        if shift == 5:
            assert np.abs(by_scikit_image(rolled_image, rolled, 1.0) - result).max() > 0.01


def test_walker_on_a_flat_ring_is_the_gamblers_ruin() -> None:
    """Equal steps around a single row: the chance falls evenly from the corroded to the clean
    seed, on both ways.
    """
    probability = np.full((1, 10), 0.5)
    probability[0, 2], probability[0, 6] = 0.95, 0.05
    result = refinement.random_walker(np.zeros((1, 10)), probability, 1.0, ABOVE, BELOW)
    np.testing.assert_allclose(
        result[0], [4 / 6, 5 / 6, 1, 3 / 4, 2 / 4, 1 / 4, 0, 1 / 6, 2 / 6, 3 / 6], atol=1e-8
    )


def test_walker_without_seeds_changes_nothing() -> None:
    probability = np.random.default_rng(0).uniform(BELOW, ABOVE, (5, 6))
    np.testing.assert_array_equal(
        refinement.random_walker(np.zeros((5, 6)), probability, 1.0, ABOVE, BELOW),
        probability,
    )


@pytest.mark.parametrize(("seed", "chance"), [(0.95, 1), (0.05, 0)])
def test_walker_with_one_kind_of_seed_ends_there(seed: float, chance: float) -> None:
    rng = np.random.default_rng(0)
    probability = np.full((8, 6), 0.5)
    probability[3, 4] = seed
    np.testing.assert_allclose(
        refinement.random_walker(rng.normal(size=(8, 6)), probability, 10.0, ABOVE, BELOW),
        chance,
        atol=1e-6,
    )


def test_walker_with_seeds_everywhere_only_labels_them() -> None:
    probability = np.where(np.random.default_rng(0).random((8, 6)) > 0.5, 0.95, 0.05)
    np.testing.assert_array_equal(
        refinement.random_walker(np.zeros((8, 6)), probability, 1.0, ABOVE, BELOW),
        probability > 0.5,
    )


def flood(mask: np.ndarray, row: int, column: int) -> set[tuple[int, int]]:
    """The component of a pixel: across edges, corners and the seam."""
    rows, columns = mask.shape
    found, border = {(row, column)}, [(row, column)]
    while border:
        r, c = border.pop()
        around = [(r + down, (c + right) % columns) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        fresh = {(i, j) for i, j in around if 0 <= i < rows and mask[i, j]} - found
        found |= fresh
        border += fresh
    return found


@pytest.mark.parametrize("min_size", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_small_components_are_those_that_a_flood_fill_finds(seed: int, min_size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((25, 9)) < rng.uniform(0.1, 0.3)
    expected = mask.copy()
    for row, column in zip(*np.nonzero(mask), strict=True):
        expected[row, column] = len(flood(mask, row, column)) >= min_size
    np.testing.assert_array_equal(refinement.remove_small(mask, min_size), expected)


@pytest.mark.parametrize("second", [(4, 5), (3, 5), (5, 5), (3, 1), (5, 0)])
def test_two_pixels_that_touch_are_one_component(second: tuple[int, int]) -> None:
    mask = np.zeros((9, 6), bool)
    mask[4, 0] = mask[second] = True
    np.testing.assert_array_equal(refinement.remove_small(mask, 2), mask)
    assert not refinement.remove_small(mask, 3).any()


def test_a_patch_without_a_valid_pixel_gets_an_empty_mask() -> None:
    arrays, probability = split_of([draw(LARGE)] * 3, [draw(LARGE)] * 3)
    arrays["group"], arrays["depth"] = np.zeros(3, int), np.array([2, 0, 1])
    arrays["valid"][0] = False
    arrays["valid"][1, 0] = False
    refinements = [Refinement(0.5), Refinement(0.5, 1.0), Refinement(0.5, None, 4)]
    for mask in refinement.refine(
        arrays, probability, refinements, Postprocess(seed_above=0.55, seed_below=0.45)
    ).values():
        assert mask.dtype == np.uint8
        assert mask.sum((1, 2)).tolist() == [0, 16, 16]


def test_components_are_measured_across_patches_of_a_strip_and_not_across_strips() -> None:
    """A pixel at the bottom of one patch and one at the top of the next are a pair."""
    bottom, top = draw((9, 4, 1, 1)), draw((0, 4, 1, 1))
    arrays, probability = split_of([top, bottom, bottom, top], [top] * 4)
    arrays["group"], arrays["depth"] = np.array([1, 1, 2, 3]), np.array([1, 0, 0, 1])
    pair = Refinement(0.5, None, 2)
    mask = refinement.refine(arrays, probability, [pair], Postprocess())[pair]
    assert mask.sum((1, 2)).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("few", "left"),
    [
        (0, [5, 16, 2]),
        (2, [5, 16, 2]),
        (3, [5, 16, 0]),
        (5, [5, 16, 0]),
        (6, [0, 16, 0]),
        (17, [0, 0, 0]),
    ],
)
def test_a_patch_with_few_marked_pixels_is_emptied_whatever_its_strip_holds(
    few: int, left: list[int]
) -> None:
    """The middle one of three patches is full enough, and its neighbours hang on to it; a single
    pixel goes as a component before.
    """
    above, middle, below = (
        draw((9, 1, 1, 5), SINGLE),
        draw((0, 1, 4, 1), (0, 2, 10, 1), (9, 1, 1, 1), (9, 3, 1, 1)),
        draw((0, 2, 2, 1)),
    )
    arrays, probability = split_of([above, middle, below], [above] * 3)
    arrays["group"], arrays["depth"] = np.zeros(3, int), np.arange(3)
    own = Refinement(0.5, None, 2, None, few)
    mask = refinement.refine(arrays, probability, [own], Postprocess())[own]
    assert mask.sum((1, 2)).tolist() == left
    for kept, own in zip(mask, (draw((9, 1, 1, 5)), middle, below), strict=True):
        assert not kept.any() or np.array_equal(kept, own)


def test_the_walker_crosses_from_patch_to_patch() -> None:
    """Seeds in the first patch of a strip decide over a second patch that has none."""
    arrays, _ = split_of([draw()] * 3, [draw()] * 3)
    arrays["group"], arrays["depth"] = np.array([1, 2, 1]), np.array([1, 0, 0])
    probability = np.full((3, 10, 10), 0.4)
    probability[2, 0] = 0.95
    walked = Refinement(0.5, 1.0)
    mask = refinement.refine(arrays, probability, [walked], Postprocess())[walked]
    assert mask.sum((1, 2)).tolist() == [100, 0, 100]


def test_on_patches_the_walker_is_scikit_images_on_stretched_intensities() -> None:
    image, probability = seeded_strip(1)
    image, probability = image[:36, :36] * 7 + 3, probability[:36, :36]
    stretched = (image - image.min()) / (image.max() - image.min()) * 255
    expected = by_scikit_image(stretched, probability, 1.0)
    np.testing.assert_allclose(
        refinement.random_walker_on_patch(image, probability, 1.0, ABOVE, BELOW),
        expected,
        atol=5e-3,
    )


@pytest.mark.parametrize(("seed", "chance"), [(0.95, 1.0), (0.05, 0.0), (0.5, 0.5)])
def test_on_patches_one_kind_of_seed_or_none_decides_alone(seed: float, chance: float) -> None:
    probability = np.full((4, 4), 0.5)
    probability[0, 0] = seed
    image = np.arange(16.0).reshape(4, 4)
    assert (
        refinement.random_walker_on_patch(image, probability, 1.0, ABOVE, BELOW) == chance
    ).all()


def test_a_walk_on_patches_stops_at_their_edges() -> None:
    train, _ = split_of([draw(), draw()], [draw(), draw()])
    probability = np.full(train["image"].shape, 0.5)
    probability[0, 0, 0], probability[1, 0, 0] = 0.95, 0.05
    settings = Postprocess(walk_on="patches", betas=[1.0], min_sizes=[0])
    walk = Refinement(0.5, 1.0)
    masks = refinement.refine(train, probability, [walk], settings)[walk]
    assert masks[0].all() and not masks[1].any()


def smoothed(arrays: dict[str, np.ndarray], probability: np.ndarray) -> np.ndarray:
    sources = refinement.smoothed(arrays | {"probability": probability}, [SMOOTHING, SMOOTHING])
    assert list(sources) == [None, SMOOTHING] and sources[None] is probability
    return sources[SMOOTHING]


def test_a_groove_is_smoothed_on_strips_and_not_across_them() -> None:
    train, probability = split_with_a_faint_groove(2)
    whole = smoothed(train, probability)
    alone = train | {"group": np.arange(6), "depth": np.zeros(6, int)}
    assert whole[1, :, 4].min() > 2 * smoothed(alone, probability)[1, :, 4].max()
    order = np.random.default_rng(0).permutation(6)
    shuffled = {name: array[order] for name, array in train.items()}
    np.testing.assert_allclose(smoothed(shuffled, probability[order]), whole[order], atol=1e-6)


@pytest.mark.parametrize("walk_on", ["strips", "patches"])
def test_masks_of_a_strip_are_those_of_the_whole_split_at_once(walk_on: str) -> None:
    """Missing patches, wells of both kinds of scan, and a patch without a valid pixel."""
    rng = np.random.default_rng(0)
    group, depth = np.array([1, 1, 1, 2, 2, 2, 2, 3]), np.array([0, 1, 4, 0, 0, 1, 1, 0])
    parity = np.array([0, 0, 0, 0, 1, 0, 1, 0])
    valid = np.ones((8, 6, 6), bool)
    valid[1] = False
    arrays = {
        "image": rng.normal(size=(8, 6, 6)).astype(np.float32),
        "valid": valid,
        "group": group,
        "depth": depth,
        "parity": parity,
    }
    probability = rng.random((8, 6, 6)).astype(np.float16)
    settings = Postprocess(walk_on=walk_on, seed_above=0.6, seed_below=0.3)
    wanted = [
        Refinement(0.5, None, 3),
        Refinement(0.5, 1.0, 0),
        Refinement(0.4, None, 0, SMOOTHING),
    ]
    masks = refinement.refine(arrays, probability, wanted, settings)
    assert not any(mask[1].any() for mask in masks.values())
    p = probability.astype(np.float64) * valid.any((1, 2))[:, None, None]
    for strip in strips(group, depth, parity):
        rows, stacked = strip.index[strip.index >= 0], strip.stack(p)
        small = refinement.remove_small(stacked > 0.5, 3).reshape(-1, 6, 6)[strip.index >= 0]
        np.testing.assert_array_equal(masks[wanted[0]][rows], small * valid[rows])
        if walk_on == "strips":
            walked = refinement.random_walker(
                strip.stack(arrays["image"]), stacked, 1.0, 0.6, 0.3
            ).reshape(-1, 6, 6)[strip.index >= 0]
        else:
            walked = np.array(
                [
                    refinement.random_walker_on_patch(arrays["image"][row], p[row], 1.0, 0.6, 0.3)
                    for row in rows
                ]
            )
        np.testing.assert_array_equal(masks[wanted[1]][rows], (walked > 0.5) * valid[rows])
    cut = smoothed(arrays, probability) > 0.4
    np.testing.assert_array_equal(masks[wanted[2]], cut * valid)
