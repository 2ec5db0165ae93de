"""The data report: what the prepared files hold, as tables, and what in them deserves a look, with
pictures of the first few. Both kinds of data fill the same shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from src.artifacts.files import write_text
from src.artifacts.run import Run
from src.artifacts.sealed import fingerprint
from src.report.rendering import render

FIRST = 6  # pictures of what was found
Row = list[str | int | float]


@dataclass(frozen=True)
class Table:
    """Rows that begin with their title; whole numbers are counts, others shares, texts stay."""

    caption: str
    head: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Shown:
    """Pictures of one image, or of two that are compared; `small` ones show their pixels."""

    name: str
    pictures: list[str]
    small: bool = True


@dataclass(frozen=True)
class Finding:
    """A question to the data: how many images of how many it is true of, and what that means."""

    what: str
    found: int
    of: int
    means: str
    pictures: list[Shown] = field(default_factory=list)


@dataclass(frozen=True)
class DataReport:
    tables: list[Table]
    findings: list[Finding]

    def found(self) -> str:
        """What was found, for the terminal."""
        return "; ".join(f"{own.what}: {own.found}" for own in self.findings if own.found)


def finding(what: str, where: np.ndarray, means: str, picture: Callable[[int], Shown]) -> Finding:
    """A finding about the images (N,) bool that it is true of, with the first few drawn."""
    rows = np.flatnonzero(where)
    shown = [picture(int(row)) for row in rows[:FIRST]]
    return Finding(what, len(rows), len(where), means, shown)


def shortened(
    caption: str, head: list[str], keys: Sequence[Any], row: Callable[[Any], Row], most: int = 100
) -> Table:
    """A table with a row for each key, at most so many, whose caption says so."""
    more = f"; the first {most} of {len(keys)}" if len(keys) > most else ""
    return Table(caption + more, head, [row(key) for key in keys[:most]])


def write(run: Run) -> DataReport:
    """Write the page of the prepared files beside them; returns what it shows."""
    report, name = run.modality.data_report(run), run.prepared_folder.name
    page = render("data.html", None, name=name, data=report, made=_made(run))
    write_text(run.data_report, page)
    return report


def is_due(run: Run) -> bool:
    """Whether the page is missing, or names other prepared files; new data have none."""
    if "train" not in run.splits:
        return False
    page = run.data_report.read_text("utf-8") if run.data_report.is_file() else ""
    return any(own not in page for own in _made(run).values())


def _made(run: Run) -> dict[str, str]:
    return {f"{split}.h5": fingerprint(run.prepared(split)) for split in run.splits}
