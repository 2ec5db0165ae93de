"""Pictures of strips and of studies, and tables in Markdown."""

import io
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # no screen is needed, and none is asked for

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from src.artifacts import Arrays
from src.wells.geometry import Strip, strips

ROWS = 720  # of a strip in one picture: 20 patches


@dataclass(frozen=True)
class Shown:
    """A well for a picture: `arrays` with `image`, `group`, `depth` and `phase` of its patches,
    and titles and maps (N, H, W).
    """

    title: str
    arrays: Arrays
    panels: dict[str, np.ndarray]


def wells_picture(wells: list[Shown]) -> Figure:
    """A stretch of each well, side by side: image and further maps below each other, depth to the
    right and azimuth downwards.

    The stretch shown is the one of at most `ROWS` rows with the most corrosion in the first panel.
    """
    count = 1 + len(wells[0].panels)
    figure, grid = plt.subplots(
        count,
        len(wells),
        figsize=(7 * len(wells), 1.1 * count),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for well, axes in zip(wells, grid.T, strict=True):
        strip = strips(well.arrays["group"], well.arrays["depth"], well.arrays["phase"])[0]
        first = _busiest(strip, next(iter(well.panels.values())))
        rows = slice(first, first + ROWS)
        image = strip.stack(well.arrays["image"])[rows]
        low, high = np.percentile(image, [2, 98])
        depth = {
            "aspect": "auto",
            "interpolation": "nearest",
            "extent": (first, first + len(image), image.shape[1], 0),
        }
        axes[0].imshow(image.T, cmap="gray", vmin=low, vmax=high, **depth)
        axes[0].set_title(f"{well.title}: thickness", loc="left", fontsize=9)
        for axis, (title, patches) in zip(axes[1:], well.panels.items(), strict=True):
            axis.imshow(
                strip.stack(patches)[rows].T.astype(np.float32),
                cmap="inferno",
                vmin=0,
                vmax=1,
                **depth,
            )
            axis.set_title(title, loc="left", fontsize=9)
        for axis in axes:
            axis.set_yticks([])
            axis.tick_params(labelsize=8)
        axes[-1].set_xlabel("depth (rows)", fontsize=8)
    return figure


def _busiest(strip: Strip, mask: np.ndarray) -> int:
    """First row, at a patch's edge, of the stretch of `ROWS` rows with the most marked pixels."""
    marked = np.append(0, strip.stack(mask).sum(1, dtype=np.float64).cumsum())
    starts = np.arange(0, max(1, len(marked) - ROWS), mask.shape[1])
    ends = (starts + ROWS).clip(max=len(marked) - 1)
    return int(starts[np.argmax(marked[ends] - marked[starts])])


def png(figure: Figure) -> bytes:
    """A figure as PNG bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; floats with four decimals, a dash where there is no number."""
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    rows = [list(table.columns), ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.4f}"
    return str(value)


# headings of a study's table
RANDOM_SPLIT, WELLS_HELD_OUT = "random split, soft IoU", "wells held out, official score"


def study_plot(histories: dict[str, pd.DataFrame], table: pd.DataFrame) -> Figure:
    """What training tells of each variation over the epochs (mean and range over its tasks), beside
    its scores.

    Args:
        histories: by variation, as `src.studies.study.curves` gives them: the held-out soft IoU
            where epochs were scored, else the loss.
        table: the study's table.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    scored = all("held_out_soft_iou" in history for history in histories.values())
    for name, history in histories.items():
        epochs = history.groupby("epoch")["held_out_soft_iou" if scored else "loss"].agg(
            ["mean", "min", "max"]
        )
        (line,) = left.plot(epochs.index, epochs["mean"], label=name)
        left.fill_between(
            epochs.index, epochs["min"], epochs["max"], color=line.get_color(), alpha=0.2
        )
    if scored:
        left.set(
            title="paper's protocol: random patches held out",
            xlabel="epoch",
            ylabel="soft IoU, held out",
        )
    else:
        left.set(title="training", xlabel="epoch", ylabel="loss")
    left.legend(fontsize=8)
    score = next(title for title in (WELLS_HELD_OUT, RANDOM_SPLIT, "mIoU") if title in table)
    right.barh(
        table["variation"], table[score], xerr=table[f"{score}, deviation over seeds"].fillna(0)
    )
    right.invert_yaxis()
    right.set(title=score, xlabel="score")
    return figure
