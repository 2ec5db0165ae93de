"""Figures of a study of pruning: labels, scores against sparsity, held-out scores through the
phases, and masks beside the truth.
"""

from itertools import accumulate

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.artifacts.run import Run
from src.photographs.confusion import activation_of, labels
from src.photographs.dataset import PhotoDataset
from src.recipe import Member
from src.scoring import averaging
from src.scoring.averaging import Average
from src.studies.pruning import BY_IMAGE, MEAN

FRAMES = 2  # held-out photographs in a figure of masks
SHOWN = 320  # pixels, about: the width of a photograph in a figure
SMOOTHING = 0.1  # weight of an epoch in the running average of a curve (study, Figure 5)
PAPER = "held_out_iou_by_image"  # column of a history: the pruning study's IoU


def label_shares(pixels: dict[str, int]) -> Figure:
    """How many pixels each label has, as in the pruning study's Figure 4."""
    figure, axis = plt.subplots(figsize=(1.5 + 1.2 * len(pixels), 3.5), constrained_layout=True)
    bars = axis.bar(list(pixels), list(pixels.values()))
    whole = sum(pixels.values())
    axis.bar_label(bars, [f"{100 * own / whole:.2f} %" for own in pixels.values()])
    axis.set(ylabel="pixels", title="labels")
    return figure


def by_sparsity(table: pd.DataFrame) -> Figure:
    """Scores against sparsity, a panel a network and a line a pruner, as in the pruning study's
    Figures 7 and 8; lines start at the first dense variation, crosses are the others.

    Dashed: on the test set, where its truth is known.
    """
    names = list(dict.fromkeys(table["network"]))
    figure, panels = plt.subplots(
        2, len(names), figsize=(1 + 3 * len(names), 6), sharex=True, sharey="row", squeeze=False
    )
    for column, name in enumerate(names):
        own = table[table["network"] == name]
        for panel, score in zip(panels[:, column], (BY_IMAGE, MEAN), strict=True):
            _against_sparsity(panel, own, score)
        panels[0, column].set(title=name)
        panels[1, column].set(xlabel="sparsity")
    panels[0, 0].set(ylabel=BY_IMAGE)
    panels[1, 0].set(ylabel="mean IoU of the classes")
    for panel in panels[0]:
        if panel.lines:
            panel.legend(fontsize=6)
    figure.tight_layout()
    return figure


def _against_sparsity(panel: Axes, own: pd.DataFrame, score: str) -> None:
    """One panel: a network's lines of one score."""
    dense = own[own["pruner"] == "dense"]
    pruners = dict.fromkeys(own["pruner"][own["pruner"] != "dense"])
    for number, pruner in enumerate(pruners):
        line = pd.concat([dense[:1], own[own["pruner"] == pruner]])
        line = line.sort_values("sparsity", kind="stable")
        style = {"color": f"C{number}"}
        panel.plot(line["sparsity"], line[score], marker="o", label=pruner, **style)
        if f"test {score}" in line:
            style |= {"marker": ".", "linestyle": "--", "alpha": 0.6}
            panel.plot(line["sparsity"], line[f"test {score}"], **style)
    for variation, value in zip(dense["variation"][1:], dense[score][1:], strict=True):
        panel.plot([0], [value], "x", color="black", label=variation)


def running_average(scores: pd.Series) -> pd.Series:
    """The exponential moving average of a curve, from its first value on."""
    return scores.ewm(alpha=SMOOTHING, adjust=False).mean()


def _curve(panel: Axes, scores: pd.Series, label: str, **style: object) -> None:
    """A faded curve of what was measured, and a bold one of its running average."""
    (line,) = panel.plot(scores.index, running_average(scores), linewidth=1.6, label=label, **style)
    panel.plot(scores.index, scores, linewidth=0.8, alpha=0.3, color=line.get_color())


def _scored(
    histories: dict[str, pd.DataFrame], runs: dict[str, Run], score: str
) -> dict[str, pd.Series]:
    """By variation the held-out score of each epoch that has one, the mean over its tasks;
    without those whose epoch was picked by it.
    """
    return {
        name: history.groupby("epoch")[score].mean().dropna()
        for name, history in histories.items()
        if score in history and _segmenting(runs[name]).selection == "last"
    }


def first_stage(
    table: pd.DataFrame, histories: dict[str, pd.DataFrame], runs: dict[str, Run]
) -> Figure | None:
    """The pruning study's IoU on the held-out fold through the first phase of each network, as in
    its Figure 5; None if no history has it (`eval_every` in the recipe).
    """
    curves = _scored(histories, runs, PAPER)
    figure, panel = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for network in dict.fromkeys(table["network"]):
        own = table["variation"][table["network"] == network]
        name = next((name for name in own if name in curves), None)
        if name:
            last = _segmenting(runs[name]).phases[0].epochs
            _curve(panel, curves[name][curves[name].index <= last], network)
    if not panel.lines:
        plt.close(figure)
        return None
    panel.set(xlabel="epoch", ylabel=f"{BY_IMAGE}, held out")
    panel.legend(fontsize=8)
    return figure


def through_phases(
    table: pd.DataFrame,
    histories: dict[str, pd.DataFrame],
    runs: dict[str, Run],
    score: str = PAPER,
) -> Figure | None:
    """A held-out score over training, pruning and fine-tuning, as in the pruning study's Figure 6.

    A row a network, a column a pruner, a line a variation (mean over its tasks), faded, and bold
    its running average; dotted: where a phase begins. None if no history has held-out scores
    (`eval_every` in the recipe).
    """
    curves = _scored(histories, runs, score)
    names = list(dict.fromkeys(table["network"]))
    pruners = [pruner for pruner in dict.fromkeys(table["pruner"]) if pruner != "dense"]
    if not curves or not pruners:
        return None
    size = (4.2 * len(pruners), 0.6 + 2.4 * len(names))
    figure, panels = plt.subplots(
        len(names),
        len(pruners),
        figsize=size,
        sharex=True,
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    for (name, pruner), panel in zip(
        [(name, pruner) for name in names for pruner in pruners], panels.flat, strict=True
    ):
        chosen = (table["network"] == name) & table["pruner"].isin(["dense", pruner])
        own = table[chosen & table["variation"].isin(curves)]
        for variation, kind in zip(own["variation"], own["pruner"], strict=True):
            style = {"color": "black", "linestyle": ":", "zorder": 3} if kind == "dense" else {}
            _curve(panel, curves[variation], variation, **style)
        for begin in _phases(runs, own["variation"]):
            panel.axvline(begin, color="grey", linewidth=0.6, linestyle=":")
        panel.set_title(f"{name}: {pruner}", fontsize=9)
        panel.tick_params(labelsize=8)
        if panel.lines:
            panel.legend(fontsize=6)
    figure.supxlabel("epoch", fontsize=9)
    what = BY_IMAGE if score == PAPER else "mean IoU of the classes"
    figure.supylabel(f"{what}, held out", fontsize=9)
    return figure


def _phases(runs: dict[str, Run], variations: pd.Series) -> set[int]:
    """After which epochs a phase of these variations begins."""
    members = [_segmenting(runs[name]) for name in variations]
    return {
        end
        for member in members
        for end in list(accumulate(phase.epochs for phase in member.phases))[:-1]
    }


def _segmenting(run: Run) -> Member:
    return next(member for member in run.recipe.members if member.role == "segment")


def masks(table: pd.DataFrame, network: str, runs: dict[str, Run]) -> Figure:
    """What a network marks on two held-out photographs, dense and at each sparsity, beside the
    truth (Figures 9 and 10).

    Two rows a pruner; the photographs are those a third and two thirds through the held-out ones.
    """
    own = table[table["network"] == network]
    dense = own["variation"][own["pruner"] == "dense"].tolist()
    pruned = own[own["pruner"] != "dense"].sort_values("sparsity", kind="stable")
    names = dict.fromkeys(own["pruner"][own["pruner"] != "dense"])
    lines = {name: dense + pruned["variation"][pruned["pruner"] == name].tolist() for name in names}
    lines = lines or {"dense": dense}
    first = runs[own["variation"].iloc[0]]
    train = PhotoDataset.open(first, "train")
    averages = {name: averaging.oof(runs[name]) for name in own["variation"]}
    known = averages[own["variation"].iloc[0]].row_of
    held_out = [row for row, name in enumerate(train.name) if name in known]
    rows = [held_out[(number + 1) * len(held_out) // (FRAMES + 1)] for number in range(FRAMES)]
    columns = 2 + max(map(len, lines.values()))
    size = (2 * columns, 0.3 + 1.35 * FRAMES * len(lines))
    figure, axes = plt.subplots(
        FRAMES * len(lines), columns, figsize=size, squeeze=False, constrained_layout=True
    )
    for axis in axes.flat:
        axis.axis("off")
    pairs = [(variations, row) for variations in lines.values() for row in rows]
    for line, (variations, row) in zip(axes, pairs, strict=True):
        _mask_row(line, train, row, {name: (runs[name], averages[name]) for name in variations})
    return figure


def _mask_row(
    axes: np.ndarray, train: PhotoDataset, row: int, variations: dict[str, tuple[Run, Average]]
) -> None:
    every = max(train.size[row][1] // SHOWN, 1)
    image = train.image(row)[::every, ::every] / train.white
    axes[0].imshow(image.squeeze(2) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("photograph", fontsize=7)
    _show(
        axes[1], labels(train.mask(row), "sigmoid")[::every, ::every], len(train.classes), "truth"
    )
    for axis, (name, (run, average)) in zip(axes[2:], variations.items(), strict=False):
        marked = labels(average.of(str(train.name[row])), activation_of(run))[::every, ::every]
        _show(axis, marked, len(train.classes), name)


def _show(axis: Axes, marked: np.ndarray, classes: int, title: str) -> None:
    axis.imshow(marked, cmap="inferno", vmin=0, vmax=classes, interpolation="nearest")
    axis.set_title(title, fontsize=7)
