"""The exact symmetries of an unrolled pipe, drawn for each window of a batch and applied on its device."""

from dataclasses import dataclass

import torch

from src.recipe import Augment


@dataclass(frozen=True)
class Symmetries:
    """One symmetry a window, (B,) each: mirrored along depth, mirrored along azimuth, then rolled by `roll` columns."""

    flip_depth: torch.Tensor
    flip_azimuth: torch.Tensor
    roll: torch.Tensor

    def __getitem__(self, which: slice) -> "Symmetries":
        return Symmetries(self.flip_depth[which], self.flip_azimuth[which], self.roll[which])

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The windows (B, 1, H, W) transformed, each by its own symmetry."""
        height, width = x.shape[2:]
        rows = torch.arange(height, device=x.device).expand(len(x), height)
        rows = torch.where(self.flip_depth[:, None] == 1, height - 1 - rows, rows)
        columns = (torch.arange(width, device=x.device) - self.roll[:, None]) % width
        columns = torch.where(self.flip_azimuth[:, None] == 1, width - 1 - columns, columns)
        which = torch.arange(len(x), device=x.device)[:, None, None]
        return x[which, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def draw(settings: Augment, count: int, width: int, generator: torch.Generator, device: torch.device) -> Symmetries:
    """Symmetries for `count` windows, drawn on the CPU so that every device sees the same."""
    flips = torch.randint(2, (2, count), generator=generator)
    roll = torch.randint(width, (count,), generator=generator)
    return Symmetries(
        (flips[0] * settings.flip_depth).to(device), (flips[1] * settings.flip_azimuth).to(device), (roll * settings.roll).to(device)
    )
