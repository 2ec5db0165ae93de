"""What differs between kinds of data, and the only place that chooses one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from src import competitions
from src.artifacts import model_folder, sealed
from src.artifacts.hdf5 import Packed
from src.artifacts.model_folder import ModelFolder
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.competitions import Competition
from src.networks.loading import check_weights
from src.networks.scaling import Scaling
from src.photographs import Photographs
from src.recipe import Member, Recipe, Task, check_kind
from src.report.checks import Check
from src.report.data import DataReport
from src.report.pictures import Beside
from src.terminal.errors import UserError
from src.training.data import TrainingSet
from src.wells import Wells


class Modality(Protocol):
    """A kind of data: stages, training and studies ask it for all that depends on the kind."""

    def prepare(self, run: Run, splits: list[str]) -> Iterator[str]:
        """Write train.h5, test.h5 or both; yields what the user should know."""
        ...

    def data_report(self, run: Run) -> DataReport:
        """What the prepared files hold and what in them deserves a look; read as a stream."""
        ...

    def check(self, run: Run) -> None:
        """
        Raises:
            UserError: a member or a combination of members that this kind cannot have.
        """
        ...

    def network_options(self, run: Run, member: Member) -> dict[str, Any]:
        """The member's `network` table with what the data say."""
        ...

    def input_shape(self, run: Run, member: Member) -> tuple[int, int, int]:
        """Channels, rows and columns of what the network sees in training."""
        ...

    def cost(self, member: Member, training: bool) -> float:
        """Floating-point operations: of a training, or of a prediction for each row or pixel."""
        ...

    def training_set(self, run: Run, task: Task, device: torch.device, threads: int) -> TrainingSet:
        """The images of all folds but the task's."""
        ...

    def examples(
        self, run: Run, task: Task, scaling: Scaling, count: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """At most so many images that a task was trained on, before scaling and as its network sees
        them, (1, C, H, W) each, all of one size.
        """
        ...

    def whole_scaling(self, run: Run, task: Task, scaling: Scaling) -> Scaling:
        """All of the scaling between the two, with numbers that broadcast to (C, H, W)."""
        ...

    def predict(self, run: Run, task: Task, split: str, device: torch.device) -> Predictions:
        """What a trained task says of its held-out fold ("train") or of the test set ("test")."""
        ...

    def select(self, run: Run) -> str:
        """Write what is selected out of fold, nested over folds; returns a line about it."""
        ...

    def masks(self, run: Run, part: str) -> Iterator[np.ndarray | Packed]:
        """Masks (n, K, H, W) uint8, or one of them packed, in the order of the ensemble's part,
        "oof" or "test".

        Out of fold each fold has those of what was selected on the others.
        """
        ...

    def labels(self, run: Run) -> list[str] | None:
        """The classes that a submission tells apart; None where there is only one kind of mask."""
        ...

    def report(
        self, run: Run, checks: list[Check]
    ) -> tuple[dict[str, Any], dict[str, str | bytes]]:
        """What submissions/<recipe>.json says of the masks in the ensemble's file; and the page,
        and a picture where there is one, by the endings of their files.
        """
        ...

    def features(self, run: Run, split: str) -> dict[str, dict[str, float]]:
        """Numbers that describe each well or photograph of a split, by its name."""
        ...

    def new_data(self, run: Run) -> Competition:
        """The run's competition, but that it reads new data for a trained model.

        Raises:
            UserError: the model's decisions are not those of this kind of data.
        """
        ...

    def report_new(self, run: Run) -> tuple[dict[str, Any], str]:
        """What a trained model says of each new well or photograph, by its name; and the page."""
        ...

    def describe_new(self, lines: dict[str, Any]) -> list[str]:
        """The same as text for the terminal."""
        ...

    def maps(self, run: Run) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The name, probability and mask of each new well or photograph."""
        ...

    def write_new(self, run: Run, folders: dict[str, Path]) -> None:
        """Write new data's "masks", and "probabilities" if asked for, into these folders."""
        ...

    def describe(self, result: dict[str, Any]) -> str:
        """The scores as text for the terminal."""
        ...

    def view(self, name: str, group: int) -> str:
        """What an image is looked at in: the well of a patch, or the photograph itself."""
        ...

    def beside(
        self,
        run: Run,
        rows: np.ndarray,
        differ: np.ndarray,
        masks: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> Beside:
        """Pictures of one view with what several masks make of it.

        Args:
            rows: (n,) of its images in train.h5.
            differ: (n,) the share of pixels on which the masks disagree; of a long well the stretch
                is shown where they do most.
            masks: by title, those (m, K, H, W) of some (m,) of the n images.
        """
        ...


KINDS: dict[competitions.Kind, Modality] = {"wells": Wells(), "photographs": Photographs()}


def open_model(folder: Path, new: Path, output: Path) -> Run:
    """A trained model with new data to predict, which live in a folder of their own.

    Raises:
        UserError: the model folder, or its zip, is not whole, or not one of this version.
    """
    work = output / "work"
    if folder.is_file():
        model_folder.unpack(folder, work / "model")
        folder = work / "model"
    model, recipe = ModelFolder.open(folder)
    run = replace(open_run(recipe, work, output), model=model, new=new)
    try:
        run = replace(run, competition=run.modality.new_data(run))
        check_weights(run)
    except (*sealed.DAMAGE, LookupError, AttributeError) as error:
        problem = f"holds what this version cannot use ({error})"
        raise UserError(f"{model.decisions} {problem}: make it again with make bundle") from None
    return run


def open_run(recipe: Recipe, data: Path, submissions: Path) -> Run:
    """A recipe in its place.

    Raises:
        UserError: an unknown competition, or a key that its kind of data does not have.
    """
    competition = competitions.get(recipe.competition)
    check_kind(recipe, competition.kind)
    return Run(recipe, data, submissions, competition, KINDS[competition.kind])
