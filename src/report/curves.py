"""What training tells of each member, what a threshold does to the score and what a probability is
worth, as charts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.recipe import Recipe, Task
from src.report.charts import Line, lines
from src.scoring.calibration import BINS, Tallies, error, total

# What a history may tell of an epoch, and what the chart says that it is.
TOLD = {
    "loss": "training loss",
    "held_out_soft_iou": "held-out soft IoU",
    "held_out_score": "held-out score, at one half",
    "held_out_iou": "held-out IoU, mean of the classes",
    "held_out_micro_iou": "held-out IoU of all pixels",
    "weights": "weights left",
}
LEAST = 1000  # pixels of a point of a thin line of calibration
# Told apart by the colour-blind too (Okabe and Ito 2008); after seven they come again.
TASK_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#808080"]


def histories(
    run: Run, which: Callable[[Task], bool] = lambda task: True
) -> dict[str, pd.DataFrame]:
    """By member, the histories of its tasks below each other with `fold` and `seed`; tasks
    without one are left out, and those that are not asked for.
    """
    parts: dict[str, list[pd.DataFrame]] = {member.name: [] for member in run.recipe.members}
    for task in run.tasks():
        path = run.history(task)
        if path.is_file() and which(task):
            with hdf5.legible(path):
                parts[task.member].append(pd.read_csv(path).assign(fold=task.fold, seed=task.seed))
    return {name: pd.concat(own, ignore_index=True) for name, own in parts.items() if own}


def learning(
    recipe: Recipe, histories: dict[str, pd.DataFrame], by_task: bool = False
) -> list[dict[str, Any]]:
    """For each member its charts: mean over the tasks, and the range from the lowest to the
    highest; or a line for each task, in the colours of their order.
    """
    charts = _charts_by_task if by_task else _charts
    return [
        {"name": member.name, "charts": charts(recipe, member.name, histories[member.name])}
        for member in recipe.members
        if member.name in histories
    ]


def _charts(recipe: Recipe, name: str, history: pd.DataFrame) -> list[Any]:
    marks = _phases(recipe, name)
    tasks, result = len(history[["fold", "seed"]].drop_duplicates()), []
    for column, title in TOLD.items():
        if column in history:
            known = history.dropna(subset=[column])
            epochs = known.groupby("epoch")[column].agg(["mean", "min", "max"])
            curve = Line(
                *(
                    part.to_numpy(float)
                    for part in (epochs.index, epochs["mean"], epochs["min"], epochs["max"])
                )
            )
            says = (
                f"{name}: {title}, mean of {tasks} tasks, {epochs['mean'].iloc[0]:.4g} after "
                "the first epoch, "
            )
            result.append(
                lines(
                    [curve],
                    "epoch",
                    title,
                    says + f"{epochs['mean'].iloc[-1]:.4g} after the last",
                    marks,
                )
            )
    return result


def _phases(recipe: Recipe, name: str) -> list[tuple[float, str]]:
    """Where each phase but the first begins."""
    ends = np.cumsum([phase.epochs for phase in recipe.member(name).phases])[:-1]
    return [(float(end) + 0.5, f"phase {number + 2}") for number, end in enumerate(ends)]


def _charts_by_task(recipe: Recipe, name: str, history: pd.DataFrame) -> list[Any]:
    result, own = [], [task for task in recipe.tasks() if task.member == name]
    for column, title in TOLD.items():
        told = history.dropna(subset=[column]) if column in history else history[:0]
        series, says = [], []
        for number, task in enumerate(own):
            lines_of = told[(told["fold"] == task.fold) & (told["seed"] == task.seed)]
            if len(lines_of):
                x, y = (lines_of[key].to_numpy(float) for key in ("epoch", column))
                called = f"fold {task.fold}, seed {task.seed}"
                style = f"task{number % len(TASK_COLOURS)}"
                series.append(Line(x, y, style=style, name=called))
                says.append(f"{called} {y[-1]:.4g} after epoch {x[-1]:.0f}")
        if series:
            text = f"{name}: {title}: {'; '.join(says)}"
            span = (1, recipe.member(name).epochs)
            result.append(lines(series, "epoch", title, text, _phases(recipe, name), span))
    return result


def threshold_chart(levels: np.ndarray, scores: np.ndarray, chosen: float | None) -> Any:
    """Mean score (F + 1, T) against the threshold: each fold thin and, the last, all patches in
    bold; `chosen` is marked, unless masks are made otherwise.
    """
    best = int(scores[-1].argmax())
    says = (
        f"mean score against the threshold: highest, {scores[-1][best]:.4f}, at {levels[best]:.2f}"
    )
    folds = [Line(levels, own, style="minor") for own in scores[:-1]]
    return lines(
        [*folds, Line(levels, scores[-1])],
        "threshold",
        "mean score",
        says,
        [] if chosen is None else [(chosen, f"chosen {chosen:.2f}")],
    )


def spread_chart(score: np.ndarray) -> Any:
    """The share of patches (N,) that score at most so much."""
    levels = np.linspace(0, 1, 101)
    below = np.searchsorted(np.sort(score), levels, side="right") / max(1, len(score))
    says = (
        f"share of corroded patches against the score that they reach at most: {below[0]:.0%} "
        f"score 0, {below[50]:.0%} at most one half"
    )
    return lines([Line(levels, below)], "score", "share of patches", says)


def classifier_chart(verdict: np.ndarray, real: np.ndarray, threshold: float) -> Any:
    """What an image classifier with probabilities (N,) of a defect does at every threshold to
    photographs with and without one (N,).
    """
    levels = np.linspace(0, 1, 101)
    clean, missed = (
        np.searchsorted(np.sort(verdict[own]), levels) / max(1, own.sum()) for own in (~real, real)
    )
    at = int(np.searchsorted(levels, threshold))
    says = (
        f"at the threshold {threshold:.2f}, {clean[at]:.0%} of the clean photographs are rejected, "
        f"{missed[at]:.0%} of the others missed"
    )
    series = [Line(levels, missed, style="minor"), Line(levels, clean)]
    mark = [(threshold, f"selected {threshold:.2f}")]
    return lines(series, "threshold of the classifier", "share rejected", says, mark)


def calibration(parts: dict[str, Tallies]) -> dict[str, Any]:
    """What the page shows of it: a chart, and what is in each bin and each part.

    Args:
        parts: as for `src.scoring.calibration.errors`; those of the last are drawn.
    """
    (thin, drawn), whole = list(parts.items())[-1], total(parts)
    return {
        "error": error(whole),
        "chart": calibration_chart(whole, list(drawn.values())),
        "thin": thin,
        "least": LEAST,
        "bins": [
            {"name": f"{k / BINS:.1f} to {(k + 1) / BINS:.1f}", **_line(whole[:, k : k + 1])}
            for k in range(BINS)
        ],
        "parts": {
            title: [{"name": name, **_line(own)} for name, own in tallies.items()]
            for title, tallies in parts.items()
        },
    }


def _line(tally: np.ndarray) -> dict[str, Any]:
    pixels, predicted, true = tally.sum(1).tolist()
    mean, share = (part / pixels if pixels else None for part in (predicted, true))
    return {"pixels": int(pixels), "predicted": mean, "true": share, "error": error(tally)}


def calibration_chart(whole: np.ndarray, parts: list[np.ndarray]) -> Any:
    """The share of true pixels against the mean probability of each bin: parts thin, all bold."""
    diagonal = Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), style="even")
    thin = [_curve(own, LEAST, "minor") for own in parts]
    says = (
        "share of truly marked pixels against their probability; expected calibration error "
        f"{error(whole):.4f}"
    )
    series = [diagonal, *(own for own in thin if len(own.x)), _curve(whole, 1, "main")]
    return lines(series, "mean probability", "share truly marked", says)


def _curve(tally: np.ndarray, least: int, style: str) -> Line:
    pixels, predicted, true = tally[:, tally[0] >= least]
    return Line(predicted / pixels, true / pixels, style=style)
