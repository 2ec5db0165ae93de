"""Scores of masks."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from src.competitions.metrics import Metric, OfCounts, dice, iou
from src.scoring import metrics
from src.scoring.metrics import scorer
from tests.tiny import patch_iou


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 1, id="both empty"),
        pytest.param([1, 0, 0, 0], [0, 0, 0, 0], 0, id="one false pixel on an empty patch"),
        pytest.param([0, 0, 0, 0], [0, 1, 0, 0], 0, id="nothing found"),
        pytest.param([1, 1, 0, 0], [0, 1, 1, 0], 1 / 3, id="one of three shared"),
        pytest.param([1, 1, 1, 0], [0, 1, 1, 0], 2 / 3, id="one pixel too many"),
        pytest.param([1, 1, 1, 1], [1, 1, 1, 1], 1, id="full and equal"),
        pytest.param([1, 0, 1, 0], [0, 1, 0, 1], 0, id="disjoint"),
    ],
)
def test_iou_of_a_hand_worked_patch(
    prediction: list[int], truth: list[int], expected: float
) -> None:
    shape = (1, 2, 2)
    for dtype in (np.uint8, bool):
        result = patch_iou(
            np.array(prediction, dtype).reshape(shape), np.array(truth, dtype).reshape(shape)
        )
        assert result == pytest.approx([expected])


def test_score_is_the_mean_over_patches_not_over_pixels() -> None:
    truth, prediction = np.zeros((3, 10, 10), np.uint8), np.zeros((3, 10, 10), np.uint8)
    truth[0] = prediction[0, :5] = 1  # half of a large one found
    prediction[1, 0, 0] = 1  # a false pixel on an empty patch
    assert patch_iou(prediction, truth).tolist() == [0.5, 0, 1]
    assert patch_iou(prediction, truth).mean() == 0.5


def test_iou_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    share = rng.choice([0.02, 0.3, 0.9], size=(2, 60, 1, 1))
    prediction, truth = (rng.random((2, 60, 6, 6)) < share).astype(np.uint8)
    expected = [
        jaccard_score(t.ravel(), p.ravel(), zero_division=1)
        for p, t in zip(prediction, truth, strict=True)
    ]
    result = patch_iou(prediction, truth)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_soft_iou_by_hand_and_over_all_pixels_together() -> None:
    probability = np.array([[[0.5, 0.75]], [[0.0, 0.0]]])
    truth = np.array([[[0, 1]], [[0, 0]]], np.uint8)
    assert metrics.soft_iou(metrics.soft_counts(probability, truth)) == pytest.approx(0.75 / 1.5)


def masks_and_truth() -> tuple[np.ndarray, np.ndarray]:
    """(12, 3, 5, 6), some masks empty on one side or on both."""
    rng = np.random.default_rng(0)
    share = rng.choice([0, 0.1, 0.5], size=(2, 12, 3, 1, 1))
    prediction, truth = (rng.random((2, 12, 3, 5, 6)) < share).astype(np.uint8)
    return prediction, truth


def pixels(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Shared, predicted and true pixels, one after the other."""
    shared = predicted = true = 0
    for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        shared, predicted, true = shared + (p and t), predicted + p, true + t
    return shared, predicted, true


def by_hand_iou(shared: int, predicted: int, true: int) -> float:
    union = predicted + true - shared
    return shared / union if union else 1


def by_hand_dice(shared: int, predicted: int, true: int) -> float:
    return 2 * shared / (predicted + true) if predicted + true else 1


def missed(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """A metric of one's own, not alike in mask and truth: true pixels weigh three times as much."""
    return 1 - (predicted + 3 * true - 4 * shared) / np.maximum(predicted + 3 * true, 1)


def by_hand_missed(shared: int, predicted: int, true: int) -> float:
    return 1 - (predicted + 3 * true - 4 * shared) / max(predicted + 3 * true, 1)


OWN = Metric("missed pixels", missed)


@pytest.mark.parametrize(
    ("of_counts", "by_hand"),
    [(iou, by_hand_iou), (dice, by_hand_dice), (OWN.of, by_hand_missed)],
)
@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_any_metric_of_counts_is_that_of_a_loop_over_pixels(
    of_counts: OfCounts, by_hand: Callable[..., float], dtype: type
) -> None:
    """Of masks with one plane and with several, whose pixels are counted together."""
    prediction, truth = masks_and_truth()
    for p, t in ((prediction[:, 0], truth[:, 0]), (prediction, truth)):
        expected = [by_hand(*pixels(a, b)) for a, b in zip(p, t, strict=True)]
        p, t = p.astype(dtype), t.astype(dtype)
        for result in (metrics.score(of_counts, p, t), scorer(Metric("x", of_counts))(p, t)):
            assert result.shape == (12,) and result.dtype == np.float64
            np.testing.assert_allclose(result, expected, rtol=1e-15)
        assert len(set(expected)) > 3


@pytest.mark.parametrize(("of_counts", "by_hand"), [(iou, by_hand_iou), (dice, by_hand_dice)])
def test_counts_of_each_class_give_the_score_of_each_class(
    of_counts: OfCounts, by_hand: Callable[..., float]
) -> None:
    prediction, truth = masks_and_truth()
    for p, t in zip(prediction, truth, strict=True):
        counts = metrics.counts(p, t)
        assert counts.T.tolist() == [list(pixels(a, b)) for a, b in zip(p, t, strict=True)]
        expected = [by_hand(*pixels(a, b)) for a, b in zip(p, t, strict=True)]
        np.testing.assert_allclose(of_counts(*counts), expected, rtol=1e-15)


@pytest.mark.parametrize("of_counts", [iou, dice])
def test_no_masks_have_no_scores(of_counts: OfCounts) -> None:
    assert metrics.score(of_counts, *np.zeros((2, 0, 5, 6), bool)).shape == (0,)


def test_image_iou_by_hand() -> None:
    """One pixel right, one of the wrong class, one missed; a false pixel; nothing at all."""
    truth = np.array([[[1, 1, 2, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]])
    prediction = np.array([[[0, 1, 1, 0]], [[2, 0, 0, 0]], [[0, 0, 0, 0]]])
    found = [metrics.image_iou(p, t) for p, t in zip(prediction, truth, strict=True)]
    assert found == [1 / 3, 0, 1]


def test_image_iou_agrees_with_sets_of_places_and_labels() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        p, t = rng.integers(0, 3, (2, 5, 6))
        shared = sum(a == b > 0 for a, b in zip(p.flat, t.flat, strict=True))
        union = sum(bool(a or b) for a, b in zip(p.flat, t.flat, strict=True))
        assert metrics.image_iou(p, t) == shared / union
