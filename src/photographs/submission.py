"""Stage 04 for photographs: masks, their codes, the submission files, and what is told about
them.
"""

from typing import Any

import numpy as np
import pandas as pd

from src import artifacts
from src.artifacts import CreatedFrom, Paths
from src.competitions import PhotoCompetition
from src.competitions.formats import rle
from src.photographs import ensembling, page
from src.photographs.averaging import Average, tasks_of
from src.photographs.dataset import Gallery
from src.photographs.selection import mask_of
from src.recipe import Recipe
from src.scoring import forecast
from src.terminal.errors import UserError
from src.wells import submission

FILES = (".csv", "_official.csv", ".html")


def created_from(recipe: Recipe, paths: Paths, prepared: str) -> CreatedFrom:
    """What the submission is made from.

    Raises:
        UserError: there is no ensemble, or it is of other predictions than today's.
    """
    if not artifacts.made_from(
        paths.ensemble(recipe), ensembling.created_from(recipe, paths, prepared)
    ):
        raise UserError(
            f"{paths.ensemble(recipe)} is missing or of other predictions: run "
            "03_ensemble.py with the same arguments first"
        )
    return {"prepared": prepared, "ensemble": artifacts.content_digest(paths.ensemble(recipe))}


def postprocess(
    recipe: Recipe, competition: PhotoCompetition, paths: Paths, inputs: CreatedFrom
) -> None:
    """The whole of stage 04."""
    names, coded = codes(recipe, paths)
    write(recipe, competition, paths, names, coded)
    finish(recipe, paths, scores(recipe, competition, paths), inputs)


def codes(recipe: Recipe, paths: Paths) -> tuple[list[str], list[list[str]]]:
    """Names of all test photographs and, for each, its K run-length codes, column-major; one
    mask in memory at a time.
    """
    test, notes = Gallery.open(paths, recipe, "test"), artifacts.read_notes(paths.ensemble(recipe))
    average = _ensemble(recipe, paths, "test")
    lacking = set(test.name) - average.names
    if lacking and not tasks_of(recipe, "gate"):
        raise UserError(
            f"{paths.ensemble(recipe)}: lacks {min(lacking)}: run 03_ensemble.py with --force"
        )
    result = []
    for name in test.name:
        found = name not in lacking  # by the gate
        masks = mask_of(average.of(name), notes["threshold"], notes["min_size"]) if found else None
        result.append(rle.encode(masks, "column") if found else [""] * len(test.classes))
    return test.name.tolist(), result


def _ensemble(recipe: Recipe, paths: Paths, split: str) -> Average:
    return Average([[paths.ensemble(recipe)]], f"{split}/")


def write(
    recipe: Recipe,
    competition: PhotoCompetition,
    paths: Paths,
    names: list[str],
    coded: list[list[str]],
) -> None:
    """Write `name,class,rle` to submissions/<recipe>.csv and the organisers' own file beside it.

    Raises:
        UserError: what was written does not read back as these names and codes.
    """
    classes = Gallery.open(paths, recipe, "test").classes
    rows = [
        (name, label, code)
        for name, own in zip(names, coded, strict=True)
        for label, code in zip(classes, own, strict=True)
    ]
    lines = pd.DataFrame(rows, columns=["name", "class", "rle"])
    raw = paths.raw(recipe.data.folder or competition.name)
    with (
        artifacts.replacing(paths.submission(recipe)) as partial,
        artifacts.replacing(paths.submission(recipe, "_official.csv")) as official,
    ):
        lines.to_csv(partial, index=False, lineterminator="\n")
        if not pd.read_csv(partial, dtype=str, keep_default_na=False).equals(lines.astype(str)):
            raise UserError(
                f"{paths.submission(recipe)}: does not read back as predicted; nothing was written"
            )
        competition.write_submission(official, raw, names, coded)


def scores(recipe: Recipe, competition: PhotoCompetition, paths: Paths) -> dict[str, Any]:
    """What submissions/<recipe>.json says: out-of-fold Dice and IoU with and without the gate
    and the photographs without defects.
    """
    train, test = Gallery.open(paths, recipe, "train"), Gallery.open(paths, recipe, "test")
    chosen = artifacts.read_arrays(
        paths.choice(recipe), ["name", "dice", "ungated", "half", "half_ungated", "closed", "shows"]
    )
    row_of = {name: row for row, name in enumerate(train.name)}
    rows = np.array([row_of[name] for name in chosen["name"]])
    notes, score = artifacts.read_notes(paths.choice(recipe)), chosen["dice"].mean(1)
    result = {
        "recipe": recipe.name,
        "metric": competition.metric,
        "oof_score": float(score.mean()),
        "oof_score_without_gate": float(chosen["ungated"].mean()),
        "oof_by_group": _by(train.group[rows], {"score": score}),
        "oof_by_fold": _by(
            train.fold[rows], {"score": score, "all_empty": (~chosen["shows"]).mean(1)}
        ),
        "all_empty": float((~chosen["shows"]).mean()),
        "table": table_of(chosen, train.classes, bool(tasks_of(recipe, "gate"))),
        "threshold": notes["threshold"],
        "min_size": notes["min_size"],
        "refined": bool(any(notes["min_size"])),
    }
    if recipe.folds.scheme != "random":
        told = forecast.expect(score, train.group[rows], np.ones(len(test.name), int))
        result |= {"expected_score": told.score, "expected_interval": [told.low, told.high]}
    if tasks_of(recipe, "gate"):
        skipped = len(test.name) - len(_ensemble(recipe, paths, "test").names)
        result["gate"] = {
            "threshold": notes["gate"],
            "confusion": confusion(chosen),
            "test_passes_saved": skipped,
            "test": len(test.name),
        }
    return result


def table_of(chosen: artifacts.Arrays, classes: list[str], gated: bool) -> list[dict[str, Any]]:
    """Mean Dice and IoU of all classes and of each, with and without the gate, over all photographs
    and over those with defects.

    "At one half" is the two-stage report's Table 4: no threshold chosen but the gate's, nothing
    removed.
    """
    ways = [("segmentation alone, at one half", "half_ungated"), ("segmentation alone", "ungated")]
    if gated:
        ways = [ways[0], ("with the gate, at one half", "half"), ways[1], ("with the gate", "dice")]
    lines = []
    for how, key in ways:
        dice = chosen[key]
        iou = dice / (2 - dice)  # of one mask and its truth; it holds for two empty ones too
        for which, own in (
            ("all", np.ones(len(dice), bool)),
            ("with defects", chosen["shows"].any(1)),
        ):
            line = {
                "how": how,
                "photographs": which,
                "dice": float(dice[own].mean()),
                "iou": float(iou[own].mean()),
            }
            lines.append(
                line
                | {f"dice {name}": float(dice[own, k].mean()) for k, name in enumerate(classes)}
            )
    return lines


def confusion(chosen: artifacts.Arrays) -> dict[str, int]:
    """The gate's verdicts out of fold, each fold at the threshold that is best on the others."""
    real, told = chosen["shows"].any(1), ~chosen["closed"]
    counts = {
        "defects found": real & told,
        "defects missed": real & ~told,
        "false alarms": ~real & told,
        "clean and told so": ~real & ~told,
    }
    return {name: int(own.sum()) for name, own in counts.items()}


def table(result: dict[str, Any]) -> str:
    """The scores for the terminal."""
    lines = [
        f"{result['metric']}, out of fold (thresholds, sizes and the gate chosen on the "
        "other folds)"
    ]
    lines += [
        f"  fold {name:>3}  {row['photographs']:6} photographs  {row['score']:.4f}"
        for name, row in result["oof_by_fold"].items()
    ]
    lines += [
        f"  {row['how']:32}  {row['photographs']:12}  Dice {row['dice']:.4f}  IoU {row['iou']:.4f}"
        for row in result["table"]
    ]
    if "gate" in result:
        gate = result["gate"]
        lines.append(
            "gate: " + ", ".join(f"{name} {count}" for name, count in gate["confusion"].items())
        )
        lines.append(
            f"gate: {gate['test_passes_saved']} of {gate['test']} segmentation passes "
            "saved on the test set"
        )
    lines.append(
        f"out-of-fold score {result['oof_score']:.4f}; all masks empty {result['all_empty']:.4f}"
    )
    if "expected_score" in result:
        low, high = result["expected_interval"]
        lines.append(
            f"score to expect on the test set {result['expected_score']:.4f}, 90 % "
            f"interval {low:.3f} to {high:.3f}"
        )
    return "\n".join(lines)


def finish(recipe: Recipe, paths: Paths, result: dict[str, Any], inputs: CreatedFrom) -> None:
    """Write the report and, last, the scores with the digests of the submission files."""
    artifacts.write_text(
        paths.submission(recipe, ".html"), page.page(recipe, paths, result, inputs)
    )
    submission.write_scores(recipe, paths, result, inputs, FILES)


def _by(key: np.ndarray, scores: artifacts.Arrays) -> dict[str, dict[str, float]]:
    """For each value of a key (N,) the number of its photographs and the means of their scores
    (N,).
    """
    names, place = np.unique(key, return_inverse=True)
    counts = np.bincount(place)
    means = {title: np.bincount(place, weights=own) / counts for title, own in scores.items()}
    return {
        str(name): {
            "photographs": int(counts[n]),
            **{title: float(own[n]) for title, own in means.items()},
        }
        for n, name in enumerate(names)
    }
