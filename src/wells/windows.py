"""A split seen through windows of rows: whole on a device, or on disk until a batch asks for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from src.artifacts.mapped import laid
from src.artifacts.sealed import Arrays
from src.competitions.formats.masks import slices
from src.networks.scaling import Scaling
from src.wells import geometry

ROWS = 1 << 13  # of a canvas that are read at a time
UNSCALED = Scaling(np.zeros((), np.float32), np.ones((), np.float32))


@dataclass(frozen=True)
class Stored:
    """A canvas (R, W) float32 of which rows are computed when they are asked for, as a tensor's."""

    shape: tuple[int, int]
    device: torch.device
    read: Callable[[np.ndarray], np.ndarray]  # numbers of rows (...) to these rows (..., W)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.read(rows.cpu().numpy())).float().to(self.device)

    def whole(self) -> torch.Tensor:
        result = torch.empty(self.shape, device=self.device)
        for part in slices(self.shape[0], ROWS):
            result[part] = self[torch.arange(part.start, part.stop)]
        return result


Layer = torch.Tensor | Stored


@dataclass(frozen=True)
class Windows:
    """The canvas of a split (`src.wells.geometry.Canvas`) in layers (R, W): images, and for
    training masks and the weights of pixels.

    `further` are further channels of the image: its means along depth (`averaged`).
    """

    canvas: geometry.Canvas
    height: int
    image: Layer
    mask: Layer | None = None
    weight: Layer | None = None
    further: tuple[Layer, ...] = ()

    @staticmethod
    def of(
        arrays: Arrays,
        height: int,
        device: torch.device,
        weight: np.ndarray | None = None,
        averages: Sequence[int] = (),
    ) -> "Windows":
        """Lay out `image` (and with `weight` (N, H, W) also `mask`) of patches in memory for
        windows of `height` rows.

        Args:
            averages: odd numbers of rows over which the image is averaged along depth, for a
                channel each.
        """
        every = np.ones(len(arrays["group"]), bool)
        return Windows.stored(
            arrays, height, device, UNSCALED, every, weight, averages, None
        ).loaded()

    @staticmethod
    def stored(
        arrays: Arrays,
        height: int,
        device: torch.device,
        scaling: Scaling,
        used: np.ndarray,
        weight: np.ndarray | None,
        averages: Sequence[int],
        folder: Path | None,
    ) -> "Windows":
        """As `of`, of a prepared split that stays where it is, as do the averages in `folder`.

        Args:
            scaling: of the images.
            used: (N,) the patches that count; wells without any are left out.
        """
        patch_height, width = arrays["image"].shape[1:]
        wells = set(arrays["group"][used].tolist())
        strips = geometry.strips(arrays["group"], arrays["depth"], arrays["parity"])
        strips = [strip for strip in strips if strip.group in wells]
        canvas = geometry.Canvas.of(strips, patch_height, margin=height)
        shape = (len(canvas.source), width)

        def layer(read: Callable[[np.ndarray], np.ndarray]) -> Stored:
            return Stored(shape, device, read)

        def place(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.divmod(canvas.source[rows], patch_height)

        def counts(rows: np.ndarray) -> np.ndarray:
            patch, row = place(rows)
            return weight[patch, row] & (used[patch] & canvas.real[rows])[..., None]

        channels = []
        for rows in averages:
            parts = _averages(arrays["image"], scaling, strips, rows, height)
            channel = laid(parts, shape, folder) if folder else np.concatenate(list(parts))
            channels.append(layer(channel.__getitem__))
        image = layer(lambda rows: scaled_rows(arrays["image"], scaling, *place(rows)))
        if weight is None:
            return Windows(canvas, height, image, further=tuple(channels))
        mask = layer(lambda rows: arrays["mask"][place(rows)])
        return Windows(canvas, height, image, mask, layer(counts), tuple(channels))

    @property
    def bytes(self) -> int:
        """What all layers take on a device."""
        return 4 * self.image.shape[0] * self.image.shape[1] * (3 + len(self.further))

    def loaded(self) -> "Windows":
        """The same, whole on the device."""
        mask, weight = (layer and layer.whole() for layer in (self.mask, self.weight))
        further = tuple(layer.whole() for layer in self.further)
        return Windows(self.canvas, self.height, self.image.whole(), mask, weight, further)

    def take(self, layer: Layer, starts: torch.Tensor) -> torch.Tensor:
        """Windows (B, 1, height, W) of a layer from their first rows (B,)."""
        rows = starts[:, None] + torch.arange(self.height, device=starts.device)
        return layer[rows].unsqueeze(1)

    def inputs(self, starts: torch.Tensor) -> torch.Tensor:
        """What a network sees of windows: (B, 1 + further channels, height, W)."""
        return torch.cat([self.take(layer, starts) for layer in (self.image, *self.further)], dim=1)

    def shuffled(self, shift: bool, generator: torch.Generator) -> torch.Tensor:
        """First rows (M,) of windows that tile every strip, in random order, without those that
        hold no labelled pixel.

        With `shift` the tiling of each strip starts at a random row, so that every row is seen once
        an epoch and at every place of a window over many.
        """
        bound = self.height if shift else 1
        offsets = torch.randint(bound, (len(self.canvas.first),), generator=generator).tolist()
        strips = zip(self.canvas.first, self.canvas.length, offsets, strict=True)
        starts = np.concatenate(
            [first + np.arange(-offset, length, self.height) for first, length, offset in strips]
        )
        # windows of a strip follow each other, and rows between strips have no labels
        starts = torch.from_numpy(starts[np.logical_or.reduceat(self._labelled, starts)])
        return starts[torch.randperm(len(starts), generator=generator)].to(self.image.device)

    @cached_property
    def _labelled(self) -> np.ndarray:
        return self._rows(lambda rows: (self.weight[rows] > 0).any(1))

    @cached_property
    def defect_free(self) -> torch.Tensor:
        """First rows (M,) int32, on the CPU, of all windows in which every pixel counts and none is
        corroded.
        """
        fit = self._rows(lambda rows: ((self.weight[rows] > 0) & (self.mask[rows] == 0)).all(1))
        first, end = np.flatnonzero(np.diff(fit, prepend=False, append=False)).reshape(-1, 2).T
        numbers = (end - first - self.height + 1).clip(0)
        starts = np.empty(numbers.sum(), np.int32)
        for start, number, at in zip(first, numbers, numbers.cumsum() - numbers, strict=True):
            starts[at : at + number] = np.arange(start, start + number)
        return torch.from_numpy(starts)

    def _rows(self, found: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        """(R,) bool, whether something is found in each row, some rows at a time."""
        result = np.empty(len(self.canvas.source), bool)
        for part in slices(len(result), ROWS):
            result[part] = found(torch.arange(part.start, part.stop)).cpu().numpy()
        return result


def scaled_rows(
    image: np.ndarray, scaling: Scaling, patch: np.ndarray, row: np.ndarray
) -> np.ndarray:
    """Rows (..., W) of patches (N, H, W), scaled as the whole patches would be."""
    own = (part[row] if part.ndim else part for part in (scaling.center, scaling.scale))
    return Scaling(*own).apply(image[patch, row])


def _averages(
    image: np.ndarray, scaling: Scaling, strips: list[geometry.Strip], rows: int, margin: int
) -> Iterator[np.ndarray]:
    """A canvas of averages over `rows` rows, strip by strip."""
    for strip in strips:
        present = strip.index >= 0
        own = scaling.apply(image[strip.index[present]])
        alone = [replace(strip, index=np.where(present, present.cumsum() - 1, -1))]
        canvas = geometry.Canvas.of(alone, own.shape[1], margin)
        yield averaged(own, alone, rows).reshape(-1, own.shape[2])[canvas.source]


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
