"""Wells that are drawn by hand, so that what becomes of them can be worked out by hand."""

import numpy as np

from src.recipe import HMM


def split_of(
    masks: list[np.ndarray], truths: list[np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One patch a fold and well: its arrays, and the probability 0.6 where it is marked."""
    count = len(masks)
    arrays = {
        "image": np.zeros((count, 10, 10), np.float32),
        "valid": np.ones((count, 10, 10), bool),
        "group": np.arange(count),
        "depth": np.zeros(count, int),
        "parity": np.zeros(count, int),
        "fold": np.arange(count, dtype=np.int8),
        "mask": np.array(truths).astype(np.uint8),
    }
    return arrays, np.where(masks, 0.6, 0.2).astype(np.float16)


def draw(*parts: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles (row, column, height, width) on a 10 x 10 patch."""
    mask = np.zeros((10, 10), bool)
    for row, column, height, width in parts:
        mask[row : row + height, column : column + width] = True
    return mask


SMALL, LARGE, TRIPLE, SINGLE = (1, 1, 2, 2), (1, 1, 4, 4), (7, 1, 1, 3), (7, 7, 1, 1)


SMOOTHING = HMM(rows=2, floor=-2.5, width=0, strength=1.0)


def split_with_a_faint_groove(folds: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Strips of three patches, one a fold: a groove of one column that is plain in the outer
    patches and faint in the middle one.
    """
    truth = np.zeros((3 * folds, 10, 10), bool)
    truth[:, :, 4] = True
    arrays, _ = split_of(list(truth), list(truth))
    arrays["group"], arrays["depth"] = np.repeat(np.arange(folds), 3), np.tile(np.arange(3), folds)
    arrays["fold"] = arrays["group"].astype(np.int8)
    probability = np.where(truth, 0.9, 0.05)
    probability[1::3] = np.where(truth[1::3], 0.4, 0.05)
    probability[1::3, ::3, 8] = 0.45  # brighter than the faint groove, but nothing lines up with it
    return arrays, probability
