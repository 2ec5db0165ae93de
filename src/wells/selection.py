"""Average the predictions of all tasks by name, and choose what is applied to them out of fold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src import artifacts, competitions
from src.artifacts import Arrays, CreatedFrom, Paths, content_digest, digest, made_from, streams
from src.recipe import Recipe
from src.scoring.metrics import Score
from src.terminal.errors import UserError
from src.wells import blocks
from src.wells.blocks import Blocks
from src.wells.prediction import predictions_from

# Finer towards 0 and 1, where a followed groove (`src.wells.hmm`) leaves whole wells.
_TAIL = [0.005, 0.01, 0.015, 0.02, 0.03, 0.04]
THRESHOLDS = np.array([*_TAIL, *np.arange(5, 96) / 100, *(1 - p for p in reversed(_TAIL))])
HALF = int(np.flatnonzero(THRESHOLDS == 0.5)[0])


def oof_files(recipe: Recipe, paths: Paths) -> list[list[Path]]:
    """The out-of-fold predictions: a source for each member and seed, a file for each of its
    folds.
    """
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
        for file, stage in (
            (paths.oof(recipe, task), "01_train_folds.py"),
            (paths.test(recipe, task), "02_predict.py"),
        ):
            if not made_from(file, inputs):
                raise UserError(
                    f"{file} is missing or of other weights or settings: run {stage} "
                    "with the same arguments first"
                )
            files.append(file)
    return {"prepared": prepared, "predictions": digest(*map(content_digest, files))}


def write(recipe: Recipe, paths: Paths, prepared: str, inputs: CreatedFrom) -> str:
    """Write data/ensembles/<recipe>.h5 with the threshold chosen out of fold; returns what the
    user should know.
    """
    target, score = paths.ensemble(recipe), competitions.get(recipe.competition).score
    train, test = (
        blocks.prepared(recipe, paths, split, large)
        for split, large in (("train", ["mask"]), ("test", []))
    )
    with streams.filling(target, inputs) as file:
        file.notes.update(
            thresholds(
                _averaged(
                    file, "oof", train, Sources(oof_files(recipe, paths), train.index["name"])
                ),
                score,
            )
        )
        for _ in _averaged(
            file, "test", test, Sources(test_files(recipe, paths), test.index["name"])
        ):
            pass
        notes = file.notes
    alone = len(notes["threshold_without_fold"]) == 1
    how = (
        "of one fold, with none to choose a threshold on: at one half"
        if alone
        else "each fold at the threshold of the others"
    )
    return (
        f"{target}: {len(train)} out-of-fold and {len(test)} test patches from "
        f"{len(recipe.tasks())} tasks\n"
        f"threshold {notes['threshold']:.2f}; out-of-fold score {notes['oof_score']:.4f}, {how}"
    )


def _averaged(
    file: streams.Filling, part: str, wells: Blocks, sources: "Sources"
) -> Iterator[Arrays]:
    """The blocks of a split with the mean `probability` (n, H, W) of each patch, once it is
    written.
    """
    file.put(f"{part}/name", sources.names)
    file.create(f"{part}/probability", (len(wells), *sources.shape), np.float16)
    for block in wells:
        probability = sources.mean(block["place"])
        file.write(f"{part}/probability", int(block["place"][0]), probability)
        yield block | {"probability": probability[:, 0]}


class Sources:
    """Predictions to be averaged by name, a few patches at a time.

    Args:
        files: sources to be averaged, each a list of files that together hold every name once (the
            folds of one member and seed, out of fold; a single file for the test set).
        names: (N,) the patches in the order in which they are counted; without it, that of the
            first source.

    Raises:
        UserError: a file is missing or damaged, or a source does not hold these names.
    """

    def __init__(self, files: list[list[Path]], names: np.ndarray | None = None) -> None:
        self.files, self.names = files, names
        self.shape = artifacts.read_shape(files[0][0], "probability")[1:]
        # for each source and name the file, and the row in it
        self.where: list[tuple[np.ndarray, np.ndarray]] = []
        for source in files:
            own = [artifacts.read_arrays(file, ["name"])["name"] for file in source]
            self.names = np.concatenate(own) if self.names is None else self.names
            rows = rows_by_name(np.concatenate(own), self.names, str(source[0]))
            ends = np.cumsum([len(part) for part in own])
            file = np.searchsorted(ends, rows, side="right")
            self.where.append((file.astype(np.int16), rows - np.append(0, ends)[file]))

    def mean(self, place: np.ndarray) -> np.ndarray:
        """The mean probability (n, K, H, W) float16 of the patches in some places (n,) of
        `names`.
        """
        total = np.zeros((len(place), *self.shape), np.float32)
        for source, (file, row) in zip(self.files, self.where, strict=True):
            for number in np.unique(file[place]):
                own = file[place] == number
                total[own] += artifacts.read_rows(source[number], ["probability"], row[place][own])[
                    "probability"
                ]
        return (total / len(self.files)).astype(np.float16)


def average(files: list[list[Path]]) -> Arrays:
    """`name` (N,) and `probability` (N, K, H, W) of all patches at once, as `Sources` gives
    them.
    """
    sources = Sources(files)
    return {"name": sources.names, "probability": sources.mean(np.arange(len(sources.names)))}


def predicted(recipe: Recipe, paths: Paths, split: str) -> Blocks:
    """A split in blocks of whole wells, as prepared, with the ensemble's `probability` (n, H, W)
    of each patch.
    """
    source, part = paths.ensemble(recipe), "oof" if split == "train" else split
    split_as_prepared = blocks.prepared(
        recipe, paths, split, ["image", "valid", *(["mask"] if split == "train" else [])]
    )
    rows = rows_by_name(
        artifacts.read_split(source, part, ["name"])["name"],
        split_as_prepared.index["name"],
        str(source),
    )
    name = f"{part}/probability"
    return split_as_prepared.joined(
        "probability", lambda place: artifacts.read_rows(source, [name], rows[place])[name][:, 0]
    )


def rows_by_name(have: np.ndarray, want: np.ndarray, where: str) -> np.ndarray:
    """For each wanted name its row in `have`; both must hold the same names, each once.

    Raises:
        UserError: they do not; `where` is the file to blame.
    """
    row_of = {name: row for row, name in enumerate(have)}
    if len(row_of) < len(have) or row_of.keys() != set(want):
        odd = sorted(row_of.keys() ^ set(want)) or ["a name that stands twice"]
        raise UserError(
            f"{where}: holds other patches than expected ({odd[0]}): run the stage "
            "that makes it again with --force"
        )
    return np.array([row_of[name] for name in want])


def thresholds(wells: Iterable[Arrays], score: Score) -> dict[str, Any]:
    """What `describe_thresholds` says of the best on some blocks, gone through once:
    `probability`, `mask` (n, H, W) and `fold` (n,).
    """
    sums_of: dict[int, np.ndarray] = {}
    patches: dict[int, int] = {}
    for block in wells:
        folds, part = np.unique(block["fold"], return_inverse=True)
        own = sums(threshold_scores(block["probability"], block["mask"], score), part, len(folds))
        for place, fold in enumerate(folds.tolist()):
            sums_of[fold] = sums_of.get(fold, 0) + own[:, place]
            patches[fold] = patches.get(fold, 0) + int((part == place).sum())
    folds = sorted(patches)
    choice = choose(
        np.stack([sums_of[fold] for fold in folds], axis=1),
        np.array([patches[fold] for fold in folds]),
    )
    return describe_thresholds(choice, folds)


def threshold_scores(probability: np.ndarray, truth: np.ndarray, score: Score) -> np.ndarray:
    """(T, N) score of each patch at each of `THRESHOLDS`, from probabilities and masks (N, H,
    W).
    """
    # Comparing small integers a hundred times is cheaper than comparing probabilities: how many
    # thresholds lie below each.
    below = np.searchsorted(THRESHOLDS, probability.astype(np.float32)).astype(np.uint8)
    return np.array([score(below > number, truth) for number in range(len(THRESHOLDS))])


def scored(train: Arrays, names: np.ndarray, where: Path) -> Arrays:
    """The training patches that count, those in a fold, in the order of the out-of-fold `names`."""
    kept = {name: array[train["fold"] >= 0] for name, array in train.items()}
    rows = rows_by_name(kept["name"], names, str(where))
    return {name: array[rows] for name, array in kept.items()}


def sums(scores: np.ndarray, part: np.ndarray, parts: int) -> np.ndarray:
    """(C, P) sums of the scores (C, N) of patches over each of the parts (N,) that they belong to.

    Equal scores have equal sums, to the last digit, so that candidates that tie on patches tie in a
    choice.
    """
    return np.array([np.bincount(part, own, parts) for own in scores])


@dataclass(frozen=True)
class Choice:
    """What is best on all folds, and on all but each fold (F,): the latter is what scores that
    fold honestly, on average `score`.
    """

    overall: int
    without: list[int]
    score: float


def choose(scores: np.ndarray, patches: np.ndarray) -> Choice:
    """Choose among thresholds by their mean score. A fold that is alone has nothing else to choose
    on, and is scored at one half.

    Args:
        scores: (T, F) sums of the scores of each fold's patches at each threshold; of equals the
            first wins.
        patches: (F,) how many each fold has.
    """
    without = (
        [int(np.delete(scores, fold, axis=1).sum(1).argmax()) for fold in range(len(patches))]
        if len(patches) > 1
        else [HALF]
    )
    honest = sum(scores[candidate, fold] for fold, candidate in enumerate(without))
    return Choice(int(scores.sum(1).argmax()), without, float(honest / patches.sum()))


def describe_thresholds(choice: Choice, folds: Sequence[int]) -> dict[str, Any]:
    """A choice among `THRESHOLDS` as the notes of the ensemble's file."""
    without = {
        str(fold): float(THRESHOLDS[index])
        for fold, index in zip(folds, choice.without, strict=True)
    }
    return {
        "threshold": float(THRESHOLDS[choice.overall]),
        "threshold_without_fold": without,
        "oof_score": choice.score,
    }
