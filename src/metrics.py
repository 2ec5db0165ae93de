"""Scores of binary masks."""

from collections.abc import Callable

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # masks and truth to the score of each patch


def patch_iou(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each patch, the official score of the CorroSeg challenge; its mean is the leaderboard's number.

    Two empty masks agree perfectly (1); one empty mask against one that is not gives 0, so that a single false pixel on an empty
    patch costs it whole.

    Args:
        prediction, truth: (N, ...) masks, bool or 0/1, of equal shape.

    Returns:
        (N,) float64.
    """
    prediction = prediction.reshape(len(prediction), -1).astype(bool, copy=False)
    truth = truth.reshape(len(truth), -1).astype(bool, copy=False)
    intersection, union = (prediction & truth).sum(1), (prediction | truth).sum(1)
    return np.divide(intersection, union, out=np.ones(len(union)), where=union > 0)


def soft_iou(probability: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of probabilities and masks (N, ...) over all pixels together, as the CorroSeg paper reports it.

    It needs no threshold and hardly notices empty patches, and so lies far above the official score.
    """
    p, y = probability.astype(np.float64), truth.astype(np.float64)
    intersection = (p * y).sum()
    return float(intersection / max(p.sum() + y.sum() - intersection, np.finfo(float).tiny))
