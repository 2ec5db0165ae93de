"""What changes the score of photographs after training: the views that are averaged at prediction,
and how masks are made of probabilities.

Usage: python -m benchmarks.decisions RECIPE [--set KEY.PATH=VALUE], after stage 01 of that recipe:
one member with `resize`, one class. Printed is the mean Dice of each photograph out of fold, as the
mean over seeds with their lowest and highest, and of the average of all seeds. What is selected is
selected on the other folds.
"""

import argparse
import copy
from collections.abc import Iterator

import joblib
import numpy as np
from torch import nn

from src.artifacts.run import Run
from src.competitions.metrics import MEAN_DICE, dice
from src.networks.devices import choose_device, set_up_torch
from src.networks.loading import load_network
from src.photographs.dataset import PhotoDataset
from src.photographs.decoding import HALF, THRESHOLDS, overlaps
from src.photographs.prediction import predict
from src.photographs.selection import Counted, sizes_of
from src.recipe import Task
from src.stages.opening import open_run
from src.terminal import command

# a view: factors on the recipe's size, whether flips are averaged, and whether batch norm takes
# each photograph's own statistics
VIEWS = {
    "as trained": ([1.0], False, False),
    "flips": ([1.0], True, False),
    "flips, a quarter larger": ([1.25], True, False),
    "flips, three scales": ([0.75, 1.0, 1.25], True, False),
    "flips, own batch statistics": ([1.0], True, True),
}
COUNT = len(THRESHOLDS)
DECISIONS = {  # which of the candidates are there to select from
    "one half": (slice(HALF, HALF + 1), slice(1)),
    "threshold": (slice(COUNT), slice(1)),
    "threshold and size": (slice(COUNT), slice(None)),
    "expected Dice": (slice(COUNT, COUNT + 1), slice(1)),
    "all": (slice(None), slice(None)),
}


def with_own_statistics(network: nn.Module) -> nn.Module:
    """A copy whose batch norms normalise by what they see."""
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_var = None
            layer.track_running_stats = False
    return network


def probabilities(run: Run, task: Task, view: str) -> Iterator[np.ndarray]:
    """(1, H, W) of each photograph that a task held out."""
    factors, flips, own_statistics = VIEWS[view]
    train, member, device = (
        PhotoDataset.open(run, "train"),
        run.recipe.member(task.member),
        choose_device("auto"),
    )
    network, scaling = load_network(run, task, device)
    network = with_own_statistics(network) if own_statistics else network
    inference = run.recipe.inference.model_copy(update={"flips": flips})
    sizes = [[round(side * f / 32) * 32 for side in member.photograph.resize] for f in factors]
    resized = [member.photograph.model_copy(update={"resize": size}) for size in sizes]
    members = [member.model_copy(update={"photograph": own}) for own in resized]
    for row in np.flatnonzero(train.fold == task.fold):
        how = train.image(row)[None], train.white, scaling
        views = [predict(network, *how, other, inference, device)[0] for other in members]
        yield np.mean(views, axis=0, dtype=np.float32)


def count(run: Run, fold: int, view: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the photographs of a fold the pixels (2, T, S, n, 1) of each seed and, last, of their
    average, stacked first; and the true pixels (n, 1).
    """
    set_up_torch(1)
    train, sizes = PhotoDataset.open(run, "train"), sizes_of(run)
    tasks = [task for task in run.tasks() if task.fold == fold]
    sources = zip(*(probabilities(run, task, view) for task in tasks), strict=True)
    pixels, true = [], []
    for row, seeds in zip(np.flatnonzero(train.fold == fold), sources, strict=True):
        truth = train.mask(row)
        each = [*seeds, np.mean(seeds, axis=0)]
        pixels.append(np.stack([overlaps(own, truth, sizes, expected_dice=True) for own in each]))
        true.append(truth.sum((1, 2), dtype=np.int64))
    return np.stack(pixels, axis=4), np.array(true)


def score(pixels: np.ndarray, true: np.ndarray, place: np.ndarray, decision: str) -> float:
    """The mean Dice of (2, T, S, N, 1), each fold's under what is best on the others."""
    thresholds, sizes = DECISIONS[decision]
    counted = Counted(pixels[:, thresholds, sizes], true, np.unique(place), place, None)
    return float(dice(*counted.under(counted.select(MEAN_DICE))[0]).mean())


def main(options: argparse.Namespace) -> None:
    run = open_run(options)
    folds = sorted({task.fold for task in run.tasks()})
    print("| views | decision | a seed | average of seeds |\n|---|---|---|---|")
    for view in VIEWS:
        calls = (joblib.delayed(count)(run, fold, view) for fold in folds)
        parts = joblib.Parallel(n_jobs=joblib.cpu_count())(calls)
        pixels = np.concatenate([own for own, _ in parts], axis=4)
        true = np.concatenate([own for _, own in parts])
        place = np.repeat(np.arange(len(folds)), [len(own) for _, own in parts])
        for decision in DECISIONS:
            *each, average = (score(own, true, place, decision) for own in pixels)
            spread = f"{np.mean(each):.4f} ({min(each):.4f} to {max(each):.4f})"
            print(f"| {view} | {decision} | {spread} | {average:.4f} |", flush=True)


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
