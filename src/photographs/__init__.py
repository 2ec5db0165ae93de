"""Photographs of any sizes, whose defects belong to one or several classes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src import networks
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.competitions import Competition, new_photographs
from src.networks.scaling import Scaling
from src.photographs import batches, new_data, page, prediction, preparation, selection, submission
from src.photographs.batches import PhotoTrainingSet
from src.photographs.report import data
from src.recipe import Member, Task
from src.report.checks import Check
from src.report.data import DataReport
from src.report.pictures import Beside
from src.terminal.errors import UserError

USUAL_CROP = [256, 256]  # rows and columns, where a recipe names none


class Photographs:
    """A `src.modality.Modality`."""

    def prepare(self, run: Run, splits: list[str]) -> Iterator[str]:
        return preparation.prepare(run, splits)

    def data_report(self, run: Run) -> DataReport:
        return data.report(run)

    def check(self, run: Run) -> None:
        for member in run.recipe.members:
            if member.eval_every and member.role == "classify":
                raise UserError(f"member '{member.name}': eval_every is for members that segment")
        if not run.tasks("segment"):
            raise UserError(
                f"{run.recipe.name}: an image classifier alone segments nothing; add a member with "
                'role = "segment"'
            )

    def network_options(self, run: Run, member: Member) -> dict[str, Any]:
        """With the number of classes and channels; softmax has one output more, the background."""
        classes, channels = len(self.labels(run)), self._channels(run)
        return networks.for_photographs(member, classes, channels)

    def _channels(self, run: Run) -> int:
        return run.training()["shape"][2]

    def input_shape(self, run: Run, member: Member) -> tuple[int, int, int]:
        return self._channels(run), *self._size(member)

    def _size(self, member: Member) -> tuple[int, int]:
        return tuple(member.photograph.resize or (member.photograph.crops or [USUAL_CROP])[0])

    def cost(self, member: Member, training: bool) -> float:
        """For each crop in training, of all epochs, and for each pixel in prediction."""
        height, width = self._size(member)
        operations = networks.operations(member.network, height, width, training)
        return member.epochs * operations if training else operations / (height * width)

    def training_set(
        self, run: Run, task: Task, device: torch.device, threads: int
    ) -> PhotoTrainingSet:
        return PhotoTrainingSet.of(run, task, device, threads)

    def examples(
        self, run: Run, task: Task, scaling: Scaling, count: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return batches.examples(run, task, scaling, count)

    def whole_scaling(self, run: Run, task: Task, scaling: Scaling) -> Scaling:
        return batches.whole_scaling(run, task, scaling)

    def predict(self, run: Run, task: Task, split: str, device: torch.device) -> Predictions:
        return prediction.predict_split(run, task, split, device)

    def select(self, run: Run) -> str:
        return selection.write(run)

    def masks(self, run: Run, part: str) -> Iterator[np.ndarray]:
        return selection.masks_of(run, part)

    def labels(self, run: Run) -> list[str]:
        return run.training()["classes"]

    def report(
        self, run: Run, checks: list[Check]
    ) -> tuple[dict[str, Any], dict[str, str | bytes]]:
        return submission.report(run, checks)

    def features(self, run: Run, split: str) -> dict[str, dict[str, float]]:
        return new_data.features(run, split)

    def new_data(self, run: Run) -> Competition:
        selection.final_of(run)  # an error where it is none
        return new_photographs.of(run.competition, run.training())

    def report_new(self, run: Run) -> dict[str, Any]:
        return new_data.report(run)

    def describe_new(self, lines: dict[str, Any]) -> list[str]:
        return new_data.describe(lines)

    def maps(self, run: Run) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        return new_data.maps(run)

    def write_new(self, run: Run, folder: Path, probabilities: bool) -> None:
        new_data.write_files(run, folder, probabilities)

    def describe(self, result: dict[str, Any]) -> str:
        return submission.describe(result)

    def view(self, name: str, group: int) -> str:
        return name

    def beside(
        self,
        run: Run,
        rows: np.ndarray,
        differ: np.ndarray,
        masks: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> Beside:
        return page.beside(run, int(rows[0]), masks(np.array([0])))
