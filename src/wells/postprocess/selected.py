"""What is selected for wells, and how it is written to JSON and read back."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from src.recipe import HMM
from src.wells.postprocess.refinement import Refinement

# kinds of wells, by whether they are interleaved
SCANS = {False: "contiguous", True: "interleaved"}


@dataclass(frozen=True)
class Selection:
    """The refinement for each kind of scan, and for each kind and fold the one that was selected on
    the other folds.

    `table` holds every candidate's mean score, `unrefined` what plain thresholds earn, nested, and
    `at_thresholds` (F + 1, T) the mean score of each fold and, last, of all patches at each of
    `THRESHOLDS` without refinement.
    """

    final: dict[bool, Refinement]
    without: dict[tuple[bool, int], Refinement]
    plain: dict[int, float]
    threshold: float
    table: dict[str, float]
    score: float
    unrefined: float
    at_thresholds: np.ndarray

    @property
    def refined(self) -> bool:
        return not all(refinement.plain for refinement in self.final.values())

    def __str__(self) -> str:
        plain, interleaved = self.final[False], self.final[True]
        other = f"; interleaved wells by {interleaved}" if interleaved != plain else ""
        return f"{plain}{other}"


def as_json(selection: Selection) -> dict[str, Any]:
    content = asdict(selection)
    content["final"] = {SCANS[scan]: _as_json(own) for scan, own in selection.final.items()}
    content["without"] = {
        f"{SCANS[scan]} {fold}": _as_json(own) for (scan, fold), own in selection.without.items()
    }
    del content["at_thresholds"]
    return content


def of_json(content: dict[str, Any], at_thresholds: np.ndarray) -> Selection:
    scan_of, final = {name: scan for scan, name in SCANS.items()}, final_of(content["final"])
    without = {}
    for name, own in content["without"].items():
        scan, _, fold = name.partition(" ")
        without[scan_of[scan], int(fold)] = _of_json(own)
    plain = {int(fold): threshold for fold, threshold in content["plain"].items()}
    own = {"final": final, "without": without, "plain": plain}
    return Selection(**{**content, **own, "at_thresholds": at_thresholds})


def final_of(content: dict[str, Any]) -> dict[bool, Refinement]:
    """The refinement for each kind of scan, from `Run.decisions`."""
    return {scan: TypeAdapter(Refinement).validate_python(content[n]) for scan, n in SCANS.items()}


def _as_json(refinement: Refinement) -> dict[str, Any]:
    smoothing = refinement.hmm.model_dump() if refinement.hmm else None
    return {**asdict(refinement), "hmm": smoothing}


def _of_json(content: dict[str, Any]) -> Refinement:
    return Refinement(**{**content, "hmm": HMM(**content["hmm"]) if content["hmm"] else None})
