"""Nested selection: against trying everything on whole numbers, which sum without rounding."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from src.scoring.selection import Choice, fold_sums, select


def best_of_all(sums: np.ndarray, folds: list[int], allowed: Sequence[int]) -> Choice:
    """Of every setting and every candidate for each class the first with the highest total."""
    settings, _, classes, _ = sums.shape
    best, highest = None, -1
    for setting in range(settings):
        for candidates in product(allowed, repeat=classes):
            total = sum(
                int(sums[setting, candidate, k, fold])
                for k, candidate in enumerate(candidates)
                for fold in folds
            )
            if total > highest:
                best, highest = Choice(setting, candidates), total
    return best


SHAPES = [(1, 5, 1, 3), (1, 4, 3, 4), (3, 4, 1, 2), (2, 3, 3, 5), (4, 2, 2, 2), (1, 1, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_each_fold_gets_what_is_best_on_the_others(shape: tuple[int, ...], seed: int) -> None:
    """Few different numbers, so that many candidates tie."""
    sums = np.random.default_rng(seed).integers(0, 4, shape)
    every, folds = range(shape[1]), list(range(shape[3]))
    nested = select(sums.astype(float))
    assert nested.final == best_of_all(sums, folds, every)
    for fold, own in enumerate(nested.without):
        assert own == best_of_all(sums, [f for f in folds if f != fold], every)
    assert len(nested.without) == shape[3]


@pytest.mark.parametrize("shape", SHAPES[:-1])
@pytest.mark.parametrize("seed", range(5))
def test_of_the_candidates_allowed_to_a_fold_the_preferred_wins_a_tie(
    shape: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sums, folds = rng.integers(0, 3, shape), list(range(shape[3]))
    allowed = [
        rng.permutation(shape[1])[: rng.integers(1, shape[1] + 1)].tolist()
        for _ in range(shape[3] + 1)
    ]
    nested = select(sums.astype(float), allowed=allowed)
    assert nested.final == best_of_all(sums, folds, allowed[-1])
    for fold, own in enumerate(nested.without):
        assert own == best_of_all(sums, [f for f in folds if f != fold], allowed[fold])


def test_by_hand() -> None:
    sums = np.array(
        [
            [1.8, 0.1, 0.3],  # 2.2; without fold 0: .4, 1: 2.1, 2: 1.9
            [0.6, 0.8, 0.5],  # 1.9; without fold 0: 1.3, 1: 1.1, 2: 1.4
            [0.0, 0.9, 0.4],  # 1.3; without fold 0: 1.3, a tie that the first wins
        ]
    )
    nested = select(sums)
    assert nested.final.candidate == 0
    assert [own.candidate for own in nested.without] == [1, 0, 0]
    # where the last is preferred, the tie is its own
    nested = select(sums, allowed=[[2, 1, 0]] * 4)
    assert [own.candidate for own in nested.without] == [2, 0, 0]
    # fold 1 may not have the best
    nested = select(sums, allowed=[[0, 1, 2], [2, 1], [0, 1, 2], [1, 2]])
    assert nested.final.candidate == 1
    assert [own.candidate for own in nested.without] == [1, 1, 0]


def test_one_setting_serves_all_classes_and_each_has_a_candidate_of_its_own() -> None:
    """The first class would rather have the first setting; the second loses more by that."""
    sums = np.zeros((2, 2, 2, 1))
    sums[0, :, 0, 0], sums[0, :, 1, 0] = [1, 5], [2, 1]
    sums[1, :, 0, 0], sums[1, :, 1, 0] = [4, 3], [1, 6]
    final = select(sums).final
    assert final == Choice(1, (0, 1))
    with pytest.raises(ValueError, match="unpack"):
        _ = final.candidate


def test_a_fold_that_is_alone_gets_the_default_and_the_end_what_is_best() -> None:
    sums = np.array([[3.0], [9.0], [5.0]])
    nested = select(sums, default=2)
    assert (nested.final.candidate, [own.candidate for own in nested.without]) == (1, [2])
    nested = select(np.repeat(sums[None, :, None], 2, axis=2), default=2)
    assert nested.without == [Choice(0, (2, 2))] and nested.final == Choice(0, (1, 1))


def test_a_folds_own_scores_never_change_its_own_choice() -> None:
    rng = np.random.default_rng(0)
    sums = rng.random((2, 15, 3, 4))
    nested = select(sums)
    for own in range(4):
        poisoned = sums.copy()
        poisoned[..., own] = rng.random((2, 15, 3)) * 4
        poisoned[1, 3, :, own] = 1000
        assert select(poisoned).without[own] == nested.without[own]
        assert select(poisoned).final == Choice(1, (3, 3, 3))


def test_candidates_that_score_alike_on_every_patch_tie_to_the_last_digit() -> None:
    scores, part = (
        np.random.default_rng(0).random((1, 5000)),
        np.random.default_rng(1).integers(0, 3, 5000),
    )
    sums = fold_sums(np.repeat(scores, 9, axis=0), part, 4)
    assert sums.shape == (9, 4) and (sums == sums[0]).all()
    np.testing.assert_allclose(sums[0], [scores[0, part == own].sum() for own in range(4)])
