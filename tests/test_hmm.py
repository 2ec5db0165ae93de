"""HMM smoothing: against every path by brute force, and on a strip where the groove is too
faint for any pixel.
"""

import itertools

import numpy as np
import pytest

from src.recipe import HMM
from src.wells.postprocess import hmm


def by_brute_force(strip: np.ndarray, settings: HMM) -> np.ndarray:
    """The marginals of `hmm.centres`, as the sum over every path of hidden states."""
    rows, width = strip.shape
    steps = [strip[top : top + settings.rows].mean(0) for top in range(0, rows, settings.rows)]
    total = np.zeros((len(steps), width + 1))
    spread = [np.exp(-0.5 * (min(d, width - d) / settings.drift) ** 2) for d in range(width)]

    def move(a: int, b: int) -> float:
        if a == width:
            return 1 - settings.change if b == width else settings.change / width
        return (
            settings.change
            if b == width
            else (1 - settings.change) * spread[(b - a) % width] / sum(spread)
        )

    def likelihood(step: int, state: int) -> float:
        if state == width:
            return 1.0
        three = [steps[step][(state + shift) % width] for shift in (-1, 0, 1)]
        return float(np.exp(settings.weight * (np.mean(three) - settings.floor)))

    for path in itertools.product(range(width + 1), repeat=len(steps)):
        chance = 0.5 if path[0] == width else 0.5 / width
        for a, b in itertools.pairwise(path):
            chance *= move(a, b)
        for step, state in enumerate(path):
            chance *= likelihood(step, state)
        for step, state in enumerate(path):
            total[step, state] += chance
    return (total / total.sum(1, keepdims=True))[:, :width]


def test_marginals_equal_the_sum_over_every_path():
    rng = np.random.default_rng(0)
    settings = HMM(rows=2, drift=0.6, change=0.2, floor=-0.5, weight=0.8)
    # 7 and 3 rows end in half a step
    strips = [rng.normal(-0.5, 1, (rows, 5)) for rows in (8, 3, 7)]
    for own, strip in zip(hmm.centres(strips, settings), strips, strict=True):
        np.testing.assert_allclose(own, by_brute_force(strip, settings), atol=1e-5)


def test_a_roll_of_the_azimuth_rolls_the_result():
    strip = np.random.default_rng(1).normal(-2, 2, (60, 36))
    (plain,), (rolled,) = (hmm.smooth([x], HMM()) for x in (strip, np.roll(strip, 11, axis=1)))
    np.testing.assert_allclose(np.roll(plain, 11, axis=1), rolled, atol=1e-4)


def test_many_strips_are_followed_like_each_by_itself():
    rng = np.random.default_rng(2)
    strips = [rng.normal(-3, 2, (rows, 36)) for rows in rng.integers(5, 90, size=hmm.BATCH + 5)]
    together = hmm.smooth(strips, HMM())
    for strip, own in zip(strips, together, strict=True):
        np.testing.assert_allclose(hmm.smooth([strip], HMM())[0], own, atol=1e-4)


def test_a_faint_groove_is_found_along_depth():
    rng = np.random.default_rng(3)
    centre = (20 + np.cumsum(rng.normal(0, 0.1, 720))).round().astype(int) % 36
    strip = rng.normal(-3.5, 1, (720, 36))
    beside = (np.arange(36) - centre[:, None] + 18) % 36 - 18
    groove = np.abs(beside) <= 1
    strip[groove] += 1.5  # every pixel of the groove is still more likely sound than corroded
    smoothed = hmm.smooth([strip], HMM(floor=-2.5))[0]
    assert (strip[groove] > 0).mean() < 0.05
    assert smoothed[groove].mean() > smoothed[~groove].mean() + 2 * 1.5
    assert hmm.centres([strip], HMM(floor=-2.5))[0].sum(1).min() > 0.5


def test_nothing_is_found_where_nothing_lines_up():
    strip = np.random.default_rng(4).normal(-3.5, 1, (720, 36))
    assert hmm.centres([strip], HMM(floor=-2.5))[0].sum(1).max() < 0.5


@pytest.mark.parametrize("value", [1e6, -1e6])
def test_extreme_logits_give_finite_results(value):
    assert np.isfinite(hmm.smooth([np.full((30, 36), value)], HMM())[0]).all()
