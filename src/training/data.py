"""What the training loop asks of its data, whatever their kind."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from src.networks.scaling import Scaling

# image (B, C, H, W), mask (B, K, H, W), weight (B, 1, H, W)
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class TrainingSet(Protocol):
    """The images of all folds but one, for one member."""

    scaling: Scaling

    def network(self) -> nn.Module:
        """The member's network, untrained."""
        ...

    def epoch(self, epoch: int, seed: int) -> tuple[int, Iterator[Batch]]:
        """The number of batches of an epoch, and the batches, on the device."""
        ...

    def held_out(self, network: nn.Module) -> dict[str, float]:
        """Scores of a network on the held-out fold, by column of the history; the last one is that
        by which an epoch is selected.
        """
        ...
