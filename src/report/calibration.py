"""The calibration as it stands on the page: a chart, and what is in each bin and each part."""

from typing import Any

import numpy as np

from src.report.charts import Line, lines
from src.scoring.calibration import BINS, error

LEAST = 1000  # pixels of a point of a thin line
Tallies = dict[str, np.ndarray]


def section(parts: dict[str, Tallies]) -> dict[str, Any]:
    """What the template speaks of.

    Args:
        parts: by title, such as "Well", tallies (3, BINS) that together are all pixels. Those of
            the last are drawn.
    """
    thin, drawn = list(parts.items())[-1]
    whole = np.sum(list(drawn.values()), axis=0)
    return {
        "error": error(whole),
        "chart": chart(whole, list(drawn.values())),
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


def scores(parts: dict[str, Tallies]) -> dict[str, Any]:
    """The expected calibration errors, of all pixels and by part; `parts` as for `section`."""
    whole = np.sum(list(next(iter(parts.values())).values()), axis=0)
    by = {
        f"by_{title.lower()}": {name: error(own) for name, own in tallies.items()}
        for title, tallies in parts.items()
    }
    return {"error": error(whole), **by}


def _line(tally: np.ndarray) -> dict[str, Any]:
    pixels, predicted, true = tally.sum(1).tolist()
    mean, share = (part / pixels if pixels else None for part in (predicted, true))
    return {"pixels": int(pixels), "predicted": mean, "true": share, "error": error(tally)}


def chart(whole: np.ndarray, parts: list[np.ndarray]) -> Any:
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
