"""Photographs beside their truth and what networks mark on them, as in the figures of both
reports.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from src.artifacts.run import Run
from src.networks.loading import load_network
from src.photographs import prediction
from src.photographs.confusion import activation_of, labels
from src.photographs.dataset import PhotoDataset
from src.scoring import averaging
from src.studies.backbones import single_iou

Runs = dict[str, Run]
SHOWN = 2  # photographs in a figure
REAL, FALSE = (0.6, 0.2, 0.8), (0.1, 0.4, 1.0)  # purple and blue, as in the two-stage report


def compared(runs: Runs, device: torch.device) -> dict[str, Figure]:
    """The DeepLabV3+ report's Figures 5 to 9 by the names of their files: every variation on the
    same photographs that were held out. What no photograph fits has no figure.

    The first of them with one class, and with several, are predicted at their own size; resized are
    the first with defects; the lowest IoU is that of the best variation.
    """
    first = next(iter(runs.values()))
    train, names = PhotoDataset.open(first, "train"), averaging.oof(first).names
    rows = np.flatnonzero(np.isin(train.name, names))  # names are in the order of train.h5
    iou = {name: single_iou(run) for name, run in runs.items()}
    best = max(iou, key=lambda name: iou[name].mean())
    count, worst = train.shows[rows].sum(1), np.argsort(iou[best], kind="stable")
    chosen = {
        "one_class": rows[count == 1],
        "several_classes": rows[count > 1],
        "resized": rows[count > 0],
        "lowest_iou": rows[worst[count[worst] > 0]],
    }
    whole = ("one_class", "several_classes")
    return {
        name: side_by_side(runs, train, own[:SHOWN], device if name in whole else None)
        for name, own in chosen.items()
        if len(own)
    }


def side_by_side(
    runs: Runs, train: PhotoDataset, rows: Sequence[int], device: torch.device | None
) -> Figure:
    """A column a photograph: itself, its true label map, and that of each variation.

    With a `device` they are predicted at the photograph's own size; without one as stored, and
    drawn square, as the networks saw them.
    """
    titles = ["photograph", "truth", *runs]
    figure, axes = _panels(len(titles), len(rows), square=device is None)
    for column, row in zip(axes.T, rows, strict=True):
        _show_image(column[0], train, row)
        name, classes = str(train.name[row]), len(train.classes)
        maps = [labels(train.mask(row), "sigmoid")]
        for run in runs.values():
            likely = (
                averaging.oof(run).of(name) if device is None else at_own_size(run, row, device)
            )
            maps.append(labels(likely, activation_of(run)))
        for axis, title, marked in zip(column[1:], titles[1:], maps, strict=True):
            _show_labels(axis, marked, classes)
            axis.set_title(title, fontsize=8)
        column[0].set_title(name, fontsize=8)
    return figure


def at_own_size(run: Run, row: int, device: torch.device) -> np.ndarray:
    """Probabilities (K, H, W) of a photograph that was held out, which the networks trained on
    resized ones see as it is; the mean over members and seeds.
    """
    train = PhotoDataset.open(run, "train")
    tasks = [task for task in run.tasks("segment") if task.fold == train.fold[row]]
    parts = []
    for task in tasks:
        network, scaling = load_network(run, task, device)
        member = run.recipe.member(task.member)
        whole = member.photograph.model_copy(update={"resize": None})
        own = member.model_copy(update={"photograph": whole})
        image, inference = train.image(row)[None], run.recipe.inference
        parts.append(
            prediction.predict(network, image, train.white, scaling, own, inference, device)[0]
        )
    return np.mean(parts, 0, dtype=np.float32)


def examples(run: Run, square: bool) -> Figure:
    """A photograph of each class that occurs, the first that shows no other, beside its label map
    (two-stage report, Figures 1 to 4; DeepLabV3+ report, Figure 1).
    """
    train, rows = PhotoDataset.open(run, "train"), {}
    for k, name in enumerate(train.classes):
        own = np.flatnonzero(train.shows[:, k])
        if len(own):
            rows[name] = own[np.argmin(train.shows[own].sum(1))]
    figure, axes = _panels(max(len(rows), 1), 2, square)
    for line, (name, row) in zip(axes, rows.items(), strict=False):
        _show_image(line[0], train, row)
        line[0].set_title(f"class {name}: {train.name[row]}", fontsize=8)
        _show_labels(line[1], labels(train.mask(row), "sigmoid"), len(train.classes))
    return figure


def false_defects(run: Run) -> Figure:
    """Real and false defects: what segmentation alone marks at one half and the truth bears out
    anywhere, in purple, and what it does not, in blue (two-stage report, Figures 8 and 9).

    On the held-out photographs with most false pixels: one with defects, one without.
    """
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    held_out, most = np.flatnonzero(np.isin(train.name, average.names)), {}
    for row in held_out:
        real, false = parted(average.of(str(train.name[row])) > 0.5, train.mask(row) > 0)
        kind = "with defects" if train.shows[row].any() else "without defects"
        if false.sum() >= most.get(kind, (-1,))[0]:
            most[kind] = (false.sum(), row, real, false)
    figure, axes = _panels(len(most), 1, square=False)
    for axis, (kind, (pixels, row, real, false)) in zip(
        axes[:, 0], sorted(most.items()), strict=True
    ):
        grey = np.repeat(_bright(train, row).mean(2, keepdims=True), 3, axis=2)
        for where, colour in ((real, REAL), (false, FALSE)):
            grey[where] = 0.4 * grey[where] + 0.6 * np.array(colour)
        axis.imshow(grey)
        axis.set_title(f"{train.name[row]}, {kind}: {pixels} false pixels", fontsize=8)
    return figure


def parted(marked: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where (H, W) marked components (K, H, W) share a pixel with the truth of their class, and
    where they do not.
    """
    real = np.zeros(marked.shape, bool)
    for k, own in enumerate(marked):
        label, _ = ndimage.label(own, np.ones((3, 3)))
        real[k] = own & np.isin(label, np.unique(label[own & truth[k]]))
    return real.any(0), (marked & ~real).any(0)


def _panels(rows: int, columns: int, square: bool) -> tuple[Figure, np.ndarray]:
    size = (2.8 * columns, 0.3 + 2.8 * rows) if square else (6.4 * columns, 0.3 + 1.3 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, constrained_layout=True)
    for axis in axes.flat:
        axis.axis("off")
        if square:
            axis.set_box_aspect(1)
    return figure, axes


def _bright(train: PhotoDataset, row: int) -> np.ndarray:
    return train.image(row) / train.white


def _show_image(axis: Axes, train: PhotoDataset, row: int) -> None:
    axis.imshow(_bright(train, row).mean(2), cmap="gray", vmin=0, vmax=1, aspect=_aspect(axis))


def _show_labels(axis: Axes, marked: np.ndarray, classes: int) -> None:
    colours = plt.get_cmap("inferno", classes + 1)
    axis.imshow(
        marked, colours, vmin=0, vmax=classes, interpolation="nearest", aspect=_aspect(axis)
    )


def _aspect(axis: Axes) -> str:
    return "auto" if axis.get_box_aspect() else "equal"
