"""What the labels of photographs say: how often each class occurs, how large its defects are and
into how many segments they fall.

A defect is all that a photograph shows of a class, as a row of Severstal's train.csv is; a segment
is a connected part of it.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy import ndimage

from src.artifacts.run import Run
from src.photographs.dataset import PhotoDataset

# at least so many segments, and fewer than the next number: the report says "5+" and "10+"
FROM = (1, 2, 3, 4, 5, 10)


def measured(run: Run) -> pd.DataFrame:
    """A line a defect of the training photographs: its `class`, `area` in pixels and `segments`.

    Pixels touch across edges and corners.
    """
    train = PhotoDataset.open(run, "train")

    def lines() -> Iterator[tuple[str, int, int]]:
        for row in np.flatnonzero(train.shows.any(1)):
            mask = train.mask(row)
            for k in np.flatnonzero(train.shows[row]):
                yield (
                    train.classes[k],
                    int(mask[k].sum()),
                    ndimage.label(mask[k], np.ones((3, 3)))[1],
                )

    return pd.DataFrame(lines(), columns=["class", "area", "segments"])


def table(run: Run) -> pd.DataFrame:
    """A line a class: its defects, its shares of all defects and of their area (DeepLabV3+ report,
    section 3.1; two-stage report, Figure 7), and the shares of its defects that have so many
    segments (section 8).
    """
    defects, result = measured(run), []
    bins = [f"{low}+" if low in FROM[-2:] else str(low) for low in FROM]
    for name in PhotoDataset.open(run, "train").classes:
        own = defects[defects["class"] == name]
        line = {"class": name, "defects": len(own)}
        line["share of defects"] = len(own) / max(len(defects), 1)
        line["share of area"] = float(own["area"].sum() / max(defects["area"].sum(), 1))
        line["median area"] = float(own["area"].median())
        for low, high, title in zip(FROM, [2, 3, 4, 5, np.inf, np.inf], bins, strict=True):
            inside = (own["segments"] >= low) & (own["segments"] < high)
            line[f"{title} segments"] = float(inside.mean()) if len(own) else float("nan")
        result.append(line)
    return pd.DataFrame(result)


def figure(run: Run) -> Figure:
    """How many photographs show each class, or none (two-stage report, Figure 7), and the segments
    and areas of their defects (DeepLabV3+ report, section 8).
    """
    train, defects = PhotoDataset.open(run, "train"), measured(run)
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    left.bar(["none", *train.classes], [(~train.shows.any(1)).sum(), *train.shows.sum(0)])
    left.set(title="photographs", xlabel="class", ylabel="number")
    shown = [name for name in train.classes if (defects["class"] == name).any()]
    for name in shown:
        segments = defects["segments"][defects["class"] == name].clip(upper=FROM[-1])
        share = np.bincount(segments, minlength=FROM[-1] + 1)[1:] / len(segments)
        middle.plot(range(1, FROM[-1] + 1), share, marker=".", label=f"class {name}")
    middle.set(title="segments of a defect", xlabel=f"segments ({FROM[-1]}: or more)")
    middle.set_ylabel("share of the class's defects")
    areas = [defects["area"][defects["class"] == name] for name in shown]
    if shown:
        middle.legend(fontsize=8)
        right.boxplot(areas, tick_labels=shown)
    right.set(title="area of a defect", xlabel="class", ylabel="pixels", yscale="log")
    return drawn
