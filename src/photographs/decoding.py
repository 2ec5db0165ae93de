"""From probabilities to masks: pixels above a threshold, or the mask of the highest expected Dice,
without components that are too small; and what each of the candidates is worth on a photograph.

Probabilities of 0 to 1 in float16, as they are stored, are compared by their bits, which have the
same order: numpy compares float16 itself many times slower.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from src.scoring.calibration import VALUES, bits, histogram

# The last marks nothing: where a class is hopeless, empty masks score best.
THRESHOLDS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
HALF = 5  # the place of one half among them
# stored probabilities are multiples of 1/1024, far finer than any threshold: noise would not
# compress
STEPS = 1024


def level_of_expected_dice(probability: np.ndarray) -> float:
    """The level above which pixels (H, W) are to be marked for the highest expected Dice; 1, which
    marks nothing, where all probabilities are zero.

    Pixels are taken as independent, the most likely ones are marked, and the true pixels in the
    denominator of 2 I / (P + T) are replaced by their mean (RankSEG, Dai and Li 2023, section 4;
    its error falls with the number of true pixels). The level comes out as half of that Dice.
    """
    pixels = histogram(probability)[:0:-1]  # the likeliest first, those of probability 0 left out
    shared, marked = np.cumsum(pixels * VALUES[:0:-1]), np.cumsum(pixels)
    if not shared[-1]:
        return 1.0
    best = np.argmax(2 * shared / (marked + shared[-1]))
    place = len(pixels) - best
    return float(VALUES[place - 1 : place + 1].mean())


def above(probability: np.ndarray, level: float) -> np.ndarray:
    """Which pixels exceed a level of 0 to 1."""
    if probability.dtype != np.float16:
        return probability > level
    return bits(probability) >= np.searchsorted(VALUES, level, side="right")


def mask_of(
    probability: np.ndarray,
    threshold: Sequence[float],
    min_size: Sequence[int],
    expected_dice: Sequence[bool] = (),
) -> np.ndarray:
    """Masks (K, H, W) uint8 of one photograph: a threshold and a smallest component a class.

    With `expected_dice` a class's mask is that of the highest expected Dice, if any of its pixels
    exceeds the threshold, and empty otherwise.
    """
    masks = np.zeros(probability.shape, np.uint8)
    for k, p in enumerate(probability):
        level = threshold[k]
        if expected_dice and expected_dice[k] and above(p, level).any():
            level = level_of_expected_dice(p)
        masks[k] = above(p, level)
        if min_size[k] > 1:
            label, _ = ndimage.label(masks[k], np.ones((3, 3)))
            large = np.bincount(label.ravel()) >= min_size[k]
            large[0] = False
            masks[k] = large[label]
    return masks


def overlaps(
    probability: np.ndarray, truth: np.ndarray, sizes: Sequence[int], expected_dice: bool = False
) -> np.ndarray:
    """Pixels (2, T, S, K) of one photograph (K, H, W) that are shared with the truth, and that are
    predicted, at each of `THRESHOLDS` and without components of fewer than each of `sizes` pixels;
    with `expected_dice` at each of them in its second sense too.

    Pixels touch across edges and corners.
    """
    count = len(THRESHOLDS)
    shape = (2, count * (1 + expected_dice), len(sizes), len(truth))
    result = np.zeros(shape, np.int64)
    for k, (p, y) in enumerate(zip(probability, truth, strict=True)):
        if expected_dice:
            result[:, count:, :, k] = _at(level_of_expected_dice(p), p, y, sizes)[:, None]
        for t, threshold in enumerate(THRESHOLDS):
            box = _box(above(p, threshold))
            p, y = p[box], y[box]  # what lies outside is below every further threshold too
            if not p.size:
                result[:, count + t :, :, k] = 0  # nothing exceeds this threshold
                break
            result[:, t, :, k] = _at(threshold, p, y, sizes)
    return result


def _at(level: float, p: np.ndarray, y: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Pixels (2, S) of one class (H, W), shared and predicted, above a level."""
    label, count = ndimage.label(above(p, level), np.ones((3, 3)))
    area = np.bincount(label.ravel(), minlength=count + 1)[1:]
    hit = np.bincount(label[y > 0], minlength=count + 1)[1:]
    return np.array([[own[area >= size].sum() for size in sizes] for own in (hit, area)])


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest box that holds all of a mask (H, W), an empty one for an empty mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
