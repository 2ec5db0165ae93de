"""Runs beside each other: what differs in their recipes, their scores by group, and where their
out-of-fold masks disagree.

Scores are computed from the masks in the ensembles' files and the truth in train.h5, over the
images that all runs have. A group's score is the mean over its images; the mean and the standard
deviation of differences are over groups, each counted once.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts import hdf5, lineage, sealed
from src.artifacts.run import Run
from src.recipe.section import tree_of
from src.report.pictures import Beside
from src.scoring.averaging import rows_by_name
from src.terminal.errors import UserError

BATCH = 1 << 26  # bytes of masks in memory at a time
ABSENT = "-"

Tree = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """What is found of R runs on the N images that all of them have.

    Args:
        images: (R,) how many each of them has.
        group: (N,) of each image.
        score: (R, N) by the metric that the runs share.
        view: (N,) the well or the photograph that an image is looked at in.
        differ: (N,) the share of its pixels on which not all masks agree.
        rows: (R, N) of the images in the ensembles' files; `train` (N,) in train.h5 of the first.
    """

    runs: list[Run]
    images: list[int]
    group: np.ndarray
    score: np.ndarray
    view: np.ndarray
    differ: np.ndarray
    rows: np.ndarray
    train: np.ndarray

    def by_group(self) -> list[dict[str, Any]]:
        """A line for each group: its images, the scores of all runs, and the differences of the
        others to the first.
        """
        names, images, scores = _means(self.group, self.score)
        return [
            _line(str(name), images[place], scores[:, place]) for place, name in enumerate(names)
        ]

    def overall(self) -> dict[str, Any]:
        """The line of all images together."""
        return _line("all images", len(self.group), self.score.mean(1))

    def spread(self) -> list[dict[str, Any]]:
        """For each run but the first its difference to that: mean and standard deviation (None of
        one group) over groups, and in how many groups it is higher, lower and equal.
        """
        own = np.array([line["differences"] for line in self.by_group()])
        deviation = own.std(0, ddof=1).tolist() if len(own) > 1 else [None] * own.shape[1]
        return [
            {
                "run": run.recipe.name,
                "mean": float(own[:, n].mean()),
                "deviation": deviation[n],
                "higher": int((own[:, n] > 0).sum()),
                "lower": int((own[:, n] < 0).sum()),
                "equal": int((own[:, n] == 0).sum()),
            }
            for n, run in enumerate(self.runs[1:])
        ]

    def views(self, most: int) -> list[dict[str, Any]]:
        """A line for each of the wells or photographs, so many at most, whose masks disagree most:
        the share of its pixels, and the scores.
        """
        names, images, (share, *scores) = _means(self.view, np.vstack([self.differ, self.score]))
        return [
            {
                "view": str(names[place]),
                "images": int(images[place]),
                "share": float(share[place]),
                "scores": [float(own[place]) for own in scores],
            }
            for place in np.argsort(-share, kind="stable")[:most]
            if share[place] > 0
        ]

    def pictures(self, view: str) -> Beside:
        """Pictures of a well or photograph, with the mask of each run."""
        own = np.flatnonzero(self.view == view)

        def masks(some: np.ndarray) -> dict[str, np.ndarray]:
            return {
                run.recipe.name: _read(run, self.rows[number, own[some]])
                for number, run in enumerate(self.runs)
            }

        first = self.runs[0]
        return first.modality.beside(first, self.train[own], self.differ[own], masks)


def _means(key: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The G values that a key (N,) takes, how often, and the means (R, G) of values (R, N)."""
    names, place, count = np.unique(key, return_inverse=True, return_counts=True)
    return names, count, np.array([np.bincount(place, own) / count for own in values])


def _line(name: str, images: int, scores: np.ndarray) -> dict[str, Any]:
    differences = (scores[1:] - scores[0]).tolist()
    line = {"group": name, "images": int(images), "scores": scores.tolist()}
    return {**line, "differences": differences}


def compare(runs: list[Run]) -> Compared:
    """Compare the out-of-fold masks of runs of one competition's data.

    Raises:
        UserError: masks are missing or not up to date, or the runs are of different metrics or of
            different data.
    """
    for run in runs:
        _check(run, runs[0])
    names = [hdf5.read(run.ensemble, "oof/name")["oof/name"] for run in runs]
    others = [set(own) for own in names[1:]]
    common = [name for name in names[0] if all(name in own for own in others)]
    if not common:
        raise UserError(f"{_names(runs)} have no image in common: compare runs of the same data")
    rows = np.array(
        [
            rows_by_name(own, common, str(run.ensemble), subset=True)
            for run, own in zip(runs, names, strict=True)
        ]
    )
    trained = {run.prepared("train"): _place(run, common) for run in runs}
    train = trained[runs[0].prepared("train")]
    group = hdf5.read(runs[0].prepared("train"), "group")["group"][train]
    view = [runs[0].modality.view(*one) for one in zip(common, group.tolist(), strict=True)]
    found = [_found(runs, rows[:, part], trained, part) for part in _parts(runs[0], len(common))]
    score, differ = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
    return Compared(
        runs, [len(own) for own in names], group, score, np.array(view), differ, rows, train
    )


def _names(runs: list[Run]) -> str:
    return " and ".join(dict.fromkeys(run.recipe.name for run in runs))


def _check(run: Run, first: Run) -> None:
    """
    Raises:
        UserError: a run has no masks of its networks and of the training data that are there, or
            cannot be compared with the first.
    """
    had, has = (
        f"{own.competition.kind}, scored by {own.competition.metric.name}" for own in (first, run)
    )
    if had != has:
        raise UserError(
            f"{first.recipe.name} has {had}, {run.recipe.name} {has}: compare runs of one metric"
        )
    again = f"run the five stages of {run.recipe.name} first"
    if not run.ensemble.is_file() or not hdf5.holds(run.ensemble, "oof/mask"):
        raise UserError(f"{run.ensemble} has no out-of-fold masks: {again}")
    if made_from(run.ensemble)["oof"] != lineage.oof_as_found(run):
        raise UserError(f"{run.ensemble} is of other networks than those in {run.folder}: {again}")
    train = run.prepared("train")
    data = {made_from(run.oof(task))["train"] for task in run.tasks()}
    if data != {sealed.fingerprint(train)}:
        raise UserError(f"{run.folder} was trained on another {train} than lies there: {again}")


def made_from(path: Path) -> sealed.Inputs:
    """What an artifact says that it is made from.

    Raises:
        UserError: it is missing or damaged.
    """
    with hdf5.legible(path):
        return sealed.inputs_of(path)


def _place(run: Run, names: list[str]) -> np.ndarray:
    """The rows (N,) of images in train.h5."""
    path = run.prepared("train")
    return rows_by_name(hdf5.read(path, "name")["name"], names, str(path), subset=True)


def _parts(run: Run, count: int) -> Iterator[slice]:
    """Slices of the images, so many at a time as memory is to hold."""
    size = max(1, BATCH // int(np.prod(hdf5.shape(run.ensemble, "oof/mask")[1:])))
    return (slice(first, first + size) for first in range(0, count, size))


def _read(run: Run, rows: np.ndarray) -> np.ndarray:
    """Masks (n, K, H, W) bool out of fold."""
    return hdf5.read_rows(run.ensemble, ["oof/mask"], rows)["oof/mask"] > 0


def _found(
    runs: list[Run], rows: np.ndarray, trained: dict[Path, np.ndarray], part: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (R, n) and the share (n,) of pixels that not all masks agree on, of some images."""
    masks = [_read(run, own) for run, own in zip(runs, rows, strict=True)]
    truths = []
    for path, place in trained.items():
        truth = hdf5.read_rows(path, ["mask"], place[part])["mask"] > 0
        truths.append(truth[:, None] if truth.ndim == 3 else truth)
    # what all have in common lies within the smallest; beyond it are zeros
    height, width = np.min([own.shape[2:] for own in (*masks, *truths)], axis=0)
    masks, truths = ([own[..., :height, :width] for own in some] for some in (masks, truths))
    for path, truth in zip(trained, truths, strict=True):
        if not np.array_equal(truth, truths[0]):
            raise UserError(
                f"{path} has other masks than {next(iter(trained))} for images of the same names: "
                "compare runs of the same data"
            )
    of, true = runs[0].competition.metric.of, truths[0].sum((2, 3))
    score = [of((own & truths[0]).sum((2, 3)), own.sum((2, 3)), true).mean(1) for own in masks]
    differ = np.any([own != masks[0] for own in masks[1:]], axis=0).any(1).sum((1, 2))
    return np.array(score), differ / _areas(runs[0], rows[0], height * width)


def _areas(run: Run, rows: np.ndarray, area: int) -> np.ndarray:
    """Pixels (n,) of images, which may be smaller than the arrays that hold them."""
    if not hdf5.holds(run.ensemble, "oof/size"):
        return np.full(len(rows), area)
    return hdf5.read(run.ensemble, "oof/size")["oof/size"][rows].prod(1)


def recipe_differences(runs: list[Run]) -> list[dict[str, Any]]:
    """The keys that differ, each with its `values` as text; members are told by their names."""
    trees = [tree_of(run.recipe, run.competition.kind) for run in runs]
    for tree in trees:
        del tree["name"]
    return [{"key": key, "values": values} for key, values in _differences(trees, "")]


def _differences(values: list[Any], key: str) -> Iterator[tuple[str, list[str]]]:
    if all(value == values[0] for value in values):
        return
    trees = [_as_tree(value) for value in values]
    if all(tree is not None for tree in trees):
        for name in dict.fromkeys(chain(*trees)):
            inner = [tree.get(name) for tree in trees]
            yield from _differences(inner, f"{key}.{name}" if key else name)
    else:
        yield key, [_text(value) for value in values]


def _as_tree(value: Any) -> Tree | None:
    """A section, or a list of sections by their names or numbers."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {str(item.get("name", number)): item for number, item in enumerate(value)}
    return None


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, dict) and "network" in value:
        return f"network {value['network']['name']}"  # a member that others lack
    return value if isinstance(value, str) else json.dumps(value)
