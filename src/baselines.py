"""What a submission must beat: nothing marked, and every thin pixel marked."""

import numpy as np

from src.metrics import Score


def all_empty(truth: np.ndarray, score: Score) -> np.ndarray:
    """The score of each patch (N,) under empty masks."""
    return score(np.zeros_like(truth), truth)


def fit_intensity(image: np.ndarray, truth: np.ndarray, score: Score) -> float:
    """The intensity below which marking pixels as corroded scores best on these patches."""
    levels = np.quantile(image, np.linspace(0.001, 0.3, 40))
    return float(max(levels, key=lambda level: score(image < level, truth).mean()))


def intensity(image: np.ndarray, level: float, truth: np.ndarray, score: Score) -> np.ndarray:
    """The score of each patch (N,) when every pixel below `level` is marked."""
    return score(image < level, truth)
