"""The mask of the highest expected Dice: every mask tried on small maps, exact expectations on
larger ones.
"""

from itertools import product

import numpy as np
import pytest

from src.photographs.decoding import (
    STEPS,
    THRESHOLDS,
    level_of_expected_dice,
    mask_of,
    overlaps,
)
from src.photographs.selection import Decisions
from src.scoring.selection import Choice


def expected_dice(mask: np.ndarray, p: np.ndarray) -> float:
    """Of independent pixels (n,), over all 2^n truths; 1 where mask and truth are empty."""
    total = 0.0
    for truth in product((0, 1), repeat=len(p)):
        true = np.array(truth)
        chance = np.where(true, p, 1 - p).prod()
        whole = mask.sum() + true.sum()
        total += chance * (2 * (mask * true).sum() / whole if whole else 1.0)
    return total


def exact(p: np.ndarray, marked: int) -> float:
    """The expected Dice of the `marked` likeliest of independent pixels (n,), descending, from the
    distributions of the true pixels within and without.
    """

    def true_pixels(own: np.ndarray) -> np.ndarray:
        chance = np.ones(1)
        for one in own:
            chance = np.convolve(chance, [1 - one, one])
        return chance

    within, without = true_pixels(p[:marked]), true_pixels(p[marked:])
    hits, others = np.arange(len(within))[:, None], np.arange(len(without))
    return float((np.outer(within, without) * 2 * hits / (marked + hits + others)).sum())


def on_grid(p: np.ndarray) -> np.ndarray:
    return (p * STEPS).round() / STEPS


@pytest.mark.parametrize("seed", range(6))
def test_no_mask_of_few_pixels_has_a_much_higher_expected_dice(seed):
    p = on_grid(np.random.default_rng(seed).random(6) ** 0.5)
    mask = (p > level_of_expected_dice(p)).astype(int)
    best = max(expected_dice(np.array(own), p) for own in product((0, 1), repeat=6))
    assert expected_dice(mask, p) > best - 0.02
    # what it is for: one half marks less than is best where much is in doubt
    doubt = np.full(6, 0.4)
    assert (doubt > level_of_expected_dice(doubt)).all()
    assert expected_dice(np.ones(6), doubt) > expected_dice(np.zeros(6), doubt)


@pytest.mark.parametrize("power", [0.3, 1, 4])
def test_of_many_pixels_it_is_the_best_there_is(power):
    p = on_grid(np.sort(np.random.default_rng(1).random(150) ** power)[::-1])
    marked = int((p > level_of_expected_dice(p)).sum())
    of_each = [exact(p, count) for count in range(1, 151)]
    assert exact(p, marked) > max(of_each) - 1e-4
    # pixels are worth marking whose probability exceeds half of what is reached
    edges = np.append(p, 0)[[marked - 1, marked]]
    assert edges[1] - 0.01 < max(of_each) / 2 < edges[0] + 0.01


def test_sure_pixels_are_marked_and_nothing_is_marked_of_nothing():
    p = np.zeros((4, 5))
    assert level_of_expected_dice(p) == 1.0
    p[1, 2:] = 1.0
    assert ((p > level_of_expected_dice(p)) == (p > 0)).all()


def test_a_mask_is_empty_where_no_pixel_exceeds_the_threshold():
    p = np.full((2, 3, 3), 0.3, np.float32)
    masks = mask_of(p, [0.2, 0.4], [0, 0], [True, True])
    assert masks[0].all() and not masks[1].any()
    assert not mask_of(p, [0.4, 0.4], [0, 0], [False, False]).any()
    assert not mask_of(p, [0.2, 0.2], [10, 10], [True, True]).any()  # smaller than allowed


def test_a_candidate_stands_for_its_decision():
    count, sizes = len(THRESHOLDS), [0, 3]
    own = Decisions.of(Choice(0, (3 * 2 + 1, (count + 4) * 2)), sizes)
    assert own.threshold == [THRESHOLDS[3], THRESHOLDS[4]] and own.min_size == [3, 0]
    assert own.expected_dice == [False, True]
    p = np.full((2, 3, 3), 0.42, np.float32)
    # a model folder of earlier code does not say: thresholds alone
    earlier = Decisions([0.4, 0.5], [0, 0], 0.0)
    assert (earlier.mask(p) == mask_of(p, [0.4, 0.5], [0, 0])).all() and earlier.mask(p).any()
    assert (own.mask(p) == mask_of(p, own.threshold, own.min_size, [False, True])).all()


def test_overlaps_are_the_pixels_of_these_masks():
    rng, count = np.random.default_rng(2), len(THRESHOLDS)
    p = on_grid(rng.random((2, 9, 11)) * [[[0.8]], [[0.35]]]).astype(np.float32)
    truth = (rng.random(p.shape) < 0.4).astype(np.uint8)
    told = overlaps(p, truth, [0, 3], expected_dice=True)
    assert (told[:, :count] == overlaps(p, truth, [0, 3])).all()
    for t, threshold in enumerate(THRESHOLDS):
        for s, size in enumerate([0, 3]):
            masks = mask_of(p, [threshold] * 2, [size] * 2, [True] * 2)
            assert told[1, count + t, s].tolist() == masks.sum((1, 2)).tolist()
            assert told[0, count + t, s].tolist() == (masks & truth).sum((1, 2)).tolist()
