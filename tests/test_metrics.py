"""Scores of masks."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from src import metrics


@pytest.mark.parametrize(
    ("prediction", "truth", "iou"),
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
def test_iou_of_a_hand_worked_patch(prediction: list[int], truth: list[int], iou: float) -> None:
    shape = (1, 2, 2)
    for dtype in (np.uint8, bool):
        result = metrics.patch_iou(np.array(prediction, dtype).reshape(shape), np.array(truth, dtype).reshape(shape))
        assert result == pytest.approx([iou])


def test_score_is_the_mean_over_patches_not_over_pixels() -> None:
    truth, prediction = np.zeros((3, 10, 10), np.uint8), np.zeros((3, 10, 10), np.uint8)
    truth[0] = prediction[0, :5] = 1  # half of a large one found
    prediction[1, 0, 0] = 1  # a false pixel on an empty patch
    assert metrics.patch_iou(prediction, truth).tolist() == [0.5, 0, 1]
    assert metrics.patch_iou(prediction, truth).mean() == 0.5


def test_iou_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    share = rng.choice([0.02, 0.3, 0.9], size=(2, 60, 1, 1))
    prediction, truth = (rng.random((2, 60, 6, 6)) < share).astype(np.uint8)
    expected = [jaccard_score(t.ravel(), p.ravel(), zero_division=1) for p, t in zip(prediction, truth, strict=True)]
    result = metrics.patch_iou(prediction, truth)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_soft_iou_by_hand_and_over_all_pixels_together() -> None:
    probability = np.array([[[0.5, 0.75]], [[0.0, 0.0]]])
    truth = np.array([[[0, 1]], [[0, 0]]], np.uint8)
    assert metrics.soft_iou(probability, truth) == pytest.approx(0.75 / 1.5)
