"""Scores of binary masks."""

import math
from collections.abc import Callable, Iterator

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # masks and truth to the score of each patch


def patch_iou(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each patch, the official score of the CorroSeg challenge; its mean
    is the leaderboard's number.

    Two empty masks agree perfectly (1); one empty mask against one that is not gives 0, so that a
    single false pixel on an empty patch costs it whole.

    Args:
        prediction, truth: (N, ...) masks, bool or 0/1, of equal shape.

    Returns:
        (N,) float64.
    """
    prediction, truth = _packed(prediction), _packed(truth)
    shared, either = (
        np.bitwise_count(bits).sum(1, dtype=np.int64)
        for bits in (prediction & truth, prediction | truth)
    )
    return _share(shared, either)


def _packed(masks: np.ndarray) -> np.ndarray:
    """Masks (N, ...) as rows of bits, eight pixels a byte: thresholds are chosen among a
    hundred, each scored on every patch.
    """
    return np.packbits(
        masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(bool, copy=False), axis=1
    )


def iou(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each image and class, 1 where both masks are empty.

    Args:
        prediction, truth: (N, K, H, W) masks, bool or 0/1, of equal shape.

    Returns:
        (N, K) float64.
    """
    shared, predicted, true = _pixels(prediction, truth)
    return _share(shared, predicted + true - shared)


def dice(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """2 I / (P + T) of each image and class, 1 where both masks are empty; its mean is the score of
    Kaggle's Severstal competition.

    Args:
        prediction, truth: (N, K, H, W) masks, bool or 0/1, of equal shape.

    Returns:
        (N, K) float64.
    """
    shared, predicted, true = _pixels(prediction, truth)
    return _share(2 * shared, predicted + true)


def image_iou(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each image, all classes together; its mean is the DeepLabV3+
    report's mIoU on Severstal (section 4).

    The intersection is the pixels that are of one class in both; the union, those of any class in
    either. 1 where that is empty.

    Args:
        prediction, truth: (N, K, H, W) masks, bool or 0/1, of equal shape.

    Returns:
        (N,) float64.
    """
    counts = [
        [np.count_nonzero(masks.any(0)) for masks in (mask & true, mask | true)]
        for mask, true in _masks(prediction, truth)
    ]
    return _share(*np.array(counts, np.int64).reshape(-1, 2).T)


def _pixels(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many pixels of each image and class are in both masks, in the prediction, and in the
    truth: (3, N, K).
    """
    counts = [
        [[np.count_nonzero(m) for m in masks] for masks in (mask & true, mask, true)]
        for mask, true in _masks(prediction, truth)
    ]
    return (
        np.array(counts, np.int64).reshape(len(prediction), 3, prediction.shape[1]).swapaxes(0, 1)
    )


def _masks(prediction: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each image's masks (K, H, W) as bool: photographs are large, and so only one is held at a
    time.
    """
    if prediction.shape != truth.shape or prediction.ndim != 4:
        raise ValueError(
            f"masks must be (N, K, H, W) and alike, not {prediction.shape} and {truth.shape}"
        )
    for mask, true in zip(prediction, truth, strict=True):
        yield mask.astype(bool, copy=False), true.astype(bool, copy=False)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.ones(whole.shape), where=whole > 0)


def soft_iou(probability: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of probabilities and masks (N, ...) over all pixels together, as the
    CorroSeg paper reports it.

    It needs no threshold and hardly notices empty patches, and so lies far above the official
    score.
    """
    p, y = probability.astype(np.float64), truth.astype(np.float64)
    intersection = (p * y).sum()
    return float(intersection / max(p.sum() + y.sum() - intersection, np.finfo(float).tiny))
