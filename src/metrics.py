"""Scores of binary masks."""

import numpy as np


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
