"""What stands on the page of a submission of wells."""

from typing import Any

import numpy as np

from src import artifacts
from src.artifacts import Arrays, CreatedFrom, Paths
from src.competitions import Competition
from src.competitions.formats.masks import PackedMasks
from src.recipe import Recipe, to_toml
from src.report import checks, curves, pictures, provenance
from src.report.rendering import render
from src.wells import selection
from src.wells.blocks import Blocks

SHOWN, SHOWN_OF_A_WELL = 12, 3  # best and worst patches
DRAWN = 40  # wells of a split; of more, the best and the worst, half of each
STEP = 3  # thresholds from one point of the curves to the next


def page(
    recipe: Recipe,
    competition: Competition,
    paths: Paths,
    result: dict[str, Any],
    made: CreatedFrom,
    train: Blocks,
    test: Blocks,
    masks: PackedMasks,
    at_thresholds: np.ndarray,
) -> str:
    """The page as HTML.

    Args:
        result: what submissions/<recipe>.json says.
        made: what the submission is made from.
        train, test: the scored training patches and the test patches, as
            `src.wells.postprocessing.examined` gives them.
        masks: the submission's.
        at_thresholds: (F + 1, T) mean scores of each fold, and of all patches, at each of
            `ensemble.THRESHOLDS`.
    """
    told, thresholds = curves.histories(recipe, paths), artifacts.read_notes(paths.ensemble(recipe))
    size, of_train, of_test = (
        masks.size[0] * masks.size[1],
        result["oof_by_group"],
        result.get("test_by_group", {}),
    )
    drawn = {
        split: drawn_wells(np.unique(own.index["group"]).tolist(), scores)
        for split, own, scores in (("train", train, of_train), ("test", test, of_test))
    }
    csv, official = paths.submission(recipe), paths.submission(recipe, "_official.csv")
    return render(
        "wells.html",
        "wells.js",
        result=result,
        ruler=ruler(result),
        folds=_folds(result, train.index, thresholds),
        wells=_wells("train", train, of_train, drawn["train"], size),
        test_wells=_wells("test", test, of_test, drawn["test"], size),
        most_drawn=DRAWN,
        lost=lost(train.index["score"], train.index["true"] > 0),
        colours={"kinds": pictures.COLOURS, "probability": pictures.INFERNO},
        patches=_patches(train, drawn["train"]),
        threshold_chart=curves.threshold_chart(
            selection.THRESHOLDS[::STEP], at_thresholds[:, ::STEP], result["threshold"]
        ),
        spread_chart=curves.spread_chart(train.index["score"][train.index["true"] > 0]),
        refinements=_refinements(result),
        learning=curves.learning(recipe, told),
        members=provenance.members(
            recipe, told, {member.name: member.network for member in recipe.members}
        ),
        seeds=recipe.seeds,
        checks=checks.wells(
            csv, official, test.index["name"], test.index["repaired"] < size, masks, competition
        ),
        files=provenance.files([csv, official]),
        made=made,
        versions=provenance.versions(),
        toml=to_toml(recipe),
    )


def ruler(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the chart at the top: every score that the submission has, or may expect,
    between 0 and 1.
    """
    lines = [{"what": "Out of fold", "value": result["oof_score"], "kind": "score"}]
    if "expected_score" in result:
        interval = result["expected_interval"]
        lines.append(
            {
                "what": "Forecast for the test wells",
                "value": result["expected_score"],
                "kind": "score",
                "range": interval,
            }
        )
    if "test_score" in result:
        lines.append(
            {"what": "Test wells, truth known", "value": result["test_score"], "kind": "score"}
        )
    for where, title in (("train", "training wells"), ("test", "test wells")):
        base = result.get(f"baselines_on_{where}", {})
        names = {"all_empty": "Nothing marked", "intensity": "Threshold on thickness"}
        lines += [
            {"what": f"{names[key]}, {title}", "value": value, "kind": key}
            for key, value in base.items()
        ]
    return lines


def _folds(
    result: dict[str, Any], train: Arrays, thresholds: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        {
            "fold": fold,
            "wells": ", ".join(map(str, np.unique(train["group"][train["fold"] == int(fold)]))),
            "threshold": thresholds["threshold_without_fold"][fold],
            **row,
        }
        for fold, row in result["oof_by_fold"].items()
    ]


def drawn_wells(wells: list[int], scores: dict[str, Any]) -> list[int]:
    """The wells that the page draws: all, or of more than `DRAWN` the best and the worst, or
    without scores the first.
    """
    if len(wells) <= DRAWN or not scores:
        return wells[:DRAWN]
    by_score = sorted(wells, key=lambda well: scores[str(well)]["score"])
    return sorted(by_score[: DRAWN // 2] + by_score[-(DRAWN // 2) :])


def _wells(
    split: str, wells: Blocks, scores: dict[str, Any], drawn: list[int], size: int
) -> list[dict[str, Any]]:
    """A line for each well and, for those that are drawn, its picture at a glance and what the
    viewer needs of it.

    Args:
        size: pixels of a patch.
    """
    index, lines = wells.index, []
    for well in np.unique(index["group"]).tolist():
        own = index["group"] == well
        lines.append(
            {
                "id": f"{split}-{well}",
                "well": well,
                "title": f"{'Test well' if split == 'test' else 'Well'} {well}",
                "patches": int(own.sum()),
                "interleaved": bool((index["phase"][own] > 0).any()),
                "repaired": float(index["repaired"][own].mean() / size),
                "marked": float(index["marked"][own].mean() / size),
                "true": float(index["true"][own].mean() / size) if "true" in index else None,
                "fold": int(index["fold"][own][0]) if "fold" in index else None,
                "scores": scores.get(str(well)),
                **(
                    _drawn(next(wells.of([well])), well)
                    if well in drawn
                    else {"overview": None, "data": None}
                ),
            }
        )
    return lines


def _drawn(arrays: Arrays, well: int) -> dict[str, Any]:
    label = pictures.labels(arrays)
    return {
        "overview": pictures.overview(arrays, well, label),
        "data": pictures.well(arrays, well, label),
    }


def lost(score: np.ndarray, shows: np.ndarray) -> list[dict[str, Any]]:
    """Where the out-of-fold score is lost: patches by what they show and how they came out, with
    the points that each kind costs.

    Args:
        score: (N,) of each patch, 1 where an empty mask is right and 0 where it is not, or where
            nothing of a defect is met.
        shows: (N,) whether it shows corrosion.
    """
    kinds = [
        ("sound, and left unmarked", ~shows & (score == 1)),
        ("sound, but marked", ~shows & (score < 1)),
        ("corroded, and nothing of it met", shows & (score == 0)),
        ("corroded, and met in part or wholly", shows & (score > 0)),
    ]
    lines = []
    for kind, own in kinds:
        mean = float(score[own].mean()) if own.any() else None
        lines.append(
            {
                "kind": kind,
                "patches": int(own.sum()),
                "mean": mean,
                "lost": float((1 - score[own]).sum() / len(score)),
            }
        )
    return lines


def _patches(train: Blocks, drawn: list[int]) -> list[dict[str, Any]]:
    """The corroded patches with the highest scores and all patches with the lowest, few of each
    well.
    """
    index = train.index
    corroded = np.flatnonzero(index["true"] > 0)
    by_wrong = np.lexsort((-index["wrong"], index["score"]))
    by_right = corroded[np.lexsort((-index["right"][corroded], -index["score"][corroded]))]
    return [
        {
            "title": title,
            "patches": [_patch(train, row, drawn) for row in few_of_each(order, index["group"])],
        }
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


def _patch(train: Blocks, place: int, drawn: list[int]) -> dict[str, Any]:
    well = int(train.index["group"][place])
    own = next(train.of([well]))
    row, height = int(np.flatnonzero(own["place"] == place)[0]), own["image"].shape[1]
    depth = int(np.argwhere(pictures.Unrolled.of(own, well).index == row)[0][0])
    return {
        "name": str(own["name"][row]),
        "score": float(own["score"][row]),
        "true": int(own["true"][row]),
        "marked": int(own["marked"][row]),
        "picture": pictures.patch(own, row, pictures.labels(own)),
        "link": f"#well=train-{well}&row={depth * height + height // 2}&zoom=6"
        if well in drawn
        else None,
    }


def _refinements(result: dict[str, Any]) -> dict[str, Any]:
    """The candidates for the refinement by falling score, and the range that their chart spans."""
    tried = sorted(result["refinements_tried"].items(), key=lambda pair: -pair[1])
    values = [score for _, score in tried]
    pad = max(max(values) - min(values), 1e-3) / 10
    return {
        "tried": [{"name": name, "score": score} for name, score in tried],
        "low": min(values) - pad,
        "high": max(values) + pad,
    }
