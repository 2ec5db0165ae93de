"""Nested selection: what is best on all folds, and for each fold what is best on the others.

The second is what a fold is scored with, so that no score is one of what was selected on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """One of G settings common to all classes, and for each of the K classes one candidate."""

    setting: int
    candidates: tuple[int, ...]

    @property
    def candidate(self) -> int:
        """That of the only class."""
        (only,) = self.candidates
        return only


@dataclass(frozen=True)
class Nested:
    """What is selected at the end, and what scores each fold (F,)."""

    final: Choice
    without: list[Choice]


def select(
    sums: np.ndarray, default: int = 0, allowed: Sequence[Sequence[int]] | None = None
) -> Nested:
    """The candidates with the highest sums of scores; of equals the first wins.

    Args:
        sums: (G, C, K, F) over the images of each fold, of candidate C for class K under setting
            G; or (C, F), with one setting and one class.
        default: the candidate for a fold that is alone: it has no other to select on.
        allowed: the candidates of each fold and, last, of the end, the preferred first; without
            it all, in order.
    """
    sums = sums[None, :, None, :] if sums.ndim == 2 else sums
    folds = sums.shape[3]
    allowed = [range(sums.shape[1])] * (folds + 1) if allowed is None else allowed
    final = _best(sums.sum(3), allowed[-1])
    if folds == 1:
        alone = Choice(0, (default,) * sums.shape[2])
        return Nested(final, [alone])
    others = [_best(np.delete(sums, fold, axis=3).sum(3), allowed[fold]) for fold in range(folds)]
    return Nested(final, others)


def _best(sums: np.ndarray, allowed: Sequence[int]) -> Choice:
    """Of sums (G, C, K): each class takes its best candidate, the setting is the best for all."""
    own = sums[:, list(allowed)]
    setting = int(own.max(1).sum(1).argmax())
    return Choice(setting, tuple(allowed[place] for place in own[setting].argmax(0).tolist()))


def fold_sums(scores: np.ndarray, place: np.ndarray, folds: int) -> np.ndarray:
    """(C, F) sums of the scores (C, N) of images over the folds (N,) that they belong to.

    Equal scores have equal sums, to the last digit, so that what ties on images ties in a choice.
    """
    return np.array([np.bincount(place, own, folds) for own in scores])
