"""Photographs of any sizes, whose defects belong to one or several classes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from src import networks
from src.artifacts.run import Run
from src.competitions import Competition, new_photographs
from src.photographs import batches, page, prediction, preparation, selection, submission
from src.photographs.batches import PhotoTrainingSet
from src.photographs.report import data, new_data
from src.recipe import Member
from src.report.pictures import Beside
from src.terminal.errors import UserError

USUAL_CROP = [256, 256]  # rows and columns, where a recipe names none


class Photographs:
    """A `src.modality.Modality`; what is only handed on stands first."""

    prepare = staticmethod(preparation.prepare)
    data_report = staticmethod(data.report)
    training_set = staticmethod(PhotoTrainingSet.of)
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

    def labels(self, run: Run) -> list[str]:
        return run.training()["classes"]

    def new_data(self, run: Run) -> Competition:
        selection.final_of(run)  # an error where it is none
        return new_photographs.of(run.competition, run.training())

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
