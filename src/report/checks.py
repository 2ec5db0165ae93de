"""Checks of the files that were written, as an organiser would read them: from the disk."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src.terminal.errors import UserError


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and whether that is as it must be."""

    what: str
    found: str
    passed: bool


def submission(path: Path, wanted: pd.DataFrame, called: Path) -> list[Check]:
    """Checks of a run-length CSV, read back once, against the rows that it should have.

    Args:
        wanted: `name`, perhaps `class`, and `rle` in the order of the test set.
        called: the name that the file is to get.

    Raises:
        UserError: a row is missing, spare, repeated, out of order or of another code.
    """
    read = pd.read_csv(path, dtype=str, keep_default_na=False)
    keys = [column for column in wanted.columns if column != "rle"]
    found, expected = (list(map(tuple, table[keys].to_numpy())) for table in (read, wanted))
    odd = [row for row, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]]
    told = f"; row {odd[0]} is not the expected one" if odd else ""
    runs = int(read["rle"].str.split().str.len().sum()) // 2
    same = read["rle"].tolist() == wanted["rle"].astype(str).tolist()
    repeated = len(found) - len(set(found))
    passed = [
        Check(
            "A row for each", f"{len(found)} rows for {len(expected)}", len(found) == len(expected)
        ),
        Check("In the test set's order", f"compared by name{told}", found == expected),
        Check("No name twice", f"{repeated} repeated", not repeated),
        Check("Run lengths are those of the masks predicted", f"{runs} runs", same),
    ]
    for check in passed:
        if not check.passed:
            raise UserError(
                f"{called}: {check.what.lower()}: {check.found}; it does not read back as "
                "predicted, and nothing was written"
            )
    empty = int((wanted["rle"] == "").sum())
    some = Check("Not every mask is empty", f"{empty} of {len(wanted)} are", empty < len(wanted))
    return [*passed, some]
