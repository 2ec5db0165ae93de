"""What a network is trained on: photographs or crops of them, drawn anew for every epoch,
augmented on the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from src import networks
from src.artifacts.run import Run
from src.networks.scaling import Scaling
from src.photographs import confusion
from src.photographs.augmentation import draw_views
from src.photographs.dataset import PhotoDataset
from src.recipe import Member, Photograph, Task
from src.training.data import Batch

TRIES = 10  # places looked at for a crop that is not dark
DARK = 1 / 16  # of white: a crop with a darker mean shows no steel
KEPT = 1 << 30  # bytes that scaled photographs may take in memory


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

    dataset: PhotoDataset
    samples: list[Sample]
    resize: tuple[int, int] | None
    kept: dict[int, Batch] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Batch:
        """Image (C, h, w) float32 with white 1; uint8 mask (K, h, w) and weight (1, h, w), which is
        0 beyond the photograph's edge.
        """
        sample = self.samples[number]
        if self.kept is None or sample.size:
            return self._read(sample)
        if sample.row not in self.kept:
            self.kept[sample.row] = self._read(sample)
        return self.kept[sample.row]

    def _read(self, sample: Sample) -> Batch:
        image, mask = self.dataset.image(sample.row), self.dataset.mask(sample.row)
        if sample.size:
            top, left = place(image, mask, sample, DARK * self.dataset.white)
            here = np.s_[top : top + sample.size[0], left : left + sample.size[1]]
            image, mask = image[here], mask[:, *here]
        tensors = _tensors(image, mask, self.dataset.white)
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
    return bright, torch.from_numpy(mask), torch.ones(1, *image.shape[:2], dtype=torch.uint8)


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
    dataset: PhotoDataset,
    rows: np.ndarray,
    settings: Photograph,
    epoch: int,
    draw: np.random.Generator,
) -> list[Sample]:
    """The samples of an epoch, as many as there are photographs, in the order in which they are
    trained on.

    With `balanced`, every stretch of as many samples as there are kinds (classes that occur, and
    none) holds each kind once, in random order: the composition of a batch in the two-stage report,
    section 4.2.
    """
    size = tuple(settings.crops[epoch % len(settings.crops)]) if settings.crops else None
    seeds = draw.integers(1 << 31, size=len(rows)).tolist()
    shows = dataset.shows[rows]
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
class PhotoTrainingSet:
    """The photographs of all folds but the task's, a `src.training.data.TrainingSet`."""

    run: Run
    task: Task
    dataset: PhotoDataset
    device: torch.device
    workers: int  # processes that read beside the one that trains; 0 where the CPU itself trains
    rows: np.ndarray
    scaling: Scaling
    kept: dict[int, Batch] = field(default_factory=dict)
    kept_held_out: dict[int, Batch] = field(default_factory=dict)

    @staticmethod
    def of(run: Run, task: Task, device: torch.device, threads: int) -> "PhotoTrainingSet":
        train = PhotoDataset.open(run, "train")
        rows = np.flatnonzero((train.fold >= 0) & (train.fold != task.fold))
        # on a CPU they would take the cores from the training itself
        workers = threads if device.type == "cuda" else 0
        network = run.recipe.member(task.member).network
        scaling = networks.trained_scaling(network, train.channels) or train.scaling(rows)
        return PhotoTrainingSet(run, task, train, device, workers, rows, scaling)

    @property
    def member(self) -> Member:
        return self.run.recipe.member(self.task.member)

    def network(self) -> torch.nn.Module:
        return networks.create(self.run.modality.network_options(self.run, self.member))

    def held_out(self, network: torch.nn.Module) -> dict[str, float]:
        """IoU over all pixels with the background, the mean IoU of the classes, that of photographs
        without the background, and the pruning study's IoU of each photograph.
        """
        rows = self.dataset.evaluated(self.task.fold)
        resize = self.member.photograph.resize
        whole = [Sample(int(row), 0, None) for row in rows]
        kept = self.kept_held_out if resize else None
        read = Crops(self.dataset, whole, resize and tuple(resize), kept)
        pairs = ((image, mask) for image, mask, _ in (read[number] for number in range(len(read))))
        return confusion.held_out(network, pairs, self.scaling, self.member, self.device)

    def epoch(self, epoch: int, seed: int) -> tuple[int, Iterator[Batch]]:
        """The number of batches, and the batches, on the device; an image classifier's truth is (B,
        1, 1, 1), whether there is any defect.
        """
        settings, size = self.member.photograph, self.member.batch_size
        samples = plan(self.dataset, self.rows, settings, epoch, np.random.default_rng(seed))
        if len(samples) % size == 1 < len(samples):
            samples.pop()  # batch norm cannot train on a batch of one; the next epoch draws anew
        crops = Crops(
            self.dataset,
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
        settings = self.member.photograph
        if not settings.resize or self.workers:
            return False
        of_pixel = 4 * self.dataset.channels + len(self.dataset.classes) + 1  # bytes
        return of_pixel * math.prod(settings.resize) * len(self.rows) <= KEPT

    def _batches(
        self, loader: DataLoader, samples: list[Sample], generator: torch.Generator
    ) -> Iterator[Batch]:
        size = self.member.batch_size
        center, scale = (
            torch.from_numpy(array)[:, None, None].to(self.device)
            for array in (self.scaling.center, self.scaling.scale)
        )
        for number, batch in enumerate(loader):
            moved = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            image, mask, weight = (tensor.float() for tensor in moved)
            kinds = [sample.kind for sample in samples[number * size : (number + 1) * size]]
            views = draw_views(self.member.photograph, kinds, generator).to(self.device)
            image, mask, weight = views.apply(image, mask, weight)
            image = (image - center) / scale * weight  # beyond the edge lies the mean
            if self.member.role == "classify":
                mask, weight = (
                    mask.amax((1, 2, 3), keepdim=True),
                    torch.ones_like(weight[:, :, :1, :1]),
                )
            yield image, mask, weight


def examples(
    run: Run, task: Task, scaling: Scaling, count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """At most so many photographs that a task was trained on, as handed out and scaled, (1, C, H,
    W) each, of one size.
    """
    train, settings = PhotoDataset.open(run, "train"), run.recipe.member(task.member).photograph
    rows = np.flatnonzero((train.fold >= 0) & (train.fold != task.fold))
    size = tuple(settings.resize or train.size[rows].max(0).tolist())
    for row in rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]:
        image = train.image(row).astype(np.float32)
        both = (
            torch.from_numpy(x).permute(2, 0, 1)[None]
            for x in (image, scaling.apply(image / train.white))
        )
        yield tuple(functional.interpolate(x, size, mode="bilinear", antialias=True) for x in both)


def whole_scaling(run: Run, task: Task, scaling: Scaling) -> Scaling:
    """From values between 0 and white to a task's own, for each channel (C, 1, 1)."""
    whole = scaling.after(Scaling(np.zeros(()), np.array(run.training()["white"])))
    return Scaling(whole.center[:, None, None], whole.scale[:, None, None])
