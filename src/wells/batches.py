"""What a network is trained on: windows of pipe, drawn anew for every epoch, augmented on the
device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from src import networks
from src.artifacts import Arrays
from src.recipe import Augment, Member
from src.wells import augmentation
from src.wells.cleaning import Scaling, fit_scaling
from src.wells.prediction import rows_of
from src.wells.windows import Windows

# image (B, C, H, W), mask, weight, (B, 1, H, W) each
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class PipeSource:
    """A training set of patches for one member: what `src.training.Fit` asks of its data."""

    windows: Windows
    member: Member
    scaling: Scaling

    @staticmethod
    def of(
        train: Arrays, fold: int, member: Member, per_pixel: bool, device: torch.device
    ) -> "PipeSource":
        """Every patch of the prepared training split that is in another fold; scaling is fitted
        on these alone.
        """
        trained_on = (train["fold"] >= 0) & (train["fold"] != fold)
        scaling = fit_scaling(train["image"][trained_on], train["valid"][trained_on], per_pixel)
        weight = train["valid"] & trained_on[:, None, None]
        known = np.isin(train["group"], train["group"][trained_on])
        scaled = rows_of(train, known) | {"image": scaling.apply(train["image"][known])}
        return PipeSource(
            Windows.of(
                scaled, member.height, device, weight[known], member.depth_averages, member.beside
            ),
            member,
            scaling,
        )

    def network(self) -> nn.Module:
        return networks.create(self.member.network)

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
        sound = (
            windows.sound()
            if settings.texture or settings.grooves
            else torch.empty(0, dtype=torch.int64)
        )
        for first in range(0, len(starts), size):
            batch = slice(first, first + size)
            seen = (
                windows.inputs(starts[batch]),
                *(windows.take(tensor, starts[batch]) for tensor in (windows.mask, windows.weight)),
            )
            image, mask, weight = (symmetries[batch].apply(tensor) for tensor in seen)
            if settings.grooves:
                grooves = augmentation.draw_grooves(settings, len(image), windows, sound, generator)
                image, mask, weight = grooves.apply(image, mask, weight, windows)
            if settings.gain or settings.texture:
                image = augmentation.draw_intensities(
                    settings, len(image), windows, sound, generator
                ).apply(image, windows)
            if settings.cutmix:
                cuts = augmentation.draw_cuts(
                    settings.cutmix, len(image), *image.shape[2:], generator
                ).to(image.device)
                image, mask, weight = (cuts.apply(tensor) for tensor in (image, mask, weight))
            if settings.drop_averages:
                image = augmentation.drop_averages(image, settings.drop_averages, generator)
            yield image, mask, weight


def _epoch_windows(
    windows: Windows, settings: Augment, generator: torch.Generator
) -> tuple[torch.Tensor, augmentation.Symmetries]:
    """The windows of an epoch in random order, by their first rows, and a symmetry for each."""
    starts, width = windows.shuffled(settings.depth_shift, generator), windows.image.shape[1]
    if settings.copies is None:
        return starts, augmentation.draw(
            settings, len(starts), windows.height, width, generator
        ).to(starts.device)
    symmetries = augmentation.copies(
        settings.copies, len(starts), windows.height, width, generator
    ).to(starts.device)
    order = torch.randperm(len(starts) * len(settings.copies), generator=generator).to(
        starts.device
    )
    return starts.repeat(len(settings.copies))[order], symmetries[order]
