"""What a study tells of pruned networks: scores out of fold and, where its truth is known, on
the test set; what a network costs.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.artifacts.sealed import megabytes
from src.networks.loading import load_network
from src.photographs.confusion import (
    class_iou,
    iou_by_image,
    labels,
    micro_iou,
    on_test,
    out_of_fold,
)
from src.photographs.dataset import PhotoDataset
from src.recipe import Member
from src.studies import backbones

# the pruning study's IoU, the same over all pixels at once, and that of the classes
BY_IMAGE, MICRO, MEAN = "IoU of each image with background", "micro IoU with background", "mIoU"


def operations(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of a network as it is, compact or not, for one input; weights
    that are zero count like others.
    """
    network = network.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return float(counter.get_total_flops())


def row(variation: str, run: Run, device: torch.device) -> dict[str, Any]:
    """A line of the table: what was pruned, scores (means over seeds), and what the first task's
    network costs.
    """
    train = PhotoDataset.open(run, "train")
    member = next(member for member in run.recipe.members if member.role == "segment")
    by_seed = [run.with_seeds([seed]) for seed in run.recipe.seeds]
    counts = [out_of_fold(own) for own in by_seed]
    iou = np.array([class_iou(count) for count in counts]).mean(1)
    line: dict[str, Any] = {"variation": variation, **described(member)}
    line |= scores(counts, train.classes)
    spread = float(iou.std(ddof=1)) if len(counts) > 1 else float("nan")
    line[f"{MEAN}, deviation over seeds"] = spread
    tests = on_test(run, device)
    if tests is not None:
        own = scores(tests, train.classes)
        line |= {f"test {name}": score for name, score in own.items()}
    task = next(task for task in run.tasks() if task.member == member.name)
    network, _ = load_network(run, task, device)
    weights = list(network.parameters())
    line["parameters (M)"] = f"{sum(w.numel() for w in weights) / 1e6:.3f}"
    line["not zero (M)"] = f"{sum(int(w.count_nonzero()) for w in weights) / 1e6:.3f}"
    line["zero, mean of convolutions"] = mean_sparsity(network)
    line |= megabytes(run.weights(task))
    rate = backbones.prediction_rate(network, member, train, backbones.RESIZED, device)
    line["latency for 256x256 (ms)"] = round(1000 / rate, 1)
    shape = (1, train.channels, *backbones.RESIZED)
    line["operations for 256x256 (G)"] = round(operations(network, shape) / 1e9, 2)
    return line


def mean_sparsity(network: nn.Module) -> float:
    """The share of zeros in a convolution's weights, the mean over all of them: how the pruning
    study's logs tell sparsity.
    """
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return float(np.mean([1 - int(own.count_nonzero()) / own.numel() for own in weights]))


def label_pixels(run: Run) -> dict[str, int]:
    """How many pixels each label has, the background first, over all photographs whose truth is
    known.
    """
    splits = ["train", *(["test"] if hdf5.holds(run.prepared("test"), "mask") else [])]
    pixels: np.ndarray | int = 0
    for split in splits:
        dataset = PhotoDataset.open(run, split)
        for row in range(len(dataset.name)):
            known = labels(dataset.mask(row), "sigmoid")
            pixels = pixels + np.bincount(known.ravel(), minlength=len(dataset.classes) + 1)
    return dict(zip(["background", *dataset.classes], pixels.tolist(), strict=True))


def scores(counts: list[np.ndarray], classes: list[str]) -> dict[str, float]:
    """The pruning study's IoU, the same over all pixels at once, and those of the classes: means
    over seeds or networks.

    Args:
        counts: of each (N, K + 1, K + 1), a `confusion` for each photograph.
    """
    iou = np.mean([class_iou(count) for count in counts], 0)
    line = {BY_IMAGE: float(np.mean([iou_by_image(count) for count in counts]))}
    line |= {MICRO: float(np.mean([micro_iou(count) for count in counts])), MEAN: float(iou.mean())}
    return line | {f"IoU {name}": float(score) for name, score in zip(classes, iou, strict=True)}


def described(member: Member) -> dict[str, Any]:
    """A member's network, and how it was pruned."""
    encoder = member.network.get("encoder")
    line = {
        "network": f"{member.network['name']}, {encoder}" if encoder else member.network["name"],
        "pruner": "dense",
        "sparsity": 0.0,
    }
    if not member.prunings:
        return line
    last = member.prunings[-1]
    kinds = {
        ", channels": last.channels,
        ", filters": last.granularity == "channel",
        ", together": last.together,
    }
    what = next((name for name, own in kinds.items() if own), "")
    return line | {"pruner": last.method + what, "sparsity": last.sparsity}
