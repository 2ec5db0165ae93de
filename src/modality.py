"""What differs between kinds of data, and the only place that chooses one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from src import competitions
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.networks.scaling import Scaling
from src.photographs import Photographs
from src.recipe import Member, Recipe, Task, check_kind
from src.report.checks import Check
from src.training.data import TrainingSet
from src.wells import Wells


class Modality(Protocol):
    """A kind of data: stages, training and studies ask it for all that depends on the kind."""

    def prepare(self, run: Run, splits: list[str]) -> Iterator[str]:
        """Write train.h5, test.h5 or both; yields what the user should know."""
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
    ) -> Iterator[torch.Tensor]:
        """At most so many images that a task was trained on, (1, C, H, W), scaled, of one size."""
        ...

    def predict(self, run: Run, task: Task, split: str, device: torch.device) -> Predictions:
        """What a trained task says of its held-out fold ("train") or of the test set ("test")."""
        ...

    def select(self, run: Run) -> str:
        """Write what is selected out of fold, nested over folds; returns a line about it."""
        ...

    def masks(self, run: Run, part: str) -> Iterator[np.ndarray]:
        """Masks (n, K, H, W) uint8 in the order of the ensemble's part, "oof" or "test".

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

    def describe(self, result: dict[str, Any]) -> str:
        """The scores as text for the terminal."""
        ...


KINDS: dict[competitions.Kind, Modality] = {"wells": Wells(), "photographs": Photographs()}


def open_run(recipe: Recipe, data: Path, submissions: Path) -> Run:
    """A recipe in its place.

    Raises:
        UserError: an unknown competition, or a key that its kind of data does not have.
    """
    competition = competitions.get(recipe.competition)
    check_kind(recipe, competition.kind)
    return Run(recipe, data, submissions, competition, KINDS[competition.kind])
