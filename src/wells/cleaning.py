"""Corrupt pixels and scaling."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from src.competitions.formats.masks import slices
from src.networks.scaling import Scaling
from src.scoring.quantiles import quantiles
from src.wells.geometry import Strip

# telemetry gaps hold -999.25 or -999; real deviations lie between -1 and 1
LARGEST_DEVIATION = 100.0


def find_valid(image: np.ndarray) -> np.ndarray:
    """True where a pixel is a measurement: finite, and neither a placeholder nor as far from 0
    as one.
    """
    return np.abs(image) < LARGEST_DEVIATION


def holds_placeholder(image: np.ndarray) -> np.ndarray:
    """(N,) True where a patch (H, W) has a value below -100; NaN is none (CorroSeg paper, section
    2.1, as its code has it).
    """
    return (image < -LARGEST_DEVIATION).any((1, 2))


def repair(image: np.ndarray, valid: np.ndarray, strips: list[Strip]) -> np.ndarray:
    """Patches (N, H, W) with every invalid pixel filled from its valid neighbours in the well.

    A pixel becomes the mean of the nearest valid pixels to the left and right (around the ring),
    above and below (along the strip), each weighted by the inverse of its distance. A pixel with no
    valid one in its row or column is filled in a later pass, from what the earlier ones filled; a
    strip without a single valid pixel becomes zeros.
    """
    result = np.where(valid, image, 0).astype(np.float32)
    for strip in strips:
        known, values = strip.stack(valid), strip.stack(result)
        # Whole rows on both sides end every search along depth, so that the other rows need not be
        # looked at.
        near = ndimage.binary_dilation(~known.all(1))
        while known[near].any() and not known[near].all():
            values[near], known[near] = _fill(values[near], known[near])
        strip.unstack(values, result)
    return result


def _fill(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One pass of `repair` over a strip (rows, columns)."""
    width, unknown = values.shape[1], ~known
    ring = _nearest(np.tile(values, 3), np.tile(known, 3), axis=1)
    around = [
        (value[:, width : 2 * width], distance[:, width : 2 * width]) for value, distance in ring
    ]
    neighbours = around + _nearest(values, known, axis=0)
    weights = np.array([1 / distance[unknown] for _, distance in neighbours])
    filled = (weights * [value[unknown] for value, _ in neighbours]).sum(0) / np.maximum(
        weights.sum(0), np.finfo(float).tiny
    )
    values, known = values.copy(), known.copy()
    values[unknown], known[unknown] = filled, weights.sum(0) > 0
    return values, known


def _nearest(
    values: np.ndarray, known: np.ndarray, axis: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Value of and distance to the nearest known pixel before and after each pixel along an
    axis; distance infinite where none is.
    """
    result = []
    for backwards in (False, True):
        v, k = (np.flip(array, axis) if backwards else array for array in (values, known))
        place = np.expand_dims(np.arange(v.shape[axis]), 1 - axis)
        last = np.maximum.accumulate(np.where(k, place, -1), axis=axis)
        value = np.take_along_axis(v, last.clip(min=0), axis)
        distance = np.where(last < 0, np.inf, place - last)
        result.append(
            tuple(np.flip(array, axis) if backwards else array for array in (value, distance))
        )
    return result


@dataclass(frozen=True)
class Parts:
    """Patches and their valid pixels, (n, H, W) each, some at a time and as often as one likes."""

    number: int
    read: Callable[[slice], tuple[np.ndarray, np.ndarray]]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return map(self.read, slices(self.number))


def fit_scaling(parts: Parts, per_pixel: bool) -> Scaling:
    """Median and interquartile range of valid pixels, what scikit-learn's RobustScaler fits; a
    range of zero counts as one.

    `per_pixel` fits each pixel position by itself (CorroSeg paper, section 2.1), else one pair
    serves all. Both statistics are equivariant: scaling twice equals scaling once with the second
    fit, so a fold may refit on its own wells.
    """
    nowhere = ~np.any([valid.any(0) for _, valid in parts], axis=0) if per_pixel else False
    shape = nowhere.shape if per_pixel else ()
    low, middle, high = quantiles(
        _Counted(parts, nowhere, per_pixel), np.array([0.25, 0.5, 0.75])
    ).reshape(3, *shape)
    spread = np.where(high - low < 10 * np.finfo(float).eps, 1, high - low)
    return Scaling(middle.astype(np.float32), spread.astype(np.float32))


@dataclass(frozen=True)
class _Counted:
    """The pixels that a scaling is fitted to: in a column for each position, or all in one."""

    parts: Parts
    nowhere: np.ndarray | bool  # positions without a valid pixel, of which the repaired ones count
    per_pixel: bool

    def __iter__(self) -> Iterator[np.ndarray]:
        for image, valid in self.parts:
            if self.per_pixel:
                yield np.where(valid | self.nowhere, image, np.nan).reshape(len(image), -1)
            else:
                yield image[valid].reshape(-1, 1)
