"""Scores of masks."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from src.scoring import metrics


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
        result = metrics.patch_iou(
            np.array(prediction, dtype).reshape(shape), np.array(truth, dtype).reshape(shape)
        )
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
    expected = [
        jaccard_score(t.ravel(), p.ravel(), zero_division=1)
        for p, t in zip(prediction, truth, strict=True)
    ]
    result = metrics.patch_iou(prediction, truth)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_soft_iou_by_hand_and_over_all_pixels_together() -> None:
    probability = np.array([[[0.5, 0.75]], [[0.0, 0.0]]])
    truth = np.array([[[0, 1]], [[0, 0]]], np.uint8)
    assert metrics.soft_iou(probability, truth) == pytest.approx(0.75 / 1.5)


def masks_and_truth() -> tuple[np.ndarray, np.ndarray]:
    """(12, 3, 5, 6), some masks empty on one side or on both."""
    rng = np.random.default_rng(0)
    share = rng.choice([0, 0.1, 0.5], size=(2, 12, 3, 1, 1))
    prediction, truth = (rng.random((2, 12, 3, 5, 6)) < share).astype(np.uint8)
    return prediction, truth


def test_iou_and_dice_of_each_class_agree_with_scikit_learn() -> None:
    prediction, truth = masks_and_truth()
    for score, oracle in ((metrics.iou, jaccard_score), (metrics.dice, f1_score)):
        expected = [
            [oracle(t.ravel(), p.ravel(), zero_division=1) for p, t in zip(*pair, strict=True)]
            for pair in zip(prediction, truth, strict=True)
        ]
        for dtype in (np.uint8, bool):
            result = score(prediction.astype(dtype), truth.astype(dtype))
            assert result.shape == (12, 3)
            np.testing.assert_allclose(result, expected, rtol=1e-12)
        assert 0.0 in result and 1.0 in result


def test_iou_of_each_class_is_that_of_patches() -> None:
    prediction, truth = masks_and_truth()
    for k in range(3):
        assert (
            metrics.iou(prediction, truth)[:, k].tolist()
            == metrics.patch_iou(prediction[:, k], truth[:, k]).tolist()
        )


def test_image_iou_by_hand() -> None:
    prediction, truth = np.zeros((3, 2, 1, 4), np.uint8), np.zeros((3, 2, 1, 4), np.uint8)
    truth[0, 0, 0, :2] = truth[0, 1, 0, 2] = 1
    prediction[0, 0, 0, 1:3] = 1  # one pixel right, one of the wrong class, one missed
    prediction[1, 1, 0, 0] = 1  # a false pixel on an image without defects
    assert metrics.image_iou(prediction, truth).tolist() == [1 / 3, 0, 1]


def test_image_iou_agrees_with_a_loop_over_pixels() -> None:
    prediction, truth = masks_and_truth()
    for result, p, t in zip(metrics.image_iou(prediction, truth), prediction, truth, strict=True):
        shared = union = 0
        for row in range(5):
            for column in range(6):
                predicted = {k for k in range(3) if p[k, row, column]}
                true = {k for k in range(3) if t[k, row, column]}
                shared += bool(predicted & true)
                union += bool(predicted | true)
        assert result == (shared / union if union else 1)


def test_masks_of_other_shapes_are_refused() -> None:
    for score in (metrics.iou, metrics.dice, metrics.image_iou):
        with pytest.raises(ValueError, match="alike"):
            score(np.zeros((2, 4, 5, 6), bool), np.zeros((2, 1, 5, 6), bool))
        assert len(score(np.zeros((0, 4, 5, 6), bool), np.zeros((0, 4, 5, 6), bool))) == 0
