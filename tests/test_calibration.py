"""Calibration: tallies against NumPy's histograms, the error by hand, what the page shows of it."""

import numpy as np
import pytest

from src.report import curves
from src.scoring.calibration import BINS, error, errors, tally


def test_a_tally_is_what_histograms_say() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((7, 36, 36)).astype(np.float16)
    probability[0, 0, :5] = 0, 1, 0.5, 0.25, 6e-8  # the smallest of its type too
    truth = rng.random(probability.shape) < probability
    values, edges = probability.astype(np.float64), np.linspace(0, 1, BINS + 1)
    for found, weights in zip(
        tally(probability, truth), (np.ones_like(values), values, truth.astype(float)), strict=True
    ):
        wanted = np.histogram(values, edges, weights=weights)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    parts = tally(probability[:3], truth[:3]) + tally(probability[3:], truth[3:])
    np.testing.assert_allclose(parts, tally(probability, truth), rtol=1e-12)


def test_the_error_by_hand() -> None:
    """Three pixels of .75, one true, and one of .25 that is: (|2.25 - 1| + |.25 - 1|) / 4."""
    own = tally(np.array([0.75, 0.75, 0.75, 0.25], np.float16), np.array([1, 0, 0, 1], bool))
    assert error(own) == pytest.approx(0.5)
    assert error(np.zeros((3, BINS))) == 0


def test_probabilities_that_mean_what_they_say_have_no_error() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(1_000_000).astype(np.float16)
    assert error(tally(probability, rng.random(len(probability)) < probability)) < 0.002


def test_the_section_has_all_pixels_in_its_bins_and_in_each_part() -> None:
    rng = np.random.default_rng(2)
    own = {
        name: tally(rng.random(count).astype(np.float16), rng.random(count) < 0.5)
        for name, count in (("1", 50_000), ("2", 200))
    }
    parts = {"Class": {"any": own["1"] + own["2"]}, "Well": own}
    shown, scores = curves.calibration(parts), errors(parts)
    assert sum(line["pixels"] for line in shown["bins"]) == 50_200
    assert [line["pixels"] for line in shown["parts"]["Well"]] == [50_000, 200]
    assert [line["pixels"] for line in shown["parts"]["Class"]] == [50_200]
    assert shown["error"] == scores["error"] == scores["by_class"]["any"]
    assert scores["by_well"] == {"1": error(own["1"]), "2": error(own["2"])}
    # the diagonal, the well with enough pixels in its bins, and all
    assert shown["chart"].count("<polyline") == 3
