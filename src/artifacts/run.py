"""A run: a recipe with its competition, its kind of data, and the place of each of its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts import hdf5
from src.artifacts.files import locked
from src.artifacts.model_folder import ModelFolder
from src.competitions import Competition
from src.recipe import Recipe, Task


@dataclass(frozen=True)
class Run:
    """What every stage gets. `src.modality.open_run` makes one and chooses its `modality`.

    Args:
        data, submissions: the folders that artifacts live in.
        modality: the kind of data, a `src.modality.Modality`; rooms below that file ask it for
            what differs between kinds.
        model: where a trained model predicts new data, its folder, in the place of all that
            training makes; there is no training split then.
        new: and these data, a file or a folder.
    """

    recipe: Recipe
    data: Path
    submissions: Path
    competition: Competition
    modality: Any
    model: ModelFolder | None = None
    new: Path | None = None

    def with_recipe(self, recipe: Recipe) -> "Run":
        """The same place for another recipe of the same competition."""
        return replace(self, recipe=recipe)

    def with_seeds(self, seeds: list[int]) -> "Run":
        """The part of a run that has these seeds."""
        return self.with_recipe(self.recipe.model_copy(update={"seeds": seeds}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The prepared files that there are."""
        return ("test",) if self.model else ("train", "test")

    @property
    def parts(self) -> tuple[str, ...]:
        """The groups of the ensemble's file."""
        return ("test",) if self.model else ("oof", "test")

    @property
    def raw(self) -> Path:
        """What the organisers hand out, or the new data."""
        return self.new or self.data / "raw" / (self.recipe.data.folder or self.competition.name)

    @property
    def generated(self) -> Path:
        """Beside generated raw files: the settings that they were generated with."""
        return self.raw / "generated.json"

    @property
    def truth(self) -> Path:
        """The masks of the test set, where they are known; kept apart from what is trained on."""
        return self.data / "truth" / f"{self.competition.name}.csv.gz"

    @property
    def prepared_folder(self) -> Path:
        """One a competition or folder, unless the recipe names another for other folds."""
        name = self.recipe.prepared or self.recipe.data.folder or self.competition.name
        return self.data / "prepared" / name

    def prepared(self, split: str) -> Path:
        """The clean arrays of "train" or "test"."""
        return self.prepared_folder / f"{split}.h5"

    @property
    def data_report(self) -> Path:
        """What the prepared files hold, as a page; for people, no digest knows it."""
        return self.prepared_folder / "report.html"

    @property
    def folder(self) -> Path:
        """Where the tasks of this recipe are."""
        return self.data / "runs" / self.recipe.name

    @property
    def log(self) -> Path:
        """What the stages told, with date and time; for people, no digest knows it."""
        return self.folder / "log.txt"

    @property
    def live(self) -> Path:
        """The page of the training that runs, or ran last."""
        return self.folder / "live.html"

    def task(self, task: Task) -> Path:
        return self.folder / task.member / f"fold{task.fold}_seed{task.seed}"

    def weights(self, task: Task) -> Path:
        if self.model:
            return self.model.weights(task)
        return self.task(task) / "weights.safetensors"

    def oof(self, task: Task) -> Path:
        return self.task(task) / "oof.h5"

    def test(self, task: Task) -> Path:
        return self.task(task) / "test.h5"

    def checkpoint(self, task: Task) -> Path:
        return self.task(task) / "checkpoint.pt"

    def history(self, task: Task) -> Path:
        return self.task(task) / "history.csv"

    def saved_recipe(self, task: Task) -> Path:
        return self.task(task) / "recipe.toml"

    def progress(self, task: Task) -> Path:
        """Where a running task writes the share that it has finished, and words on what it does."""
        return self.task(task) / "progress"

    def dense(self, digest: str) -> Path:
        """A network before it is pruned, which several recipes have in common."""
        return self.data / "dense" / f"{digest[:16]}.pt"

    @property
    def selection(self) -> Path:
        """What is selected out of fold: thresholds, refinement, the classifier's threshold."""
        if self.model:
            return self.model.decisions
        return self.data / "ensembles" / f"{self.recipe.name}_selection.h5"

    @property
    def ensemble(self) -> Path:
        return self.data / "ensembles" / f"{self.recipe.name}.h5"

    def training(self) -> dict[str, Any]:
        """What train.h5 says of itself: its metadata, and `shape` and `dtype` of an image."""
        if self.model:
            return self.model.content["training"]
        path = self.prepared("train")
        with hdf5.reading(path) as file:
            shape, dtype = file["image"].shape[1:], np.dtype(file["image"].dtype).name
        return {**hdf5.metadata(path), "shape": list(shape), "dtype": dtype}

    def decisions(self) -> dict[str, Any]:
        """What masks of the test set are made by, as its kind of data has selected it."""
        if self.model:
            return self.model.content["decisions"]
        return hdf5.metadata(self.selection)["final"]

    def submission(self, ending: str = ".csv") -> Path:
        return self.submissions / f"{self.recipe.name}{ending}"

    def tasks(self, role: str | None = None) -> list[Task]:
        """The task table, or that of the members of one role ("segment" or "classify")."""
        return [
            task
            for task in self.recipe.tasks()
            if role is None or self.recipe.member(task.member).role == role
        ]

    @contextmanager
    def locked_raw(self) -> Iterator[None]:
        """Generated raw files belong to one process; the organisers' own are never written to."""
        if self.competition.generate is None:
            yield
        else:
            with locked(self.data / "raw" / f".{self.competition.name}.lock", self.raw):
                yield

    @contextmanager
    def locked_prepared(self, shared: bool = True) -> Iterator[None]:
        """Until the block ends nobody writes the prepared files, or (not `shared`) reads them."""
        folder = self.prepared_folder
        with locked(folder.with_name(f".{folder.name}.lock"), folder, shared=shared):
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Until the block ends no other stage of this recipe runs, and the prepared files stay.

        Other recipes run on the same prepared files side by side.
        """
        with locked(self.folder / ".lock", self.folder), self.locked_prepared():
            yield
