"""A split on a device, seen through windows of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from src.artifacts.sealed import Arrays
from src.wells import geometry


@dataclass(frozen=True)
class Windows:
    """The canvas of a split (`src.wells.geometry.Canvas`) as tensors (R, W): images, and for
    training masks and the weights of pixels.

    `further` (R, W) are further channels of the image: its means along depth (`averaged`).
    """

    canvas: geometry.Canvas
    height: int
    image: torch.Tensor
    mask: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    further: tuple[torch.Tensor, ...] = ()

    @staticmethod
    def of(
        arrays: Arrays,
        height: int,
        device: torch.device,
        weight: np.ndarray | None = None,
        averages: Sequence[int] = (),
    ) -> "Windows":
        """Lay out `image` (and with `weight` (N, H, W) also `mask`) of a prepared split for windows
        of `height` rows.

        Args:
            averages: odd numbers of rows over which the image is averaged along depth, for a
                channel each.
        """
        strips = geometry.strips(arrays["group"], arrays["depth"], arrays["parity"])
        canvas = geometry.Canvas.of(strips, patch_height=arrays["image"].shape[1], margin=height)

        def lay(patches: np.ndarray) -> torch.Tensor:
            return (
                torch.from_numpy(patches.reshape(-1, patches.shape[2])[canvas.source])
                .float()
                .to(device)
            )

        channels = tuple(lay(averaged(arrays["image"], strips, rows)) for rows in averages)
        if weight is None:
            return Windows(canvas, height, lay(arrays["image"]), further=channels)
        here = torch.from_numpy(canvas.real)[:, None].to(device)
        return Windows(
            canvas, height, lay(arrays["image"]), lay(arrays["mask"]), lay(weight) * here, channels
        )

    def take(self, tensor: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Windows (B, 1, height, W) of a canvas tensor from their first rows (B,)."""
        rows = starts[:, None] + torch.arange(self.height, device=starts.device)
        return tensor[rows].unsqueeze(1)

    def inputs(self, starts: torch.Tensor) -> torch.Tensor:
        """What a network sees of windows: (B, 1 + further channels, height, W)."""
        return torch.cat(
            [self.take(tensor, starts) for tensor in (self.image, *self.further)], dim=1
        )

    def shuffled(self, shift: bool, generator: torch.Generator) -> torch.Tensor:
        """First rows (M,) of windows that tile every strip, in random order, without those that
        hold no labelled pixel.

        With `shift` the tiling of each strip starts at a random row, so that every row is seen once
        an epoch and at every place of a window over many.
        """
        assert self.weight is not None
        bound = self.height if shift else 1
        offsets = torch.randint(bound, (len(self.canvas.first),), generator=generator).tolist()
        strips = zip(self.canvas.first, self.canvas.length, offsets, strict=True)
        starts = np.concatenate(
            [first + np.arange(-offset, length, self.height) for first, length, offset in strips]
        )
        labelled = np.append(0, (self.weight.cpu().sum(1) > 0).numpy().cumsum())
        starts = torch.from_numpy(starts[labelled[starts + self.height] > labelled[starts]])
        return starts[torch.randperm(len(starts), generator=generator)].to(self.image.device)

    def defect_free(self) -> torch.Tensor:
        """First rows (M,), on the CPU, of all windows in which every pixel counts and none is
        corroded.
        """
        assert self.weight is not None and self.mask is not None
        fit = ((self.weight > 0) & (self.mask == 0)).all(1).cpu()
        before = torch.cat([torch.zeros(1, dtype=torch.int64), fit.cumsum(0)])
        return torch.nonzero(
            before[self.height :] - before[: -self.height] == self.height
        ).flatten()


def averaged(image: np.ndarray, strips: list[geometry.Strip], rows: int) -> np.ndarray:
    """Patches (N, H, W) in which each pixel is the mean of its column over `rows` rows of the strip
    around it, fewer at the ends.

    First each row loses its median, so that what is left is a matter of azimuth. Rows of missing
    patches do not count.
    """
    result = np.zeros_like(image)
    centred = image - np.median(image, axis=2, keepdims=True)
    for strip in strips:
        # Sums over all rows above each, of values and of present rows: a mean is the ratio of two
        # differences.
        present = np.repeat(strip.index >= 0, image.shape[1])
        total = np.concatenate(
            [np.zeros((1, image.shape[2])), strip.stack(centred).cumsum(0, dtype=np.float64)]
        )
        number = np.append(0, present.cumsum())
        place = np.arange(len(present))
        first, last = (
            (place - rows // 2).clip(min=0),
            (place + rows // 2 + 1).clip(max=len(present)),
        )
        count = (number[last] - number[first]).clip(min=1)
        strip.unstack(((total[last] - total[first]) / count[:, None]).astype(np.float32), result)
    return result
