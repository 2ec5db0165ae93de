"""What a submission must beat: nothing marked, and every thin pixel marked; and whether it does."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from src.artifacts.sealed import Arrays
from src.scoring.metrics import Score
from src.scoring.quantiles import quantiles

TITLES = {"all_empty": "empty masks", "intensity": "one threshold on intensity"}


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


def judgement(score: float, baselines: dict[str, float]) -> dict[str, str]:
    """What the scores of a run say of it where its own lies below or at a baseline's, by the name
    "judgement"; else nothing.

    Args:
        baselines: scores by the names in `TITLES`, of the same images as `score`.
    """
    lost = [f"{TITLES[name]} ({value:.4f})" for name, value in baselines.items() if score <= value]
    if not lost:
        return {}
    told = (
        f"the out-of-fold score {score:.4f} is not above that of {' and of '.join(lost)}, which "
        "need no network: do not submit this; train for more epochs, or on other data"
    )
    return {"judgement": told}
