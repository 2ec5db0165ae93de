"""New wells that a trained model has predicted: how much of each is marked, how unlike those of
the training it is, and its masks as files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.report.pictures import Unrolled
from src.report.provenance import of_model as shared
from src.report.rendering import render
from src.scoring import averaging
from src.scoring.metrics import scorer
from src.scoring.unlike import unlike
from src.wells import blocks, page, submission
from src.wells.submission import masked


def features(run: Run, split: str) -> dict[str, dict[str, float]]:
    """Numbers that describe each well of a split, by its number: scaled as train.h5 is, where that
    matters.
    """
    found, whole = {}, _whole(run, split)
    for block in blocks.prepared(run, split, "image", "valid"):
        for well in np.unique(block["group"]).tolist():
            own, (_, rows) = block["group"] == well, whole.get(str(well), ("", None))
            image, valid = (block[name][own] for name in ("image", "valid"))
            if rows is not None:  # the last patch was filled up
                image, valid = (_map(block, well, name, rows) for name in ("image", "valid"))
            found[str(well)] = _describe(image, valid)
    return found


def _whole(run: Run, split: str) -> dict[str, list]:
    """By the number of a well that came whole, the name of its file and how many rows it has."""
    return hdf5.metadata(run.prepared("test"))["files"] if run.model and split == "test" else {}


def _map(block: Arrays, well: int, name: str, rows: int | None) -> np.ndarray:
    """The map (rows, 36 or 72) of one well, without what its last patch was filled up with."""
    return Unrolled.of(block, well).stack(block[name])[:rows]


def _describe(image: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Of the patches (n, H, W), or the map (rows, W), of one well."""
    values = image[valid] if valid.any() else np.zeros(1)
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    both = valid & np.roll(valid, -1, -1)
    step = np.abs(image - np.roll(image, -1, -1))[both]
    return {
        "median thickness": middle,
        "spread of thickness": high - low,
        "step between neighbours": float(step.mean()) if len(step) else 0.0,
        "share not measured": float(1 - valid.mean()),
    }


def report(run: Run) -> tuple[dict[str, Any], str]:
    """For each well its patches, the share that is marked, and what is unlike the training; and the
    page.
    """
    odd = unlike(features(run, "test"), run.model.content["familiar"])
    whole, lines = _whole(run, "test"), {}
    for block in masked(run, "test"):
        for well in np.unique(block["group"]).tolist():
            own, (name, rows) = block["group"] == well, whole.get(str(well), (f"well_{well}", None))
            mask = block["prediction"][own]
            mask = mask if rows is None else _map(block, well, "prediction", rows)
            lines[str(well)] = {
                "file": name,
                "patches": int(own.sum()),
                "interleaved": bool(block["parity"][own].any()),
                "corroded": float(mask.mean()),
                "unlike": odd[str(well)],
            }
    return lines, _page(run, lines)


def _page(run: Run, lines: dict[str, Any]) -> str:
    size = int(np.prod(hdf5.shape(run.prepared("test"), "image")[1:]))
    wells = submission.disputed(masked(run, "test"), averaging.test(run))
    wells = submission.evaluated(wells, 0.0, scorer(run.competition.metric))
    drawn = page.drawn_wells([int(well) for well in lines], {})
    return render(
        "new_wells.html",
        "wells.js",
        lines=lines,
        wells=[],
        test_wells=page.lines_of("new", wells, {}, drawn, size),
        most_drawn=page.DRAWN,
        colours=page.COLOURS,
        **shared(run),
    )


def describe(lines: dict[str, Any]) -> list[str]:
    """A line for each well."""
    return [
        f"  well {well:>5}  {own['patches']:6} patches  corroded {own['corroded']:7.2%}"
        + (f"  unlike the training wells: {own['unlike']}" if own["unlike"] else "")
        for well, own in lines.items()
    ]


def maps(run: Run) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The name, probability float16 and mask uint8 of each well, both (rows, 36), or (rows, 72)
    where it is interleaved; the name is that of its file, or well_<n>.
    """
    whole = _whole(run, "test")
    for block in masked(run, "test"):
        for well in np.unique(block["group"]).tolist():
            name, rows = whole.get(str(well), (f"well_{well}", None))
            found = (_map(block, well, what, rows) for what in ("probability", "prediction"))
            yield Path(name).stem, *found


def write_files(run: Run, folders: dict[str, Path]) -> None:
    """Write <name>.npy (`maps`) into the folders of "masks" and perhaps "probabilities"."""
    for name, probability, mask in maps(run):
        arrays = {"masks": mask, "probabilities": probability}
        for kind, folder in folders.items():
            np.save(folder / f"{name}.npy", arrays[kind])
