"""Wells: ultrasonic thickness maps of pipes, cut into patches once around the circumference."""

from typing import Any

import torch

from src import networks
from src.artifacts.run import Run
from src.competitions import Competition, new_wells
from src.recipe import Member, Task
from src.terminal.errors import UserError
from src.wells import batches, blocks, prediction, preparation, submission
from src.wells.batches import WellTrainingSet
from src.wells.postprocess import selection
from src.wells.report import data, new_data


class Wells:
    """A `src.modality.Modality`; what is only handed on stands first."""

    prepare = staticmethod(preparation.prepare)
    data_report = staticmethod(data.report)
    examples = staticmethod(batches.examples)
    whole_scaling = staticmethod(batches.whole_scaling)
    predict = staticmethod(prediction.predict_split)
    select = staticmethod(selection.write)
    masks = staticmethod(selection.masks_of)
    report = staticmethod(submission.report)
    features = staticmethod(new_data.features)
    report_new = staticmethod(new_data.report)
    describe_new = staticmethod(new_data.describe)
    maps = staticmethod(new_data.maps)
    write_new = staticmethod(new_data.write_files)
    describe = staticmethod(submission.describe)
    beside = staticmethod(submission.beside)

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

    def labels(self, run: Run) -> list[str] | None:
        return None

    def new_data(self, run: Run) -> Competition:
        selection.final_of(run.decisions()), preparation.fitted_scaling(run)  # an error, if none
        return new_wells.of(run.competition)

    def view(self, name: str, group: int) -> str:
        return f"well {group}"
