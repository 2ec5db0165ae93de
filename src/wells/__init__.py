"""Wells: ultrasonic thickness maps of pipes, cut into patches once around the circumference."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from src import networks
from src.artifacts import hdf5
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.networks.scaling import Scaling
from src.recipe import Member, Task
from src.report.checks import Check
from src.terminal.errors import UserError
from src.wells import batches, blocks, prediction, preparation, selection, submission
from src.wells.batches import WellTrainingSet


class Wells:
    """A `src.modality.Modality`."""

    def prepare(self, run: Run, splits: list[str]) -> Iterator[str]:
        return preparation.prepare(run, splits)

    def check(self, run: Run) -> None:
        for member in run.recipe.members:
            name = str(member.network["name"])
            if name in networks.REGISTRY and networks.takes_photographs(name):
                raise UserError(
                    f"member '{member.name}': network '{name}' is for photographs, not for wells"
                )

    def network_options(self, run: Run, member: Member) -> dict[str, Any]:
        return member.network

    def input_shape(self, run: Run, member: Member) -> tuple[int, int, int]:
        width = hdf5.shape(run.prepared("train"), "image")[2]
        return member.inputs, member.height, width

    def cost(self, member: Member, training: bool) -> float:
        """For each row of a well."""
        times = member.epochs * len(member.augment.materialised or [""]) if training else 1
        rows = member.height if training else member.height - 2 * member.margin
        return times * networks.operations(member.network, member.height, training=training) / rows

    def training_set(
        self, run: Run, task: Task, device: torch.device, threads: int
    ) -> WellTrainingSet:
        return WellTrainingSet.of(run, task, blocks.read_split(run, "train"), device)

    def examples(
        self, run: Run, task: Task, scaling: Scaling, count: int
    ) -> Iterator[torch.Tensor]:
        return batches.examples(run, task, scaling, count)

    def predict(self, run: Run, task: Task, split: str, device: torch.device) -> Predictions:
        return prediction.predict_split(run, task, split, device)

    def select(self, run: Run) -> str:
        return selection.write(run)

    def masks(self, run: Run, part: str) -> Iterator[np.ndarray]:
        return selection.masks_of(run, part)

    def labels(self, run: Run) -> list[str] | None:
        return None

    def report(
        self, run: Run, checks: list[Check]
    ) -> tuple[dict[str, Any], dict[str, str | bytes]]:
        return submission.report(run, checks)

    def describe(self, result: dict[str, Any]) -> str:
        return submission.describe(result)
