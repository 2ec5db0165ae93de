"""Checks of the files that were written, as an organiser would read them: from the disk, by
name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.competitions import Competition
from src.competitions.formats import rle
from src.competitions.formats.masks import ROWS, PackedMasks


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and whether that is as it must be."""

    what: str
    found: str
    passed: bool


def wells(
    path: Path,
    official: Path,
    names: np.ndarray,
    measured: np.ndarray,
    masks: PackedMasks,
    competition: Competition,
) -> list[Check]:
    """Checks of the submission of wells.

    Args:
        path, official: the run-length file, and the one in the organisers' layout.
        names: (N,) the test patches in order.
        measured: (N,) bool, whether any pixel of a patch was.
        masks: (N, H, W) what was predicted.
    """
    read, runs, same, trouble = [], 0, True, ""
    with pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=ROWS) as tables:
        for table in tables:
            decoded, odd = _decode(table["rle"], masks.shape[1:], competition)
            same = (
                same
                and decoded is not None
                and np.array_equal(decoded, masks[len(read) : len(read) + len(table)])
            )
            runs, trouble = runs + _runs(table["rle"]), trouble or odd
            read += table["name"].tolist()
    result = _names(read, names.tolist())
    result.append(
        Check(
            "Run lengths decode to the masks predicted",
            trouble or f"{runs} runs",
            same and len(read) == len(masks),
        )
    )
    official_names, official_masks = competition.read_masks(official)
    alike = list(official_names) == list(names) and np.array_equal(official_masks.bits, masks.bits)
    result.append(
        Check(
            "The organisers' layout holds the same names and masks",
            f"{len(official_names)} rows",
            alike,
        )
    )
    marked = masks.bits.any(1)
    result.append(_empty(int((~marked).sum()), len(masks), "patches"))
    said = f"{(~measured).sum()} such patches, {(marked & ~measured).sum()} with a mask"
    return [
        *result,
        Check(
            "Patches without a single measured pixel have empty masks",
            said,
            not (marked & ~measured).any(),
        ),
    ]


def photographs(
    path: Path, names: Sequence[str], classes: Sequence[str], sizes: np.ndarray
) -> list[Check]:
    """Checks of the submission of photographs: `name,class,rle`, a row for each photograph and
    class.

    Args:
        sizes: (N, 2) rows and columns of the photographs.
    """
    table = _read(path)
    wanted = [(name, label) for name in names for label in classes]
    result = _names(list(zip(table["name"], table["class"], strict=True)), wanted)
    size_of = dict(zip(names, sizes.tolist(), strict=True))
    bad = [
        row.name
        for row in table.itertuples()
        if row.rle and not _decodes(row.rle, size_of.get(row.name))
    ]
    said = f"{_runs(table['rle'])} runs" + (f"; not those of {bad[0]}" if bad else "")
    result.append(Check("Run lengths decode within each photograph", said, not bad))
    return [*result, _empty(int((table["rle"] == "").sum()), len(table), "masks")]


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _names(read: list, wanted: list) -> list[Check]:
    odd = [row for row, pair in enumerate(zip(read, wanted, strict=False)) if pair[0] != pair[1]]
    said = f"; row {odd[0]} is not the expected one" if odd else ""
    return [
        Check("A row for each", f"{len(read)} rows for {len(wanted)}", len(read) == len(wanted)),
        Check("In the test set's order", f"compared by name{said}", read == wanted),
        Check(
            "No name twice", f"{len(read) - len(set(read))} repeated", len(set(read)) == len(read)
        ),
    ]


def _decode(
    codes: pd.Series, shape: tuple[int, ...], competition: Competition
) -> tuple[np.ndarray | None, str]:
    try:
        return rle.decode(codes, *shape, competition.rle_order), ""
    except ValueError as error:
        return None, str(error)


def _decodes(code: str, size: list[int] | None) -> bool:
    try:
        return size is not None and bool(rle.decode([code], *size, "column").any())
    except ValueError:
        return False


def _runs(codes: pd.Series) -> int:
    return int(codes.str.split().str.len().sum()) // 2


def _empty(empty: int, number: int, what: str) -> Check:
    return Check("Not every mask is empty", f"{empty} of {number} {what} are empty", empty < number)
