"""What a study tells of pruned networks: scores out of fold and, where its truth is known, on
the test set; what a network costs.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from src import artifacts
from src.artifacts import Paths
from src.photographs.confusion import class_iou, micro_iou, on_test, out_of_fold
from src.photographs.dataset import Gallery
from src.recipe import Member, Recipe
from src.studies import comparing
from src.wells import prediction

MICRO, MEAN = "micro IoU with background", "mIoU"


def operations(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of a network as it is, compact or not, for one input; weights
    that are zero count like others.
    """
    network = network.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return float(counter.get_total_flops())


def row(variation: str, recipe: Recipe, paths: Paths, device: torch.device) -> dict[str, Any]:
    """A line of the table: what was pruned, scores (means over seeds), and what the first task's
    network costs.
    """
    train = Gallery.open(paths, recipe, "train")
    member = next(member for member in recipe.members if member.role == "segment")
    counts = [out_of_fold(recipe, paths, [seed]) for seed in recipe.seeds]
    iou = np.array([class_iou(count) for count in counts])
    line: dict[str, Any] = {"variation": variation, **described(member)}
    line |= scores(counts, train.classes)
    line[f"{MEAN}, deviation over seeds"] = (
        float(iou.mean(1).std(ddof=1)) if len(counts) > 1 else float("nan")
    )
    tests = [on_test(recipe, paths, [seed], device) for seed in recipe.seeds]
    if tests[0] is not None:
        line |= {f"test {name}": score for name, score in scores(tests, train.classes).items()}
    task = next(task for task in recipe.tasks() if task.member == member.name)
    network, _ = prediction.load_network(recipe, task, paths, device, len(train.classes))
    parameters = list(network.parameters())
    line["parameters (M)"] = f"{sum(w.numel() for w in parameters) / 1e6:.3f}"
    line["not zero (M)"] = f"{sum(int(w.count_nonzero()) for w in parameters) / 1e6:.3f}"
    line |= artifacts.megabytes(paths.weights(recipe, task))
    rate = comparing.prediction_rate(network, member, train, comparing.RESIZED, device)
    line["latency for 256x256 (ms)"] = round(1000 / rate, 1)
    line["operations for 256x256 (G)"] = round(
        operations(network, (1, train.moments.shape[2], *comparing.RESIZED)) / 1e9, 2
    )
    return line


def scores(counts: list[np.ndarray], classes: list[str]) -> dict[str, float]:
    """The pruning study's IoU, and those of the classes: means over `confusion`s, one for each
    seed.
    """
    iou = np.mean([class_iou(count) for count in counts], 0)
    line = {MICRO: float(np.mean([micro_iou(count) for count in counts])), MEAN: float(iou.mean())}
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
    return line | {
        "pruner": f"{last.method}, channels" if last.channels else last.method,
        "sparsity": last.sparsity,
    }
