"""Figures as files, and tables in Markdown."""

import io

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # no screen is needed, and none is asked for

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


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
