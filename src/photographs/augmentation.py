"""How photographs and their masks are varied in training, on the device."""

import math
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from src.recipe import Photograph
from src.training.data import Batch


@dataclass(frozen=True)
class Views:
    """What is done to each image of a batch, (B,) each: flips, an angle in radians, shifts as
    shares of the size, and factors; `scale` above 1 enlarges.
    """

    flip_rows: torch.Tensor
    flip_columns: torch.Tensor
    angle: torch.Tensor
    shift_rows: torch.Tensor
    shift_columns: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    scale: torch.Tensor

    def to(self, device: torch.device) -> "Views":
        return Views(*(getattr(self, field.name).to(device) for field in fields(self)))

    def apply(self, image: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor) -> Batch:
        """Images are interpolated, masks and weights take the nearest pixel; what comes from
        beyond the edge has weight 0.
        """
        if not self.moves:
            return self.intensities(image, weight), mask, weight
        grid = self.grid(image.shape[2], image.shape[3])
        image = functional.grid_sample(image, grid, "bilinear", "border", align_corners=False)
        mask, weight = (
            functional.grid_sample(x, grid, "nearest", "zeros", align_corners=False)
            for x in (mask, weight)
        )
        return self.intensities(image, weight), mask, weight

    @property
    def moves(self) -> bool:
        moving = (
            self.flip_rows,
            self.flip_columns,
            self.angle,
            self.shift_rows,
            self.shift_columns,
            self.scale - 1,
        )
        return any(bool(tensor.any()) for tensor in moving)

    def grid(self, height: int, width: int) -> torch.Tensor:
        """For `grid_sample`, (B, height, width, 2): where each pixel comes from, columns first,
        -1 to 1 from edge to edge.
        """
        cos, sin = self.angle.cos() / self.scale, self.angle.sin() / self.scale
        up, left = 1 - 2.0 * self.flip_rows, 1 - 2.0 * self.flip_columns
        # In pixels a rotation is a rotation; in shares of the size it must be stretched by the
        # ratio of the sides.
        columns = torch.stack([left * cos, -left * sin * height / width, self.shift_columns], dim=1)
        rows = torch.stack([up * sin * width / height, up * cos, self.shift_rows], dim=1)
        return functional.affine_grid(
            torch.stack([columns, rows], dim=1), [len(cos), 1, height, width], align_corners=False
        )

    def intensities(self, image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Contrast about each image's mean, then brightness, as factors."""
        brightness, contrast = (
            self.brightness[:, None, None, None],
            self.contrast[:, None, None, None],
        )
        mean = (image * weight).sum((1, 2, 3), keepdim=True) / (
            weight.sum((1, 2, 3), keepdim=True) * image.shape[1]
        ).clamp(min=1)
        return ((image - mean) * contrast + mean) * brightness


def draw_views(settings: Photograph, kinds: list[str | None], generator: torch.Generator) -> Views:
    """Views for a batch, drawn on the CPU: independent and uniform, each flip with probability
    one half; or what `weighted` drew.
    """
    count = len(kinds)

    def uniform(most: float) -> torch.Tensor:
        return most * (2 * torch.rand(count, generator=generator) - 1)

    chance = torch.rand(2, count, generator=generator) < 0.5
    flip_rows, flip_columns = chance & settings.flips
    angle = uniform(math.radians(settings.rotate))
    if settings.weighted:
        flip_rows, flip_columns = (
            torch.tensor([kind == "vertical_flip" for kind in kinds]),
            torch.zeros(count, dtype=torch.bool),
        )
        angle = angle * torch.tensor([kind == "rotation" for kind in kinds])
    # the sides of a grid are 2 long
    shifts = uniform(2 * settings.shift), uniform(2 * settings.shift)
    brightness, contrast = 1 + uniform(settings.brightness), 1 + uniform(settings.contrast)
    # drawn only where it is asked for: what was trained without it stays the same
    scale = 1 + uniform(settings.scale) if settings.scale else torch.ones(count)
    return Views(flip_rows, flip_columns, angle, *shifts, brightness, contrast, scale)
