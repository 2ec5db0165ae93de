"""A line of a study's table for wells: scores by both protocols, and what a variation costs."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from src import networks
from src.artifacts.run import Run
from src.scoring import averaging
from src.scoring.metrics import scorer, soft_counts, soft_iou
from src.studies.plots import RANDOM_SPLIT, WELLS_HELD_OUT
from src.wells.postprocess import selection

TITLES = {"paper": RANDOM_SPLIT, "wells": WELLS_HELD_OUT}
TRAINED = "random split, train IoU"


def scores(run: Run, protocol: str, seeds: list[int]) -> dict[str, float]:
    """The score of the average of some seeds: soft IoU under the paper's protocol, else the
    official score with nested selection.

    It is called by the protocol's title; where whole wells are held out, each fold's own score
    follows, called by its wells.
    """
    chosen = run.with_seeds(seeds)
    wells = selection.predicted(chosen, "train", averaging.oof(chosen), "image", "valid", "mask")
    if protocol == "paper":
        counts = sum(soft_counts(block["probability"], block["mask"]) for block in wells)
        return {TITLES[protocol]: soft_iou(counts)}
    score, _ = nested(chosen, wells)
    result = {TITLES[protocol]: float(score.mean())}
    fold, group = wells.index["fold"], wells.index["group"]
    for number in np.unique(fold) if run.recipe.folds.scheme == "group" else ():
        own = fold == number
        name = "wells " + ", ".join(map(str, np.unique(group[own])))
        result[name] = float(score[own].mean())
    return result


def nested(run: Run, wells: Iterable) -> tuple[np.ndarray, selection.Selection]:
    """The score (N,) of every patch, each fold's under what is selected on the others."""
    settings, score = run.recipe.postprocess, scorer(run.competition.metric)
    own = selection.of_wells(wells, settings, score)
    parts = [
        score(selection.masks(block, own.final, own.without, settings), block["mask"])
        for block in wells
    ]
    return np.concatenate(parts), own


def history(run: Run) -> pd.DataFrame:
    """The training histories of a run's tasks, one below the other, with `member`, `fold` and
    `seed`.

    Where smooth IoU alone was trained with, `train_iou` is that of an epoch's training batches, as
    they were drawn, before each step: 1 minus the loss (CorroSeg paper, Figures 6 and 7).
    """
    parts = []
    for task in run.tasks():
        own = pd.read_csv(run.history(task))
        losses = [phase.loss for phase in run.recipe.member(task.member).phases]
        if all(loss == {"smooth_iou": 1.0} for loss in losses):
            own["train_iou"] = 1 - own["loss"]
        parts.append(own.assign(member=task.member, fold=task.fold, seed=task.seed))
    return pd.concat(parts, ignore_index=True)


def train_iou(run: Run) -> float:
    """The mean over tasks of `train_iou` in the epoch whose weights were kept, the best on the
    held-out patches (CorroSeg paper, Table 1); NaN where other losses were trained with.
    """
    told = history(run)
    if "train_iou" not in told:
        return float("nan")
    tasks = told.groupby(["member", "fold", "seed"])["held_out_soft_iou"]
    return float(told.loc[tasks.idxmax(), "train_iou"].mean())


def row(variation: str, own: dict[str, Run]) -> dict[str, Any]:
    """A line of the table: each score as mean and standard deviation over single seeds, and for
    the average of all seeds.

    The scores of the folds come last, mean and deviation in one cell.

    Args:
        own: the variation's run by each protocol.
    """
    first = next(iter(own.values()))
    members, seeds = first.recipe.members, first.recipe.seeds
    line: dict[str, Any] = {"variation": variation}
    line["parameters (M)"] = f"{sum(map(parameters, members)) / 1e6:.3f}"
    folds: dict[str, str] = {}
    for protocol, run in own.items():
        title = TITLES[protocol]
        if protocol == "paper":
            line[TRAINED] = train_iou(run)
        single = pd.DataFrame([scores(run, protocol, [seed]) for seed in seeds])
        mean, deviation = single.mean(), single.std(ddof=1)  # of one seed: not a number
        line[title] = float(mean[title])
        line[f"{title}, deviation over seeds"] = float(deviation[title])
        line[f"{title}, seeds averaged"] = scores(run, protocol, list(seeds))[title]
        for name in single:
            if name != title:
                spread = f" ± {deviation[name]:.4f}" if len(seeds) > 1 else ""
                folds[name] = f"{mean[name]:.4f}{spread}"
    if any(member.prunings for member in members):
        line["weights left (M)"] = f"{weights_left(first) / 1e6:.3f}"
    line["seeds"] = len(seeds)
    operations = 36 * sum(first.modality.cost(member, training=True) for member in members)
    line["training operations for a patch (G)"] = round(operations / 1e9, 1)
    seconds = sum(float(history(run)["seconds"].sum()) for run in own.values())
    line["training (s)"] = round(seconds)
    return line | folds


def parameters(member: Any) -> int:
    """The number of a member's weights."""
    return sum(weights.numel() for weights in networks.sketch(member.network).parameters())


def weights_left(run: Run) -> int:
    """Parameters that pruning has left, of all members together; those of the first fold and
    seed.
    """
    first, left = {task.member: task for task in reversed(run.tasks())}, 0
    for name, task in first.items():
        losses = pd.read_csv(run.history(task))
        whole = parameters(run.recipe.member(name))
        left += int(losses["weights"].iloc[-1]) if "weights" in losses else whole
    return left
