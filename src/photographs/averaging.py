"""Average the predictions of all tasks by name, a photograph at a time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src import artifacts
from src.artifacts import Paths
from src.recipe import Recipe, Task
from src.terminal.errors import UserError


@dataclass
class Average:
    """Mean probabilities of several sources by name, read when asked for.

    Args:
        sources: to be averaged, each a list of files that together hold every name once.
        within: the group of the arrays in a file: "" in those of a task, "oof/" or "test/" in an
            ensemble's.
    """

    sources: list[list[Path]]
    within: str = ""
    place: list[dict[str, tuple[Path, int]]] = field(init=False)
    _files: dict[Path, h5py.File] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.place = []
        for files in self.sources:
            named = [
                (file, artifacts.read_arrays(file, [f"{self.within}name"])[f"{self.within}name"])
                for file in files
            ]
            self.place.append(
                {name: (file, row) for file, names in named for row, name in enumerate(names)}
            )
            if (
                len(self.place[-1]) < sum(len(names) for _, names in named)
                or self.place[-1].keys() != self.place[0].keys()
            ):
                raise UserError(
                    f"{files[0]}: holds other photographs than {self.sources[0][0]}: "
                    "run the stage that makes it with --force"
                )

    @property
    def names(self) -> set[str]:
        return set(self.place[0])

    def __getstate__(self) -> dict[str, Any]:
        # an open HDF5 file does not travel to another process
        return self.__dict__ | {"_files": {}}

    def of(self, name: str) -> np.ndarray:
        """(K, H, W) float32, a gate's (1, 1, 1)."""
        return np.mean([self._read(*rows[name]) for rows in self.place], axis=0, dtype=np.float32)

    def _read(self, path: Path, row: int) -> np.ndarray:
        with artifacts.reading(path):
            if path not in self._files:
                self._files[path] = h5py.File(path)
            height, width = self._files[path][f"{self.within}size"][row]
            return self._files[path][f"{self.within}probability"][row, :, :height, :width]


def tasks_of(recipe: Recipe, role: str) -> list[Task]:
    return [task for task in recipe.tasks() if recipe.member(task.member).role == role]


def oof_average(recipe: Recipe, paths: Paths, role: str) -> Average:
    """Out of fold: a source for each member and seed, a file for each of its folds."""
    sources: dict[tuple[str, int], list[Path]] = {}
    for task in tasks_of(recipe, role):
        sources.setdefault((task.member, task.seed), []).append(paths.oof(recipe, task))
    return Average(list(sources.values()))


def test_average(recipe: Recipe, paths: Paths, role: str) -> Average:
    """The test set: every task is a source of its own."""
    return Average([[paths.test(recipe, task)] for task in tasks_of(recipe, role)])
