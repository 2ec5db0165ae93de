"""Wells: ultrasonic thickness maps of pipes, cut into patches once around the circumference."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src import networks
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.competitions import Competition, new_wells
from src.networks.scaling import Scaling
from src.recipe import Member, Task
from src.report.checks import Check
from src.report.data import DataReport
from src.report.pictures import Beside
from src.terminal.errors import UserError
from src.wells import batches, blocks, new_data, prediction, preparation, submission
from src.wells.batches import WellTrainingSet
from src.wells.postprocess import selection
from src.wells.report import data


class Wells:
    """A `src.modality.Modality`."""

    def prepare(self, run: Run, splits: list[str]) -> Iterator[str]:
        return preparation.prepare(run, splits)

    def data_report(self, run: Run) -> DataReport:
        return data.report(run)

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
        return member.inputs, member.height, run.training()["shape"][1]

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

    def labels(self, run: Run) -> list[str] | None:
        return None

    def report(
        self, run: Run, checks: list[Check]
    ) -> tuple[dict[str, Any], dict[str, str | bytes]]:
        return submission.report(run, checks)

    def features(self, run: Run, split: str) -> dict[str, dict[str, float]]:
        return new_data.features(run, split)

    def new_data(self, run: Run) -> Competition:
        selection.final_of(run.decisions()), preparation.fitted_scaling(run)  # an error, if none
        return new_wells.of(run.competition)

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
        return f"well {group}"

    def beside(
        self,
        run: Run,
        rows: np.ndarray,
        differ: np.ndarray,
        masks: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> Beside:
        return submission.beside(run, rows, differ, masks)
