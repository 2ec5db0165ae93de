"""A table of the runs, studies and models here: python -m src.cli.runs [--json].

Training is the time of all tasks added up, commit the one that trained.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from src.cli.records import Row, rows
from src.terminal import command, console

UNKNOWN = "-"


def score(value: float | None, signed: bool = False) -> str:
    """Four decimals, or that it is not known."""
    return UNKNOWN if value is None else f"{value:+.4f}" if signed else f"{value:.4f}"


def forecast(row: Row) -> str:
    """The score to expect on the test set, with its interval."""
    if row.expected_score is None:
        return UNKNOWN
    low, high = row.expected_interval or (math.nan, math.nan)
    return f"{row.expected_score:.2f} ({low:.2f} to {high:.2f})"


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row.kind,
    "recipe": lambda row: row.recipe,
    "state": lambda row: row.state or UNKNOWN,
    "when": lambda row: (row.when or UNKNOWN)[:16],
    "commit": lambda row: row.commit or UNKNOWN,
    ">training": lambda row: duration(row.seconds),
    ">out of fold": lambda row: score(row.oof_score),
    ">forecast": forecast,
    ">test": lambda row: score(row.test_score),
    ">size": lambda row: f"{row.bytes / 1e6:,.1f} MB",
}


def table(heads: list[str], lines: list[list[str]]) -> list[str]:
    """Lines of a table for the terminal; a column whose head begins with ">" is flush right."""
    cells = [[head.removeprefix(">") for head in heads], *lines]
    cells = [[command.one_line(cell) for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if head.startswith(">") else cell.ljust(width)
            for head, cell, width in zip(heads, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]


def main(options: argparse.Namespace) -> None:
    found = rows(options.data_dir, options.submissions_dir, options.models_dir)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    if not found:
        folders = f"{options.data_dir / 'runs'} and {options.models_dir}"
        console.summary(f"nothing in {folders} yet: make all trains the demo")
        return
    head, *lines = table([*COLUMNS], [[of(row) for of in COLUMNS.values()] for row in found])
    console.say(head)
    for row, line in zip(found, lines, strict=True):
        console.say(line)
        for problem in row.problems:
            console.say(f"      {problem}")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "submissions", "models"):
        arguments.add_argument(
            f"--{name}-dir", type=Path, default=Path(name), help=f"default: {name}"
        )
    arguments.add_argument("--json", action="store_true", help="the same as JSON")
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
