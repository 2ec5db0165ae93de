"""Stage 04: refine the averages into masks, encode and check them, score and report them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import hdf5, lineage, sealed
from src.artifacts.files import replacing
from src.artifacts.run import Run
from src.artifacts.sealed import Inputs
from src.competitions.formats import rle
from src.report import checks, tracking
from src.report.checks import Check
from src.scoring import averaging
from src.scoring.averaging import Average
from src.scoring.processes import in_order
from src.terminal import console
from src.terminal.errors import UserError


def submit(run: Run, force: bool = False, track: Sequence[str] = ()) -> dict[str, Any]:
    """Write the submission with its scores and report, unless it is there; returns the scores,
    which the trackers in `track` are given too.
    """
    tracking.check(track)
    lineage.check_prepared(run)
    with run.locked():
        lineage.check_prepared(run)
        inputs = lineage.submission(run)
        if force or not is_done(run, inputs):
            write(run, inputs)
        else:
            console.say(f"{run.submission()} is up to date")
        result = sealed.read_json(run.submission(".json"))
    console.tell(run.modality.describe(result))
    console.say(f"scores: {run.submission('.json')}; report: {run.submission('.html')}")
    console.say(f"run-length form: {run.submission()}; log: {run.log}")
    console.summary(f"submission {run.submission('_official.csv')}: {summary(result)}")
    for name in track:
        tracking.scores(name, run, result)
    if "judgement" in result:
        console.warning(f"judgement: {result['judgement']}")
    return result


def write(run: Run, inputs: Inputs) -> None:
    """The whole of the stage."""
    write_masks(run)
    passed = write_codes(run)
    result, pages = run.modality.report(run, passed)
    for ending, content in pages.items():
        with replacing(run.submission(ending)) as partial:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
    files = [run.submission(ending) for ending in (".csv", "_official.csv", *pages)]
    # the last of them: it says that all are there
    sealed.write_json(run.submission(".json"), {**result, "files": sealed.listed(files)}, inputs)


def summary(result: dict[str, Any]) -> str:
    """The scores in one line."""
    scores = [f"out-of-fold score {result['oof_score']:.4f}"]
    if "expected_score" in result:
        low, high = result["expected_interval"]
        told = f"{result['expected_score']:.2f} ({low:.2f} to {high:.2f})"
        scores.append(f"to expect on the test set {told}")
    if "test_score" in result:
        scores.append(f"test score {result['test_score']:.4f}")
    return ", ".join(scores)


def is_done(run: Run, inputs: Inputs) -> bool:
    """Whether the scores, the submission's files and the masks are there and up to date."""
    scores = run.submission(".json")
    if not sealed.up_to_date(scores, inputs):
        return False
    odd = sealed.changed(scores.parent, sealed.read_json(scores)["files"])
    if odd and odd.is_file():
        console.say(f"{odd} is damaged or was changed (its checksum does not fit): made again")
    return not odd and all(hdf5.holds(run.ensemble, f"{part}/mask") for part in run.parts)


def write_masks(run: Run) -> None:
    """Add masks to the ensemble's file: `oof/mask` and `test/mask` (N, K, H, W) uint8.

    Out of fold they are those that the reported score is computed on, each fold at what was
    selected on the others.
    """
    with hdf5.reading(run.ensemble) as file:
        kept = [f"{group}/{name}" for group in file for name in file[group] if name != "mask"]
    with hdf5.writing(run.ensemble, sealed.inputs_of(run.ensemble)) as file:
        file.copy(run.ensemble, *kept)
        for part in run.parts:
            shape, sized = file.shape(f"{part}/probability"), f"{part}/size" in file.file
            file.create(f"{part}/mask", shape, np.uint8, compressed=sized)
            done = 0
            for masks in run.modality.masks(run, part):
                file.write(f"{part}/mask", done, masks)
                done += len(masks)


def codes(run: Run) -> Iterator[tuple[str, list[str]]]:
    """The name of every test image and the run-length codes of its K masks."""
    names = hdf5.read(run.prepared("test"), "name")["name"]
    average = averaging.of_ensemble(run, "test")
    each = in_order if average.sized else map
    of_one = partial(_codes_of, run.submission(), average, run.competition.order)
    coded = dict(zip(average.names, each(of_one, range(len(average))), strict=True))
    for name in names:
        if name not in coded and not run.tasks("classify"):
            raise UserError(f"{run.ensemble}: lacks {name}: run 03_ensemble.py with --force")
        yield name, coded.get(name, [""] * average.shape[0])  # the image classifier rejects it


def _codes_of(submission: Path, average: Average, order: rle.Order, place: int) -> list[str]:
    """The codes of one image's masks, which are read back."""
    mask = average.mask(place)
    coded = rle.encode(mask, order)
    if (rle.decode(coded, *mask.shape[1:], order) != mask).any():
        raise UserError(f"{submission}: the run lengths of {average.names[place]} are not its mask")
    return coded


def write_codes(run: Run) -> list[Check]:
    """Write the run-length CSV and the organisers' own file, and read both back.

    Returns:
        What was checked.

    Raises:
        UserError: what was written does not read back as predicted; then nothing is.
    """
    coded, labels = list(codes(run)), run.modality.labels(run)
    names = [name for name, _ in coded]
    rows = [
        {"name": name, "class": label, "rle": code}
        for name, own in coded
        for label, code in zip(labels or ["corrosion"], own, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["name", "class", "rle"])
    table = table if labels else table.drop(columns="class")
    official = run.submission("_official.csv")
    with replacing(run.submission()) as partial, replacing(official) as organisers:
        table.to_csv(partial, index=False, lineterminator="\n")
        passed = checks.submission(partial, table, run.submission())
        run.competition.write_submission(organisers, run.raw, names, [own for _, own in coded])
        passed.append(
            Check("The organisers' layout reads back alike", f"{len(names)} images", True)
        )
    return passed
