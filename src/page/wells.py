"""What stands on the page of a submission of wells."""

from typing import Any

import numpy as np

from src import artifacts, ensemble
from src.artifacts import Arrays, CreatedFrom, Paths
from src.competitions import Competition
from src.page import checks, curves, pictures, provenance
from src.page.rendering import render
from src.recipe import Recipe, to_toml

SHOWN, SHOWN_OF_A_WELL = 12, 3  # best and worst patches
LEVELS = ensemble.THRESHOLDS[::3]


def page(
    recipe: Recipe, competition: Competition, paths: Paths, result: dict[str, Any], made: CreatedFrom, train: Arrays, test: Arrays
) -> str:
    """The page as HTML.

    Args:
        result: what submissions/<recipe>.json says.
        made: what the submission is made from.
        train, test: the prepared arrays of the scored training patches and of the test patches, with `probability` and `prediction`
            (N, H, W), and with `score` (N,) and `mask` where the truth is known.
    """
    label = {"train": pictures.labels(train), "test": pictures.labels(test)}
    told, thresholds = curves.histories(recipe, paths), artifacts.read_notes(paths.ensemble(recipe))
    scores = curves.thresholds(train["probability"], train["mask"], train["fold"], competition.score, LEVELS)
    csv, official = paths.submission(recipe), paths.submission(recipe, "_official.csv")
    return render(
        "wells.html",
        "wells.js",
        result=result,
        ruler=ruler(result),
        folds=_folds(result, train, thresholds),
        wells=_wells("train", train, label["train"], result["oof_by_group"]),
        test_wells=_wells("test", test, label["test"], result.get("test_by_group", {})),
        lost=lost(train["score"], train["mask"]),
        colours={"kinds": pictures.COLOURS, "probability": pictures.INFERNO},
        patches=_patches(train, label["train"]),
        threshold_chart=curves.threshold_chart(LEVELS, scores, result["threshold"]),
        spread_chart=curves.spread_chart(train["score"][train["mask"].any((1, 2))]),
        refinements=_refinements(result),
        learning=curves.learning(recipe, told),
        members=provenance.members(recipe, told, {member.name: member.network for member in recipe.members}),
        seeds=recipe.seeds,
        checks=checks.wells(csv, official, test["name"], test["valid"], test["prediction"], competition),
        files=provenance.files([csv, official]),
        made=made,
        versions=provenance.versions(),
        toml=to_toml(recipe),
    )


def ruler(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the chart at the top: every score that the submission has, or may expect, between 0 and 1."""
    lines = [{"what": "Out of fold", "value": result["oof_score"], "kind": "score"}]
    if "expected_score" in result:
        interval = result["expected_interval"]
        lines.append({"what": "Forecast for the test wells", "value": result["expected_score"], "kind": "score", "range": interval})
    if "test_score" in result:
        lines.append({"what": "Test wells, truth known", "value": result["test_score"], "kind": "score"})
    for where, title in (("train", "training wells"), ("test", "test wells")):
        base = result.get(f"baselines_on_{where}", {})
        names = {"all_empty": "Nothing marked", "intensity": "Threshold on thickness"}
        lines += [{"what": f"{names[key]}, {title}", "value": value, "kind": key} for key, value in base.items()]
    return lines


def _folds(result: dict[str, Any], train: Arrays, thresholds: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "fold": fold,
            "wells": ", ".join(map(str, np.unique(train["group"][train["fold"] == int(fold)]))),
            "threshold": thresholds["threshold_without_fold"][fold],
            **row,
        }
        for fold, row in result["oof_by_fold"].items()
    ]


def _wells(split: str, arrays: Arrays, label: np.ndarray, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each well, with its picture at a glance and what the viewer needs of it."""
    lines = []
    for well in np.unique(arrays["group"]).tolist():
        own = arrays["group"] == well
        lines.append(
            {
                "id": f"{split}-{well}",
                "well": well,
                "title": f"{'Test well' if split == 'test' else 'Well'} {well}",
                "patches": int(own.sum()),
                "interleaved": bool((arrays["phase"][own] > 0).any()),
                "repaired": float(1 - arrays["valid"][own].mean()),
                "marked": float(arrays["prediction"][own].mean()),
                "true": float(arrays["mask"][own].mean()) if "mask" in arrays else None,
                "fold": int(arrays["fold"][own][0]) if "fold" in arrays else None,
                "scores": scores.get(str(well)),
                "overview": pictures.overview(arrays, well, label),
                "data": pictures.well(arrays, well, label),
            }
        )
    return lines


def lost(score: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Where the out-of-fold score is lost: patches by what they show and how they came out, with the points that each kind costs.

    Args:
        score: (N,) of each patch, 1 where an empty mask is right and 0 where it is not, or where nothing of a defect is met.
        truth: (N, H, W).
    """
    shows = truth.any((1, 2))
    kinds = [
        ("sound, and left unmarked", ~shows & (score == 1)),
        ("sound, but marked", ~shows & (score < 1)),
        ("corroded, and nothing of it met", shows & (score == 0)),
        ("corroded, and met in part or wholly", shows & (score > 0)),
    ]
    lines = []
    for kind, own in kinds:
        mean = float(score[own].mean()) if own.any() else None
        lines.append({"kind": kind, "patches": int(own.sum()), "mean": mean, "lost": float((1 - score[own]).sum() / len(score))})
    return lines


def _patches(train: Arrays, label: np.ndarray) -> list[dict[str, Any]]:
    """The corroded patches with the highest scores and all patches with the lowest, few of each well."""
    corroded = np.flatnonzero(train["mask"].any((1, 2)))
    right = (label & pictures.MASK > 0) & (label & pictures.TRUTH > 0)
    wrong = (label & pictures.MASK > 0) ^ (label & pictures.TRUTH > 0)
    by_wrong = np.lexsort((-wrong.sum((1, 2)), train["score"]))
    by_right = corroded[np.lexsort((-right.sum((1, 2))[corroded], -train["score"][corroded]))]
    return [
        {"title": title, "patches": [_patch(train, row, label) for row in few_of_each(order, train["group"])]}
        for title, order in (("Worst", by_wrong), ("Best", by_right))
    ]


def few_of_each(order: np.ndarray, group: np.ndarray) -> list[int]:
    """The first `SHOWN` rows of an order, at most `SHOWN_OF_A_WELL` of each group."""
    taken, result = dict.fromkeys(group.tolist(), 0), []
    for row in order.tolist():
        if len(result) < SHOWN and taken[group[row]] < SHOWN_OF_A_WELL:
            taken[group[row]] += 1
            result.append(row)
    return result


def _patch(train: Arrays, row: int, label: np.ndarray) -> dict[str, Any]:
    well, height = int(train["group"][row]), train["image"].shape[1]
    index = pictures.Unrolled.of(train, well).index
    return {
        "name": str(train["name"][row]),
        "score": float(train["score"][row]),
        "true": int(train["mask"][row].astype(bool).sum()),
        "marked": int((label[row] & pictures.MASK > 0).sum()),
        "picture": pictures.patch(train, row, label),
        "link": f"#well=train-{well}&row={int(np.argwhere(index == row)[0][0]) * height + height // 2}&zoom=6",
    }


def _refinements(result: dict[str, Any]) -> dict[str, Any]:
    """The candidates for the refinement by falling score, and the range that their chart spans."""
    tried = sorted(result["refinements_tried"].items(), key=lambda pair: -pair[1])
    values = [score for _, score in tried]
    pad = max(max(values) - min(values), 1e-3) / 10
    return {"tried": [{"name": name, "score": score} for name, score in tried], "low": min(values) - pad, "high": max(values) + pad}
