"""A split on a device, seen through windows of rows."""

from dataclasses import dataclass

import numpy as np
import torch

from src import pipe
from src.artifacts import Arrays


@dataclass(frozen=True)
class Windows:
    """The canvas of a split (`src.pipe.Canvas`) as tensors (R, W): images, and for training masks and the weights of pixels."""

    canvas: pipe.Canvas
    height: int
    image: torch.Tensor
    mask: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    @staticmethod
    def of(arrays: Arrays, height: int, device: torch.device, weight: np.ndarray | None = None) -> "Windows":
        """Lay out `image` (and with `weight` (N, H, W) also `mask`) of a prepared split for windows of `height` rows."""
        strips = pipe.strips(arrays["group"], arrays["depth"], arrays["phase"])
        canvas = pipe.Canvas.of(strips, patch_height=arrays["image"].shape[1], margin=height)

        def lay(patches: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(patches.reshape(-1, patches.shape[2])[canvas.source]).float().to(device)

        if weight is None:
            return Windows(canvas, height, lay(arrays["image"]))
        here = torch.from_numpy(canvas.real)[:, None].to(device)
        return Windows(canvas, height, lay(arrays["image"]), lay(arrays["mask"]), lay(weight) * here)

    def take(self, tensor: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Windows (B, 1, height, W) of a canvas tensor from their first rows (B,)."""
        rows = starts[:, None] + torch.arange(self.height, device=starts.device)
        return tensor[rows].unsqueeze(1)

    def shuffled(self, shift: bool, generator: torch.Generator) -> torch.Tensor:
        """First rows (M,) of windows that tile every strip, in random order, without those that hold no labelled pixel.

        With `shift` the tiling of each strip starts at a random row, so that every row is seen once an epoch and at every place
        of a window over many.
        """
        assert self.weight is not None
        bound = self.height if shift else 1
        offsets = torch.randint(bound, (len(self.canvas.first),), generator=generator).tolist()
        strips = zip(self.canvas.first, self.canvas.length, offsets, strict=True)
        starts = np.concatenate([first + np.arange(-offset, length, self.height) for first, length, offset in strips])
        labelled = np.append(0, (self.weight.cpu().sum(1) > 0).numpy().cumsum())
        starts = torch.from_numpy(starts[labelled[starts + self.height] > labelled[starts]])
        return starts[torch.randperm(len(starts), generator=generator)].to(self.image.device)

    def sound(self) -> torch.Tensor:
        """First rows (M,), on the CPU, of all windows in which every pixel counts and none is corroded."""
        assert self.weight is not None and self.mask is not None
        fit = ((self.weight > 0) & (self.mask == 0)).all(1).cpu()
        before = torch.cat([torch.zeros(1, dtype=torch.int64), fit.cumsum(0)])
        return torch.nonzero(before[self.height :] - before[: -self.height] == self.height).flatten()
