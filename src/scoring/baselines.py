"""What a submission must beat: nothing marked, and every thin pixel marked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from src.artifacts.sealed import Arrays
from src.scoring.metrics import Score
from src.scoring.quantiles import quantiles


def all_empty(truth: np.ndarray, score: Score) -> np.ndarray:
    """The score of each patch (N,) under empty masks."""
    return score(np.zeros_like(truth), truth)


def fit_intensity(wells: Iterable[Arrays], score: Score) -> float:
    """The intensity below which marking pixels as corroded scores best on the patches of some
    blocks, of `image` and `mask`.
    """
    levels = quantiles(_Pixels(wells), np.linspace(0.001, 0.3, 40))[:, 0]
    sums = sum(
        np.array([score(block["image"] < level, block["mask"]).sum() for level in levels])
        for block in wells
    )
    return float(levels[np.argmax(sums)])


@dataclass(frozen=True)
class _Pixels:
    """The pixels (n, 1) of blocks, one after the other, as often as one likes."""

    wells: Iterable[Arrays]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (block["image"].reshape(-1, 1) for block in self.wells)


def intensity(image: np.ndarray, level: float, truth: np.ndarray, score: Score) -> np.ndarray:
    """The score of each patch (N,) when every pixel below `level` is marked."""
    return score(image < level, truth)
