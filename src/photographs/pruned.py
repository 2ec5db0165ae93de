"""What a study tells of pruned networks: intersection over union with and without the background, and what a network costs.

The pruning study reports one IoU over all pixels and classes, the background among them: (TP) / (TP + FP + FN) with every pixel counted
once for what it is and once for what it is taken for, which is accuracy / (2 - accuracy). Where most pixels are background it hardly
notices the corrosion. It is told here beside the IoU of each class.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from src import artifacts, inference
from src.artifacts import Paths
from src.networks.layers import Activation
from src.photographs import comparing
from src.photographs.averaging import oof_average
from src.photographs.gallery import Gallery
from src.recipe import Recipe

MICRO, MEAN = "micro IoU with background", "mIoU"


def labels(probability: np.ndarray, activation: Activation) -> np.ndarray:
    """The class (H, W) of each pixel, 0 being the background, from probabilities or a mask (K, H, W).

    With "softmax" the likeliest of classes and background; with "sigmoid", and for a mask, the likeliest class if it is above one half.
    """
    background = 1 - probability.sum(0) if activation == "softmax" else 0.5
    return np.where(probability.max(0) > background, probability.argmax(0) + 1, 0)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each label (rows) were taken for each (columns): (K + 1, K + 1), the background first."""
    return np.bincount(truth.ravel() * (classes + 1) + predicted.ravel(), minlength=(classes + 1) ** 2).reshape(classes + 1, -1)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU (K,) of each class but the background over a whole set: sums of intersections over sums of unions; 1 of a class nowhere."""
    shared = np.diagonal(counts)[1:]
    union = (counts.sum(0) + counts.sum(1))[1:] - shared
    return np.divide(shared, union, out=np.ones(len(shared)), where=union > 0)


def micro_iou(counts: np.ndarray) -> float:
    """The pruning study's IoU: over all pixels and labels together, the background among them."""
    accuracy = np.trace(counts) / counts.sum()
    return float(accuracy / (2 - accuracy))


def out_of_fold(recipe: Recipe, paths: Paths, seeds: list[int]) -> np.ndarray:
    """`confusion` over all photographs that were held out, predicted by the average of some seeds."""
    chosen, train = recipe.model_copy(update={"seeds": seeds}), Gallery.open(paths, recipe, "train")
    average, classes = oof_average(chosen, paths, "segment"), len(train.classes)
    activation = next(member.activation for member in recipe.members if member.role == "segment")
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for row, name in enumerate(train.name):
        if name in average.names:
            counts += confusion(labels(train.mask(row), "sigmoid"), labels(average.of(name), activation), classes)
    return counts


def operations(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of a network as it is, compact or not, for one input; weights that are zero count like others."""
    network = network.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return float(counter.get_total_flops())


def row(variation: str, recipe: Recipe, paths: Paths, device: torch.device) -> dict[str, Any]:
    """A line of the table: what was pruned, scores out of fold (means over seeds), and what the first task's network costs."""
    train = Gallery.open(paths, recipe, "train")
    member = next(member for member in recipe.members if member.role == "segment")
    counts = [out_of_fold(recipe, paths, [seed]) for seed in recipe.seeds]
    iou = np.array([class_iou(count) for count in counts])
    line: dict[str, Any] = {"variation": variation, "network": member.network["name"], **_pruner(recipe)}
    line |= {MICRO: float(np.mean([micro_iou(count) for count in counts])), MEAN: float(iou.mean())}
    line[f"{MEAN}, deviation over seeds"] = float(iou.mean(1).std(ddof=1)) if len(counts) > 1 else float("nan")
    line |= {f"IoU {name}": float(score) for name, score in zip(train.classes, iou.mean(0), strict=True)}
    task = next(task for task in recipe.tasks() if task.member == member.name)
    network, _ = inference.load_network(recipe, task, paths, device, len(train.classes))
    parameters = list(network.parameters())
    line["parameters (M)"] = f"{sum(w.numel() for w in parameters) / 1e6:.3f}"
    line["not zero (M)"] = f"{sum(int(w.count_nonzero()) for w in parameters) / 1e6:.3f}"
    line |= artifacts.megabytes(paths.weights(recipe, task))
    rate = comparing.prediction_rate(network, member, train, comparing.RESIZED, device)
    line["latency for 256x256 (ms)"] = round(1000 / rate, 1)
    line["operations for 256x256 (G)"] = round(operations(network, (1, train.moments.shape[2], *comparing.RESIZED)) / 1e9, 2)
    return line


def _pruner(recipe: Recipe) -> dict[str, Any]:
    prunings = [pruning for member in recipe.members for pruning in member.prunings]
    if not prunings:
        return {"pruner": "dense", "sparsity": 0.0}
    last = prunings[-1]
    return {"pruner": f"{last.method}, channels" if last.channels else last.method, "sparsity": last.sparsity}


def plot(table: pd.DataFrame) -> Figure:
    """Scores against sparsity, a panel a network and a line a pruner, as in the pruning study's Figures 7 and 8; dense is sparsity 0."""
    names = list(dict.fromkeys(table["network"]))
    figure, panels = plt.subplots(2, len(names), figsize=(1 + 3 * len(names), 6), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(names):
        own = table[table["network"] == name]
        dense = own[own["pruner"] == "dense"]
        for pruner in dict.fromkeys(own["pruner"][own["pruner"] != "dense"]):
            line = pd.concat([dense, own[own["pruner"] == pruner]]).sort_values("sparsity")
            for panel, score in zip(panels[:, column], (MICRO, MEAN), strict=True):
                panel.plot(line["sparsity"], line[score], marker="o", label=pruner)
        panels[0, column].set(title=name)
        panels[1, column].set(xlabel="sparsity")
    panels[0, 0].set(ylabel=MICRO)
    panels[1, 0].set(ylabel="mean IoU of the classes")
    if panels[0, 0].lines:
        panels[0, 0].legend(fontsize=8)
    figure.tight_layout()
    return figure
