"""Predict photographs with one network and write what comes out as it comes: probabilities of a
whole set may not fit in memory.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.networks.devices import LAYOUT, autocast
from src.networks.layers import probability
from src.networks.loading import load_network
from src.networks.scaling import Scaling
from src.photographs.dataset import PhotoDataset
from src.photographs.decoding import STEPS
from src.photographs.selection import accepted
from src.recipe import Inference, Member, Task

# pixels: what a network sees at once of a photograph larger than `WHOLE`, and how much of it is
# context only
TILE, MARGIN = 1024, 128
WHOLE = 1 << 22  # pixels: a photograph up to 4 megapixels is predicted at once
# pixels of a batch on a CPU: larger maps lie in memory that is taken anew each time, twice as slow
AT_ONCE = 1 << 19


def predict_split(run: Run, task: Task, split: str, device: torch.device) -> Predictions:
    """What a trained task says of its held-out fold ("train") or of the test set, without what an
    image classifier has rejected; a classifier's own probabilities are (1, 1, 1) each.

    Beyond a photograph's size lie zeros.
    """
    dataset, member = PhotoDataset.open(run, split), run.recipe.member(task.member)
    if split == "train":
        rows = np.flatnonzero(dataset.fold == task.fold)
    else:
        all_of_them = np.arange(len(dataset.name))
        rows = all_of_them if member.role == "classify" else accepted(run)
    network, scaling = load_network(run, task, device)
    size = dataset.size[rows]
    shape = (len(dataset.classes), *size.max(0, initial=1).tolist())

    def one_size_at_a_time() -> Iterator[np.ndarray]:
        most = member.batch_size
        if device.type == "cpu":
            seen = member.photograph.resize or size.max(0, initial=1).tolist()
            most = min(most, max(1, AT_ONCE // math.prod(seen)))
        for batch in batches(dataset, rows, most):
            images = np.stack([dataset.image(row) for row in batch])
            yield predict(
                network, images, dataset.white, scaling, member, run.recipe.inference, device
            )

    shape = (1, 1, 1) if member.role == "classify" else shape
    return Predictions(dataset.name[rows], shape, one_size_at_a_time(), size)


def batches(dataset: PhotoDataset, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Stretches of at most `most` rows whose photographs are of one size."""
    breaks = np.flatnonzero((np.diff(dataset.size[rows], axis=0) != 0).any(1)) + 1
    for stretch in np.split(rows, breaks):
        for first in range(0, len(stretch), most):
            yield stretch[first : first + most]


def predict(
    network: nn.Module,
    images: np.ndarray,
    white: float,
    scaling: Scaling,
    member: Member,
    inference: Inference,
    device: torch.device,
) -> np.ndarray:
    """Probabilities (B, K, H, W) float16, an image classifier's (B, 1, 1, 1), of photographs (B, H,
    W, C): the mean over the flips.
    """
    x = (
        torch.from_numpy(scaling.apply(images.astype(np.float32) / white))
        .permute(0, 3, 1, 2)
        .to(device)
    )
    size = x.shape[2:]
    if member.photograph.resize:
        x = functional.interpolate(
            x, tuple(member.photograph.resize), mode="bilinear", antialias=True
        )
    flips = [[], [2], [3], [2, 3]] if inference.flips else [[]]
    total: torch.Tensor | float = 0.0
    with torch.inference_mode():
        for flip in flips:
            view = x.flip(flip).contiguous(memory_format=LAYOUT)
            with autocast(member, device):
                logits = (
                    in_tiles(network, view) if member.role == "segment" else network(view).float()
                )
            if member.role == "segment" and member.photograph.resize:
                logits = functional.interpolate(logits, size, mode="bilinear")
            total = total + probability(logits, member.activation).flip(flip)
    return (total / len(flips) * STEPS).round().div(STEPS).cpu().numpy().astype(np.float16)


def in_tiles(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits (B, K, H, W) float32 of photographs (B, C, H, W); large ones in overlapping tiles,
    each pixel from one that has it inside.
    """
    height, width = x.shape[2:]
    if height * width <= WHOLE:
        return network(x).float()
    parts = []
    for top, upper, lower in cuts(height):
        row = []
        for left, first, last in cuts(width):
            tile = network(x[:, :, top : top + TILE, left : left + TILE]).float()
            row.append(tile[:, :, upper - top : lower - top, first - left : last - left])
        parts.append(torch.cat(row, dim=3))
    return torch.cat(parts, dim=2)


def cuts(length: int) -> list[tuple[int, int, int]]:
    """Along one side: where each tile begins, and from where to where its pixels count; these
    stretches tile the side.
    """
    starts = [*range(0, max(length - TILE, 0), TILE - 2 * MARGIN), max(length - TILE, 0)]
    ends = [start + TILE - MARGIN for start in starts[:-1]]
    return list(zip(starts, [0, *ends], [*ends, length], strict=True))
