"""What stage 04 knows about the masks of photographs: their scores, and how these are told."""

from typing import Any

import numpy as np

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions.metrics import Metric, dice, iou
from src.photographs import page, selection
from src.photographs.dataset import PhotoDataset
from src.report.checks import Check
from src.scoring import baselines, forecast
from src.scoring.calibration import Tallies, errors

GROUPS = 40  # that the calibration tells apart; of more, folds
# "at one half" are the thresholds of pixels; the classifier's is selected all the same. With all at
# one half, as in the two-stage report: the study severstal_encoders.
HOW = {
    "half_unrejected": "segmentation alone, at one half",
    "half": "with the classifier, at one half",
    "unrejected": "segmentation alone",
    "selected": "with the classifier",
}


def report(run: Run, checks: list[Check]) -> tuple[dict[str, Any], dict[str, str | bytes]]:
    """What submissions/<recipe>.json says, and the page by the ending of its file."""
    train, selected = PhotoDataset.open(run, "train"), selection.arrays_of(run)
    result, parts = scores(run, train, selected), tallies(train, selected)
    result["calibration"] = errors(parts)
    return result, {".html": page.page(run, result, train, selected, checks, parts)}


def tallies(train: PhotoDataset, selected: Arrays) -> dict[str, Tallies]:
    """By class, and by group, or by fold where there are many groups, the pixels out of fold as
    `src.scoring.calibration.tally` counts them.
    """
    few = len(np.unique(train.group)) <= GROUPS
    title, key = ("Group", train.group) if few else ("Fold", train.fold)
    row_of = {name: row for row, name in enumerate(train.name)}
    own = key[[row_of[name] for name in selected["name"]]]
    return {
        "Class": dict(zip(train.classes, selected["tally"].sum(0), strict=True)),
        title: {str(n): selected["tally"][own == n].sum((0, 1)) for n in np.unique(own)},
    }


def scores(run: Run, train: PhotoDataset, selected: Arrays) -> dict[str, Any]:
    """Out-of-fold scores, with and without the image classifier and the photographs without
    defects.
    """
    metric, (final, _) = run.competition.metric, selection.read(run)
    row_of = {name: row for row, name in enumerate(train.name)}
    rows = np.array([row_of[name] for name in selected["name"]])
    classified = bool(run.tasks("classify"))
    score, empty = metric.of(*selected["selected"]).mean(1), selection.all_empty(metric, selected)
    by_fold = {"score": score, "all_empty": empty.mean(1)}
    result = {
        "recipe": run.recipe.name,
        "metric": metric.name,
        "oof_score": float(score.mean()),
        "oof_score_without_classifier": float(metric.of(*selected["unrejected"]).mean()),
        "oof_by_group": _by(train.group[rows], {"score": score}),
        "oof_by_fold": _by(train.fold[rows], by_fold),
        "all_empty": float(empty.mean()),
        "table": table_of(metric, selected, train.classes, classified),
        "threshold": final.threshold,
        "min_size": final.min_size,
        "expected_dice": final.expected_dice or [False] * len(final.threshold),
        "refined": bool(any(final.min_size)),
    }
    result |= baselines.judgement(result["oof_score"], {"all_empty": result["all_empty"]})
    test = len(hdf5.read(run.prepared("test"), "name")["name"])
    if run.recipe.folds.scheme != "random":
        own = forecast.expect(score, train.group[rows], np.ones(test, int))
        result |= {"expected_score": own.score, "expected_interval": [own.low, own.high]}
    if any(member.selection == "best_on_held_out" for member in run.recipe.members):
        told = "epochs were picked on the held-out folds: the out-of-fold scores are optimistic"
        result["warning"] = told
    if classified:
        segmented = hdf5.shape(run.ensemble, "test/name")[0]
        saved = {"test_passes_saved": test - segmented, "test": test}
        result["classifier"] = {
            "threshold": final.classifier,
            "confusion": confusion(selected),
            **saved,
        }
    return result


def table_of(
    metric: Metric, selected: Arrays, classes: list[str], classified: bool
) -> list[dict[str, Any]]:
    """The mean score, Dice and IoU of all classes and the score of each, by how masks are made,
    over all photographs and over those with defects.
    """
    lines = []
    for way, how in HOW.items():
        if not classified and not way.endswith("unrejected"):
            continue
        pixels = selected[way]
        score, both = metric.of(*pixels), {"dice": dice(*pixels), "iou": iou(*pixels)}
        whole = np.ones(len(score), bool)
        for which, own in (("all", whole), ("with defects", selected["shows"].any(1))):
            line = {"how": how, "photographs": which, "score": float(score[own].mean())}
            line |= {name: float(values[own].mean()) for name, values in both.items()}
            line |= {f"score {c}": float(score[own, k].mean()) for k, c in enumerate(classes)}
            lines.append(line)
    return lines


def confusion(selected: Arrays) -> dict[str, int]:
    """How many photographs an image classifier took for what, from which of them it `rejected`
    (N,) and what they truly show (N, K).
    """
    real, accepted = selected["shows"].any(1), ~selected["rejected"]
    counts = {
        "defects found": real & accepted,
        "defects missed": real & ~accepted,
        "false alarms": ~real & accepted,
        "clean and rejected": ~real & ~accepted,
    }
    return {name: int(own.sum()) for name, own in counts.items()}


def describe(result: dict[str, Any]) -> str:
    """The scores for the terminal."""
    how = "thresholds, sizes and the classifier's threshold selected on the other folds"
    lines = [f"{result['metric']}, out of fold ({how})"]
    lines += [
        f"  fold {name:>3}  {row['photographs']:6} photographs  {row['score']:.4f}"
        for name, row in result["oof_by_fold"].items()
    ]
    lines += [
        f"  {row['how']:32}  {row['photographs']:12}  score {row['score']:.4f}  "
        f"Dice {row['dice']:.4f}  IoU {row['iou']:.4f}"
        for row in result["table"]
    ]
    if "classifier" in result:
        own = result["classifier"]
        counts = ", ".join(f"{name} {number}" for name, number in own["confusion"].items())
        lines.append(f"image classifier: {counts}")
        saved = f"{own['test_passes_saved']} of {own['test']}"
        lines.append(f"image classifier: {saved} segmentation passes saved on the test set")
    lines.append(
        f"out-of-fold score {result['oof_score']:.4f}; all masks empty {result['all_empty']:.4f}"
    )
    if "expected_score" in result:
        low, high = result["expected_interval"]
        lines.append(
            f"score to expect on the test set {result['expected_score']:.4f}, "
            f"90 % interval {low:.3f} to {high:.3f}"
        )
    return "\n".join(lines)


def _by(key: np.ndarray, scores: Arrays) -> dict[str, dict[str, float]]:
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
