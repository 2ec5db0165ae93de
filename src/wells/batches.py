"""What a network is trained on: windows of pipe, drawn anew for every epoch, augmented on the
device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from src import networks
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.networks import devices
from src.networks.scaling import Scaling
from src.recipe import Augment, Member, Task
from src.scoring.metrics import scorer, soft_counts, soft_iou
from src.training.data import Batch
from src.wells import augmentation, prediction
from src.wells.blocks import read_split
from src.wells.cleaning import Parts, fit_scaling
from src.wells.preparation import fitted_scaling
from src.wells.windows import Windows


@dataclass(frozen=True)
class WellTrainingSet:
    """The patches of all folds but the task's, a `src.training.data.TrainingSet`.

    Scaling is fitted on these alone.
    """

    run: Run
    task: Task
    windows: Windows
    scaling: Scaling

    @staticmethod
    def of(run: Run, task: Task, train: Arrays, device: torch.device) -> "WellTrainingSet":
        """
        Args:
            train: the prepared training split, `blocks.read_split`.
        """
        member = run.recipe.member(task.member)
        used = _trained_on(train, task)
        rows = np.flatnonzero(used)

        def read(part: slice) -> tuple[np.ndarray, np.ndarray]:
            return train["image"][rows[part]], train["valid"][rows[part]]

        scaling = fit_scaling(Parts(len(rows), read), run.recipe.data.scaling == "per_pixel")
        averages, folder = member.depth_averages, run.task(task)
        windows = Windows.stored(
            train, member.height, device, scaling, used, train["valid"], averages, folder
        )
        if windows.bytes <= devices.room(device):
            windows = windows.loaded()
        return WellTrainingSet(run, task, windows, scaling)

    @property
    def member(self) -> Member:
        return self.run.recipe.member(self.task.member)

    def network(self) -> nn.Module:
        return networks.create(self.member.network)

    def held_out(self, network: nn.Module) -> dict[str, float]:
        """The official score at a threshold of one half, and soft IoU."""
        score, scores, counts = scorer(self.run.competition.metric), [], np.zeros(2)
        for block in prediction.predict_held_out(
            network, self.scaling, self.run, self.task, self.windows.image.device, "mask"
        ):
            probability = block["probability"][:, 0]
            scores.append(score(probability > 0.5, block["mask"]))
            counts += soft_counts(probability, block["mask"])
        official = np.concatenate(scores).mean()
        return {"held_out_score": float(official), "held_out_soft_iou": soft_iou(counts)}

    def epoch(self, epoch: int, seed: int) -> tuple[int, Iterator[Batch]]:
        """The number of batches, and the batches, on the device."""
        generator = torch.Generator().manual_seed(seed)
        starts, symmetries = _epoch_windows(self.windows, self.member.augment, generator)
        return -(-len(starts) // self.member.batch_size), self._batches(
            starts, symmetries, generator
        )

    def _batches(
        self, starts: torch.Tensor, symmetries: augmentation.Symmetries, generator: torch.Generator
    ) -> Iterator[Batch]:
        settings, windows, size = self.member.augment, self.windows, self.member.batch_size
        defect_free = windows.defect_free if settings.texture else torch.empty(0, dtype=torch.int32)
        for first in range(0, len(starts), size):
            batch = slice(first, first + size)
            seen = (
                windows.inputs(starts[batch]),
                *(windows.take(layer, starts[batch]) for layer in (windows.mask, windows.weight)),
            )
            image, mask, weight = (symmetries[batch].apply(tensor) for tensor in seen)
            yield augmentation.augment(
                (image, mask, weight), settings, windows, defect_free, generator
            )


def _epoch_windows(
    windows: Windows, settings: Augment, generator: torch.Generator
) -> tuple[torch.Tensor, augmentation.Symmetries]:
    """The windows of an epoch in random order, by their first rows, and a symmetry for each."""
    starts, width = windows.shuffled(settings.depth_shift, generator), windows.image.shape[1]
    if settings.materialised is None:
        return starts, augmentation.draw(
            settings, len(starts), windows.height, width, generator
        ).to(starts.device)
    symmetries = augmentation.materialised(
        settings.materialised, len(starts), windows.height, width, generator
    ).to(starts.device)
    order = torch.randperm(len(starts) * len(settings.materialised), generator=generator).to(
        starts.device
    )
    return starts.repeat(len(settings.materialised))[order], symmetries[order]


def _trained_on(train: Arrays, task: Task) -> np.ndarray:
    """(N,) the patches of all folds but the task's."""
    return (train["fold"] >= 0) & (train["fold"] != task.fold)


def examples(
    run: Run, task: Task, scaling: Scaling, count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """At most so many windows of what a task was trained on, cleaned alone and also scaled,
    (1, 1, H, W) each; they begin where a patch does.
    """
    train, height = read_split(run, "train"), run.recipe.member(task.member).height
    own, (_, tall, width) = np.flatnonzero(_trained_on(train, task)), train["image"].shape
    prepared, number = fitted_scaling(run), -(-height // tall)
    for first in np.unique(np.linspace(0, max(0, len(own) - number), count).astype(int)):
        patches = train["image"][own[first : first + number]]
        both = (prepared.undo(patches), scaling.apply(patches))
        yield tuple(torch.from_numpy(x.reshape(-1, width)[:height])[None, None] for x in both)


def whole_scaling(run: Run, task: Task, scaling: Scaling) -> Scaling:
    """That of train.h5 and a task's own together; of each pixel (1, H, W) for a window that begins
    where a patch does.
    """
    whole = scaling.after(fitted_scaling(run))
    if not whole.center.ndim:
        return whole
    rows = np.arange(run.recipe.member(task.member).height) % len(whole.center)
    return Scaling(whole.center[None, rows], whole.scale[None, rows])
