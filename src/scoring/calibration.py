"""What probabilities are worth: of the pixels that get about the same one, the share that is true.

Everything is added up from tallies (3, BINS): by tenths of probability the pixels, the sum of their
probabilities and how many of them are true; those of two sets of pixels add up to that of both.
"""

from typing import Any

import numpy as np

BINS = 10
Tallies = dict[str, np.ndarray]
# Every float16 from 0 to 1 has a number of its own, its bits: pixels are counted by these first.
VALUES = np.arange(np.float16(1).view(np.uint16) + 1, dtype=np.uint16).view(np.float16)
VALUES = VALUES.astype(np.float64)
BIN = (VALUES * BINS).astype(int).clip(max=BINS - 1)


def tally(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The tally (3, BINS) of pixels.

    Args:
        probability: float16, 0 to 1, of any shape.
        truth: bool, of the same.
    """
    pixels, true = histogram(probability), histogram(probability[truth])
    return np.stack([np.bincount(BIN, own, BINS) for own in (pixels, pixels * VALUES, true)])


def bits(probability: np.ndarray) -> np.ndarray:
    """Probabilities as float16, each as its place among `VALUES`."""
    return np.ascontiguousarray(probability, np.float16).view(np.uint16)


def histogram(probability: np.ndarray) -> np.ndarray:
    """How many pixels have each of `VALUES`."""
    return np.bincount(bits(probability).ravel(), minlength=len(VALUES))


def error(tally: np.ndarray) -> float:
    """The expected calibration error of a tally (3, BINS): the mean over pixels of how far the mean
    probability of their bin is from its share of true ones (Naeini et al. 2015).
    """
    pixels, predicted, true = tally
    return float(np.abs(predicted - true).sum() / max(pixels.sum(), 1))


def errors(parts: dict[str, Tallies]) -> dict[str, Any]:
    """The expected calibration errors, of all pixels and by part.

    Args:
        parts: by title, such as "Well", tallies that together are all pixels.
    """
    by = {
        f"by_{title.lower()}": {name: error(own) for name, own in tallies.items()}
        for title, tallies in parts.items()
    }
    return {"error": error(total(parts)), **by}


def total(parts: dict[str, Tallies]) -> np.ndarray:
    """The tally of all pixels; `parts` as for `errors`."""
    return np.sum(list(next(iter(parts.values())).values()), axis=0)
