"""A line of the study of the two-stage report: its Tables 1 to 4."""

from typing import Any

import numpy as np

from src.artifacts.run import Run
from src.photographs import selection, submission
from src.photographs.decoding import HALF
from src.photographs.selection import Counted

ALONE = "segmentation alone, one half"  # the heading of Table 1's Dice
COUNTS = "classifier: "  # begins the headings of Tables 2 and 3


def at_half(counted: Counted, classified: bool) -> np.ndarray:
    """Pixels shared, predicted and true (3, N, K) with nothing selected: every threshold is one
    half, and no component is too small.
    """
    shared, predicted = counted.pixels[:, HALF, 0].copy()
    if classified:
        shared[counted.verdict < 0.5] = predicted[counted.verdict < 0.5] = 0
    return np.stack([shared, predicted, counted.true])


def scores(run: Run) -> dict[str, float]:
    """The mean Dice of each photograph and class out of fold, and how many photographs the image
    classifier, if there is one, took for what at one half (Tables 2 and 3).

    "selected" has thresholds and smallest components, each fold's by what is best on the others.
    """
    metric, (counted, train, rows) = run.competition.metric, selection.count(run)

    def selected(way: str) -> float:
        own = counted.way(way)
        return float(metric.of(*own.under(own.select(metric))[0]).mean())

    line = {ALONE: float(metric.of(*at_half(counted, False)).mean())}
    if counted.verdict is None:
        return line | {"segmentation alone, selected": selected("unrejected")}
    line["both stages, one half"] = float(metric.of(*at_half(counted, True)).mean())
    line["segmentation alone, selected"] = selected("unrejected")
    line["both stages, selected"] = selected("selected")
    verdict = {"shows": train.shows[rows], "rejected": counted.verdict < 0.5}
    return line | {f"{COUNTS}{name}": n for name, n in submission.confusion(verdict).items()}


def row(variation: str, run: Run) -> dict[str, Any]:
    """A line of the table: networks, and scores as means over single seeds."""
    by_role = {member.role: member for member in run.recipe.members}
    single = [scores(run.with_seeds([seed])) for seed in run.recipe.seeds]
    line: dict[str, Any] = {
        "variation": variation,
        "encoder": by_role["segment"].network["encoder"],
    }
    line["activation"] = by_role["segment"].activation
    classifier = by_role.get("classify")
    line["classifier"] = classifier.network["encoder"] if classifier else "none"
    means = {name: float(np.mean([own[name] for own in single])) for name in single[0]}
    counts = {name: f"{mean:g}" for name, mean in means.items() if name.startswith(COUNTS)}
    return line | means | counts
