"""What a network is trained on: photographs or crops of them, drawn anew for every epoch,
augmented on the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from src import networks
from src.photographs.dataset import Gallery
from src.recipe import Member, Photograph
from src.wells.cleaning import Scaling

TRIES = 10  # places looked at for a crop that is not dark
DARK = 1 / 16  # of white: a crop with a darker mean shows no steel
KEPT = 1 << 30  # bytes that scaled photographs may take in memory

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # image, mask, weight


@dataclass(frozen=True)
class Sample:
    """One photograph to be read: all of it, or a crop of `size` that shows class `wanted`, if any
    is wanted.

    `kind` is what weighted augmentation does to it, if anything.
    """

    row: int
    seed: int
    size: tuple[int, int] | None
    wanted: int | None = None
    kind: str | None = None


@dataclass
class Crops(Dataset):
    """Reads samples; every choice comes from a sample's own seed, so that the number of reading
    processes changes nothing.

    Whole photographs stay in `kept`, where there is one, by row: they are the same in every epoch.
    """

    gallery: Gallery
    samples: list[Sample]
    resize: tuple[int, int] | None
    kept: dict[int, Batch] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Batch:
        """Image (C, h, w) float32 with white 1, mask (K, h, w) and weight (1, h, w), which is 0
        beyond the photograph's edge.
        """
        sample = self.samples[number]
        if self.kept is None or sample.size:
            return self._read(sample)
        if sample.row not in self.kept:
            self.kept[sample.row] = self._read(sample)
        return self.kept[sample.row]

    def _read(self, sample: Sample) -> Batch:
        image, mask = self.gallery.image(sample.row), self.gallery.mask(sample.row)
        if sample.size:
            top, left = place(image, mask, sample, DARK * self.gallery.white)
            here = np.s_[top : top + sample.size[0], left : left + sample.size[1]]
            image, mask = image[here], mask[:, *here]
        tensors = _tensors(image, mask, self.gallery.white)
        if sample.size:
            lack = sample.size[0] - image.shape[0], sample.size[1] - image.shape[1]
            tensors = tuple(functional.pad(tensor, (0, lack[1], 0, lack[0])) for tensor in tensors)
        return (
            tensors
            if self.resize is None
            else tuple(_resized(tensor, self.resize, n == 0) for n, tensor in enumerate(tensors))
        )


def place(image: np.ndarray, mask: np.ndarray, sample: Sample, dark: float) -> tuple[int, int]:
    """Top and left of a crop: around a random pixel of the wanted class, or else anywhere, if
    possible where it is not dark.
    """
    draw = np.random.default_rng(sample.seed)
    room = np.maximum(np.array(image.shape[:2]) - sample.size, 0)
    if sample.wanted is not None:
        rows, columns = np.nonzero(mask[sample.wanted])
        pixel = draw.integers(len(rows))
        lowest = np.maximum(np.array([rows[pixel], columns[pixel]]) - sample.size + 1, 0)
        highest = np.minimum([rows[pixel], columns[pixel]], room)
        return tuple(draw.integers(np.minimum(lowest, highest), highest + 1).tolist())
    for _ in range(TRIES):
        top, left = draw.integers(room + 1).tolist()
        if image[top : top + sample.size[0], left : left + sample.size[1]].mean() >= dark:
            break
    return top, left


def _tensors(image: np.ndarray, mask: np.ndarray, white: float) -> Batch:
    bright = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) / white
    return bright, torch.from_numpy(mask.astype(np.float32)), torch.ones(1, *image.shape[:2])


def _resized(tensor: torch.Tensor, size: tuple[int, int], smooth: bool) -> torch.Tensor:
    """An image averaged down or interpolated up; masks and weights take the nearest pixel."""
    if smooth:
        return functional.interpolate(tensor[None], size, mode="bilinear", antialias=True)[0]
    return functional.interpolate(tensor[None], size, mode="nearest-exact")[0]


def collate(items: list[Batch]) -> Batch:
    """A batch; photographs smaller than its largest lie in the upper left corner, with weight 0
    beyond.
    """
    height, width = (max(item[0].shape[axis] for item in items) for axis in (1, 2))
    padded = [
        [functional.pad(t, (0, width - t.shape[2], 0, height - t.shape[1])) for t in item]
        for item in items
    ]
    return tuple(torch.stack(tensors) for tensors in zip(*padded, strict=True))


def plan(
    gallery: Gallery, rows: np.ndarray, settings: Photograph, epoch: int, draw: np.random.Generator
) -> list[Sample]:
    """The samples of an epoch, as many as there are photographs, in the order in which they are
    trained on.

    With `balanced`, every stretch of as many samples as there are kinds (classes that occur, and
    none) holds each kind once, in random order: the composition of a batch in the two-stage report,
    section 4.2.
    """
    size = tuple(settings.crops[epoch % len(settings.crops)]) if settings.crops else None
    seeds = draw.integers(1 << 31, size=len(rows)).tolist()
    shows = gallery.shows[rows]
    if settings.balanced:
        kinds = [(k, rows[shows[:, k]]) for k in range(shows.shape[1])] + [
            (None, rows[~shows.any(1)])
        ]
        kinds = [kind for kind in kinds if len(kind[1])]
        turns = np.concatenate(
            [draw.permutation(len(kinds)) for _ in range(0, len(rows), len(kinds))]
        )[: len(rows)]
        chosen = [(kinds[turn][0], int(draw.choice(kinds[turn][1]))) for turn in turns]
        return [
            Sample(row, seed, size, wanted if size else None)
            for (wanted, row), seed in zip(chosen, seeds, strict=True)
        ]
    order = draw.permutation(len(rows))
    if not settings.weighted:
        return [Sample(int(row), seed, size) for row, seed in zip(rows[order], seeds, strict=True)]
    kinds = weighted_kinds(shows[order], settings.weighted, draw)
    cropped = tuple(settings.resize) if settings.resize else size
    return [
        Sample(int(row), seed, cropped if kind == "crop" else size, None, kind)
        for row, seed, kind in zip(rows[order], seeds, kinds, strict=True)
    ]


def weighted_kinds(
    shows: np.ndarray, weights: dict[str, float], draw: np.random.Generator
) -> list[str | None]:
    """What is done to each photograph: one of the kinds, or nothing (DeepLabV3+ report, section
    3.3).

    A photograph of class c is augmented with probability 1 - P(c), P(c) being the class's share of
    all defects; of several classes the rarest counts, and one without defects stays as it is.

    Args:
        shows: (N, K) bool.
    """
    share = shows.sum(0) / max(shows.sum(), 1)
    probability = np.where(shows, 1 - share, 0).max(1, initial=0)
    names, weight = list(weights), np.array(list(weights.values()))
    drawn = draw.choice(len(names), size=len(shows), p=weight / weight.sum())
    return [
        names[kind] if chance < p else None
        for kind, chance, p in zip(drawn, draw.random(len(shows)), probability, strict=True)
    ]


@dataclass(frozen=True)
class Views:
    """What is done to each image of a batch, (B,) each: flips, an angle in radians, shifts as
    shares of the size, and factors.
    """

    flip_rows: torch.Tensor
    flip_columns: torch.Tensor
    angle: torch.Tensor
    shift_rows: torch.Tensor
    shift_columns: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor

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
        )
        return any(bool(tensor.any()) for tensor in moving)

    def grid(self, height: int, width: int) -> torch.Tensor:
        """For `grid_sample`, (B, height, width, 2): where each pixel comes from, columns first,
        -1 to 1 from edge to edge.
        """
        cos, sin = self.angle.cos(), self.angle.sin()
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


def draw_views(settings: Photograph, samples: list[Sample], generator: torch.Generator) -> Views:
    """Views for a batch, drawn on the CPU: independent and uniform, each flip with probability
    one half; or what `weighted` drew.
    """
    count, kinds = len(samples), [sample.kind for sample in samples]

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
    return Views(
        flip_rows,
        flip_columns,
        angle,
        *shifts,
        1 + uniform(settings.brightness),
        1 + uniform(settings.contrast),
    )


@dataclass(frozen=True)
class PhotoSource:
    """A training set of photographs for one member: what `src.training.Fit` asks of its data."""

    gallery: Gallery
    rows: np.ndarray
    member: Member
    device: torch.device
    workers: int  # processes that read beside the one that trains; 0 where the CPU itself trains
    scaling: Scaling
    kept: dict[int, Batch] = field(default_factory=dict)

    def network(self) -> torch.nn.Module:
        return networks.create(
            networks.for_photographs(
                self.member, len(self.gallery.classes), self.gallery.moments.shape[2]
            )
        )

    def epoch(self, epoch: int, seed: int) -> tuple[int, Iterator[Batch]]:
        """The number of batches, and the batches, on the device; a gate's truth is (B, 1, 1, 1),
        whether there is any defect.
        """
        settings, size = self.member.photograph, self.member.batch_size
        samples = plan(self.gallery, self.rows, settings, epoch, np.random.default_rng(seed))
        if len(samples) % size == 1 < len(samples):
            samples.pop()  # batch norm cannot train on a batch of one; the next epoch draws anew
        crops = Crops(
            self.gallery,
            samples,
            settings.resize and tuple(settings.resize),
            self.kept if self._fit_memory() else None,
        )
        loader = DataLoader(
            crops,
            size,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )
        return len(loader), self._batches(loader, samples, torch.Generator().manual_seed(seed))

    def _fit_memory(self) -> bool:
        """Whether all photographs, scaled, may be kept; reading processes would keep them in
        vain, each ends with its epoch.
        """
        settings, planes = (
            self.member.photograph,
            self.gallery.moments.shape[2] + len(self.gallery.classes) + 1,
        )
        return (
            bool(settings.resize and not self.workers)
            and 4 * planes * math.prod(settings.resize) * len(self.rows) <= KEPT
        )

    def _batches(
        self, loader: DataLoader, samples: list[Sample], generator: torch.Generator
    ) -> Iterator[Batch]:
        size = self.member.batch_size
        center, scale = (
            torch.from_numpy(array)[:, None, None].to(self.device)
            for array in (self.scaling.center, self.scaling.scale)
        )
        for number, batch in enumerate(loader):
            image, mask, weight = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            views = draw_views(
                self.member.photograph, samples[number * size : (number + 1) * size], generator
            ).to(self.device)
            image, mask, weight = views.apply(image, mask, weight)
            image = (image - center) / scale * weight  # beyond the edge lies the mean
            if self.member.role == "gate":
                mask, weight = (
                    mask.amax((1, 2, 3), keepdim=True),
                    torch.ones_like(weight[:, :, :1, :1]),
                )
            yield image, mask, weight
