"""Predict photographs with one network and write what comes out as it comes: probabilities of a
whole set may not fit in memory.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from src import artifacts
from src.artifacts import CreatedFrom, Paths, streams
from src.networks.layers import probability
from src.photographs.dataset import Gallery
from src.photographs.selection import open_rows
from src.recipe import Inference, Member, Recipe, Task
from src.wells.cleaning import Scaling
from src.wells.prediction import (
    LAYOUT,
    autocast,
    check_finite,
    load_network,
    predictions_from,
    set_up_torch,
)

# pixels: what a network sees at once of a photograph larger than `WHOLE`, and how much of it is
# context only
TILE, MARGIN = 1024, 128
WHOLE = 1 << 22  # pixels: a photograph up to 4 megapixels is predicted at once
# stored probabilities are multiples of 1/1024, far finer than any threshold: noise would not
# compress
STEPS = 1024


def predict_held_out(
    recipe: Recipe, task: Task, paths: Paths, inputs: CreatedFrom, device: torch.device
) -> None:
    """Write oof.h5 of a task: its held-out fold."""
    train = Gallery.open(paths, recipe, "train")
    _predict(
        train,
        np.flatnonzero(train.fold == task.fold),
        recipe,
        task,
        paths,
        paths.oof(recipe, task),
        inputs,
        device,
    )


def test_from(recipe: Recipe, task: Task, paths: Paths, prepared: str) -> CreatedFrom:
    """What a task's test predictions are made from: with a gate, also which photographs it lets
    pass.
    """
    rows = open_rows(recipe, task, paths, prepared)
    return predictions_from(recipe, task, paths, prepared) | {"rows": artifacts.digest(rows)}


def predict_test(
    recipe: Recipe,
    task: Task,
    paths: Paths,
    inputs: CreatedFrom,
    device: torch.device,
    threads: int,
) -> None:
    """Write test.h5 of a task, without what a gate called clean; `inputs` is what `test_from`
    says of it.
    """
    set_up_torch(threads)
    rows = open_rows(recipe, task, paths, inputs["prepared"])
    _predict(
        Gallery.open(paths, recipe, "test"),
        rows,
        recipe,
        task,
        paths,
        paths.test(recipe, task),
        inputs,
        device,
    )


def _predict(
    gallery: Gallery,
    rows: np.ndarray,
    recipe: Recipe,
    task: Task,
    paths: Paths,
    target: Path,
    inputs: CreatedFrom,
    device: torch.device,
) -> None:
    """`name` (N,), `size` (N, 2) and `probability` (N, K, H, W) float16, a gate's (N, 1, 1, 1);
    beyond a photograph's size, zeros.
    """
    member = recipe.member(task.member)
    network, scaling = load_network(recipe, task, paths, device, len(gallery.classes))
    height, width = gallery.size[rows].max(0, initial=1)
    shape = (1, 1, 1) if member.role == "gate" else (len(gallery.classes), height, width)
    with streams.streaming(target, inputs) as stream:
        stream.put("name", gallery.name[rows])
        stream.put("size", gallery.size[rows])
        stream.create("probability", (len(rows), *shape), np.float16)
        done = 0
        for batch in batches(gallery, rows, member.batch_size):
            images = np.stack([gallery.image(row) for row in batch])
            own = predict(network, images, gallery.white, scaling, member, recipe.inference, device)
            check_finite(own, paths.weights(recipe, task))
            for p in own:
                stream.write("probability", done, p)
                done += 1
            paths.progress(recipe, task).write_text(f"{done / len(rows):.4f}", encoding="utf-8")
    paths.progress(recipe, task).unlink(missing_ok=True)


def batches(gallery: Gallery, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Stretches of at most `most` rows whose photographs are of one size."""
    breaks = np.flatnonzero((np.diff(gallery.size[rows], axis=0) != 0).any(1)) + 1
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
    """Probabilities (B, K, H, W) float16, a gate's (B, 1, 1, 1), of photographs (B, H, W, C):
    the mean over the flips.
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
