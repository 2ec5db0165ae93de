"""Metrics as functions of three counts of pixels: shared by mask and truth, predicted, true.

Counts are arrays of one shape, and so are the scores, 0 to 1; a score of a set of images is their
mean. Any competition may define a metric of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

OfCounts = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A name for tables, and the score of each image and class from (shared, predicted, true)."""

    name: str
    of: OfCounts


def iou(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union, 1 where mask and truth are empty: one false pixel then costs all."""
    return _share(shared, predicted + true - shared)


def dice(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """2 I / (P + T), 1 where mask and truth are empty."""
    return _share(2 * shared, predicted + true)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.ones(whole.shape), where=whole > 0)


MEAN_DICE = Metric("mean Dice of each image and class, 1 where both are empty", dice)
