"""The figures of the studies of both reports on Severstal, by the names of their files."""

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from src.studies.backbones import single_iou
from src.studies.severstal import defects, pictures
from src.studies.severstal.encoders import ALONE, COUNTS
from src.studies.severstal.pictures import Runs

SMOOTHED = 0.4  # the weight of an epoch in the running means of `curves`
BINS = np.linspace(0, 1, 21)


def of_backbones(
    histories: dict[str, pd.DataFrame], runs: Runs, device: torch.device
) -> dict[str, Figure]:
    """Those of the DeepLabV3+ report."""
    first = next(iter(runs.values()))
    return {
        "plot": curves(histories),
        "iou_distribution": distribution({name: single_iou(run) for name, run in runs.items()}),
        "examples": pictures.examples(first, square=True),
        "defects": defects.figure(first),
        **pictures.compared(runs, device),
    }


def of_encoders(table: pd.DataFrame, runs: Runs) -> dict[str, Figure]:
    """Those of the two-stage report; Figures 8 and 9 of the variation with the highest Dice."""
    first, best = next(iter(runs.values())), table["variation"][table[ALONE].idxmax()]
    return {
        "plot": confusions(table),
        "examples": pictures.examples(first, square=False),
        "defects": defects.figure(first),
        "false_defects": pictures.false_defects(runs[best]),
    }


def curves(histories: dict[str, pd.DataFrame]) -> Figure:
    """Training loss and, where `eval_every` has recorded it, the mean IoU of photographs on the
    evaluation fold, over the epochs: running means (DeepLabV3+ report, Figure 3).
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), constrained_layout=True)
    columns = {"loss": "training loss", "held_out_image_iou": "mean IoU, evaluation"}
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        for name, history in histories.items():
            if column in history:
                epochs = history.groupby("epoch")[column].mean().dropna()
                axis.plot(epochs.index, epochs.ewm(alpha=SMOOTHED).mean(), marker=".", label=name)
        axis.set(title=title, xlabel="epoch")
    axes[0].legend(fontsize=8)
    return figure


def distribution(iou: dict[str, np.ndarray]) -> Figure:
    """How many photographs have which IoU, a panel a variation (DeepLabV3+ report, Figure 4)."""
    columns = min(len(iou), 2)
    rows = -(-len(iou) // columns)
    size = (4.5 * columns, 0.5 + 2.4 * rows)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=size,
        sharex=True,
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    for axis, (name, own) in zip(axes.flat, iou.items(), strict=False):
        axis.hist(own, BINS)
        axis.set_title(f"{name}: mean {own.mean():.3f}", fontsize=9)
    for unused in axes.flat[len(iou) :]:
        unused.axis("off")
    figure.supxlabel("IoU of a photograph", fontsize=9)
    figure.supylabel("photographs", fontsize=9)
    return figure


def confusions(table: pd.DataFrame) -> Figure:
    """The image classifiers' confusion matrices at one half (two-stage report, Tables 2 and 3), and
    beside them the Dice of Tables 1 and 4.
    """
    classified = table[table["classifier"] != "none"]
    figure, (left, *axes) = plt.subplots(
        1, 1 + len(classified), figsize=(6 + 3.2 * len(classified), 3.6), constrained_layout=True
    )
    dice = [name for name in table if name.endswith(("one half", "selected"))]
    table.set_index("variation")[dice].plot.barh(ax=left)
    left.invert_yaxis()
    left.set(title="Dice", ylabel="")
    left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=2)
    names = [["defects found", "defects missed"], ["false alarms", "clean and rejected"]]
    for axis, (_, line) in zip(axes, classified.iterrows(), strict=True):
        counts = np.array([[float(line[f"{COUNTS}{name}"]) for name in row] for row in names])
        axis.imshow(counts, cmap="Blues", vmin=0)
        for (y, x), value in np.ndenumerate(counts):
            axis.text(x, y, f"{value:g}", ha="center", va="center")
        axis.set(xticks=[0, 1], xticklabels=["True", "False"], xlabel="predicted")
        axis.set(yticks=[0, 1], yticklabels=["True", "False"], ylabel="real")
        axis.set_title(line["classifier"], fontsize=9)
    return figure
