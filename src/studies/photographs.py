"""A line of a study's table for photographs: scores out of fold, and what a variation costs."""

from typing import Any

import numpy as np

from src import networks
from src.artifacts.run import Run
from src.competitions.metrics import iou
from src.photographs import selection
from src.studies.severstal.encoders import at_half
from src.studies.tables import history


def scores(run: Run) -> dict[str, float]:
    """The mean score and IoU of each photograph and class, with an image classifier where there is
    one: all at one half, and each fold by what is selected on the others.
    """
    metric, (counted, _, _) = run.competition.metric, selection.count(run)
    pixels, _ = counted.under(counted.select(metric))
    half = at_half(counted, counted.verdict is not None)
    return {
        "score": float(metric.of(*pixels).mean()),
        "IoU": float(iou(*pixels).mean()),
        "score at one half": float(metric.of(*half).mean()),
    }


def row(variation: str, run: Run) -> dict[str, Any]:
    """A line of the table: each score as mean and standard deviation over single seeds, and for the
    average of all seeds.
    """
    seeds, told = run.recipe.seeds, history(run)
    line: dict[str, Any] = {"variation": variation}
    sizes = [
        sum(
            own.numel()
            for own in networks.sketch(run.modality.network_options(run, m)).parameters()
        )
        for m in run.recipe.members
    ]
    line["parameters (M)"] = f"{sum(sizes) / 1e6:.2f}"
    single = [scores(run.with_seeds([seed])) for seed in seeds]
    together = scores(run) if len(seeds) > 1 else single[0]
    for name in together:
        each = [own[name] for own in single]
        spread = f" ± {np.std(each, ddof=1):.4f}" if len(seeds) > 1 else ""
        line[name] = f"{np.mean(each):.4f}{spread}"
    line["score, seeds averaged"] = together["score"]
    line["IoU, seeds averaged"] = together["IoU"]
    line["seeds"] = len(seeds)
    line["training of a seed (core s)"] = round(told["seconds"].sum() / len(seeds))
    return line
