"""Average the predictions of all tasks by name, and choose what is applied to them out of fold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import competitions
from src.artifacts import Arrays, CreatedFrom, Paths, content_digest, digest, made_from, read_arrays, write_splits
from src.errors import UserError
from src.inference import predictions_from, read_split
from src.metrics import Score
from src.recipe import Recipe

# Finer towards 0 and 1, where a followed groove (`src.track`) leaves whole wells.
_TAIL = [0.005, 0.01, 0.015, 0.02, 0.03, 0.04]
THRESHOLDS = np.array([*_TAIL, *np.arange(5, 96) / 100, *(1 - p for p in reversed(_TAIL))])


def oof_files(recipe: Recipe, paths: Paths) -> list[list[Path]]:
    """The out-of-fold predictions: a source for each member and seed, a file for each of its folds."""
    sources: dict[tuple[str, int], list[Path]] = {}
    for task in recipe.tasks():
        sources.setdefault((task.member, task.seed), []).append(paths.oof(recipe, task))
    return list(sources.values())


def test_files(recipe: Recipe, paths: Paths) -> list[list[Path]]:
    """The test predictions: every task is a source of its own."""
    return [[paths.test(recipe, task)] for task in recipe.tasks()]


def created_from(recipe: Recipe, paths: Paths, prepared: str) -> CreatedFrom:
    """What the ensemble is made from: the content of every task's predictions.

    Raises:
        UserError: predictions are missing, or of other weights or settings than today's.
    """
    files = []
    for task in recipe.tasks():
        inputs = predictions_from(recipe, task, paths, prepared)
        for file, stage in ((paths.oof(recipe, task), "01_train_folds.py"), (paths.test(recipe, task), "02_predict.py")):
            if not made_from(file, inputs):
                raise UserError(f"{file} is missing or of other weights or settings: run {stage} with the same arguments first")
            files.append(file)
    return {"prepared": prepared, "predictions": digest(*map(content_digest, files))}


def write(recipe: Recipe, paths: Paths, prepared: str, inputs: CreatedFrom) -> str:
    """Write data/ensembles/<recipe>.h5 with the threshold chosen out of fold; returns what the user should know."""
    target = paths.ensemble(recipe)
    oof, test = average(oof_files(recipe, paths)), average(test_files(recipe, paths))
    train = scored(read_split(paths, recipe, "train", "mask", "fold"), oof["name"], target)
    scores = threshold_scores(oof["probability"], train["mask"], competitions.get(recipe.competition).score)
    choice = choose(scores, train["fold"])
    notes = describe_thresholds(choice)
    write_splits(target, {"oof": oof, "test": test}, inputs, **notes)
    return (
        f"{target}: {len(oof['name'])} out-of-fold and {len(test['name'])} test patches from {len(recipe.tasks())} tasks\n"
        f"threshold {notes['threshold']:.2f}; out-of-fold score {choice.score.mean():.4f}, each fold at the threshold of the others"
    )


def average(files: list[list[Path]]) -> Arrays:
    """Mean probability by name.

    Args:
        files: sources to be averaged, each a list of files that together hold every name once (the folds of one member and seed,
            out of fold; a single file for the test set).

    Returns:
        `name` (N,) in the order of the first source, `probability` (N, K, H, W) float16.

    Raises:
        UserError: a file is missing or damaged, or two sources do not hold the same names.
    """
    names, total = None, None
    for source in files:
        parts = [read_arrays(file, ["name", "probability"]) for file in source]
        own = np.concatenate([part["name"] for part in parts])
        probability = np.concatenate([part["probability"] for part in parts]).astype(np.float32)
        if names is None:
            names, total = own, np.zeros_like(probability)
        total += probability[rows_by_name(own, names, str(source[0]))]
    return {"name": names, "probability": (total / len(files)).astype(np.float16)}


def rows_by_name(have: np.ndarray, want: np.ndarray, where: str) -> np.ndarray:
    """For each wanted name its row in `have`; both must hold the same names, each once.

    Raises:
        UserError: they do not; `where` is the file to blame.
    """
    row_of = {name: row for row, name in enumerate(have)}
    if len(row_of) < len(have) or row_of.keys() != set(want):
        odd = sorted(row_of.keys() ^ set(want)) or ["a name that stands twice"]
        raise UserError(f"{where}: holds other patches than expected ({odd[0]}): run the stage that makes it again with --force")
    return np.array([row_of[name] for name in want])


def threshold_scores(probability: np.ndarray, truth: np.ndarray, score: Score) -> np.ndarray:
    """(T, N) score of each patch at each of `THRESHOLDS`, from probabilities (N, 1, H, W) and masks (N, H, W)."""
    # Comparing small integers a hundred times is cheaper than comparing probabilities: how many thresholds lie below each.
    below = np.searchsorted(THRESHOLDS, probability[:, 0].astype(np.float32)).astype(np.uint8)
    return np.array([score(below > number, truth) for number in range(len(THRESHOLDS))])


def scored(train: Arrays, names: np.ndarray, where: Path) -> Arrays:
    """The training patches that count, those in a fold, in the order of the out-of-fold `names`."""
    kept = {name: array[train["fold"] >= 0] for name, array in train.items()}
    rows = rows_by_name(kept["name"], names, str(where))
    return {name: array[rows] for name, array in kept.items()}


@dataclass(frozen=True)
class Choice:
    """What is best on all folds, and on all but each fold: the latter is what scores that fold honestly."""

    overall: int
    without: dict[int, int]
    score: np.ndarray  # (N,) the score of each patch under the choice made without its fold


def choose(scores: np.ndarray, fold: np.ndarray) -> Choice:
    """Choose among candidates by their mean score.

    Args:
        scores: (C, N) score of each patch under each candidate; of equals the first wins.
        fold: (N,) fold of each patch.
    """
    without = {int(f): int(scores[:, fold != f].mean(1).argmax()) for f in np.unique(fold)}
    nested = np.empty(scores.shape[1])
    for f, candidate in without.items():
        nested[fold == f] = scores[candidate, fold == f]
    return Choice(int(scores.mean(1).argmax()), without, nested)


def describe_thresholds(choice: Choice) -> dict[str, Any]:
    """A choice among `THRESHOLDS` as the notes of the ensemble's file."""
    without = {str(fold): float(THRESHOLDS[index]) for fold, index in choice.without.items()}
    return {"threshold": float(THRESHOLDS[choice.overall]), "threshold_without_fold": without, "oof_score": float(choice.score.mean())}
