"""Scores of masks by any metric that is a function of three counts of pixels."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from src.competitions.metrics import Metric, OfCounts

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # masks and truth to the score of each image


def scorer(metric: Metric) -> Score:
    """`score` by a competition's metric."""
    return partial(score, metric.of)


def score(of_counts: OfCounts, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The score (N,) float64 of each of N binary masks, all its pixels counted together.

    Args:
        prediction, truth: (N, ...) masks, bool or 0/1, of equal shape.
    """
    # As rows of bits, eight pixels a byte: thresholds are selected among a hundred.
    prediction, truth = _packed(prediction), _packed(truth)
    counts = (
        np.bitwise_count(bits).sum(1, dtype=np.int64)
        for bits in (prediction & truth, prediction, truth)
    )
    return of_counts(*counts)


def _packed(masks: np.ndarray) -> np.ndarray:
    flat = masks.reshape(len(masks), math.prod(masks.shape[1:]))
    return np.packbits(flat.astype(bool, copy=False), axis=1)


def counts(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Shared, predicted and true pixels (3, K) int64 of one image's masks (K, H, W) of 0 and 1."""
    both = (prediction > 0) & (truth > 0)
    return np.array(
        [[np.count_nonzero(own) for own in masks] for masks in (both, prediction, truth)]
    )


def image_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of one image's label maps (H, W), 0 being the background; 1 where
    both are empty.

    The intersection is the pixels of one class in both, the union those of any class in either. Its
    mean over photographs is mIoU in the DeepLabV3+ report on Severstal (section 4), which does not
    say whether the background is a class; here it is none.
    """
    union = np.count_nonzero((prediction > 0) | (truth > 0))
    return np.count_nonzero((prediction == truth) & (truth > 0)) / union if union else 1.0


def soft_counts(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection and union (2,) of probabilities and masks (N, ...) over all pixels together;
    those of several parts add up.
    """
    p, y = probability.astype(np.float64), truth.astype(np.float64)
    intersection = (p * y).sum()
    return np.array([intersection, p.sum() + y.sum() - intersection])


def soft_iou(counts: np.ndarray) -> float:
    """Intersection over union of `soft_counts`.

    The CorroSeg paper reports its mean over batches. It needs no threshold and hardly notices empty
    patches, and so lies far above the official score.
    """
    intersection, union = counts
    return float(intersection / max(union, np.finfo(float).tiny))
