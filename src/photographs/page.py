"""What stands on the page of a submission of photographs."""

from typing import Any

import numpy as np
import pandas as pd

from src import artifacts, networks
from src.artifacts import Arrays, CreatedFrom, Paths
from src.photographs import selection
from src.photographs.averaging import Average
from src.photographs.dataset import Gallery
from src.photographs.selection import mask_of
from src.recipe import Recipe, to_toml
from src.report import checks, curves, pictures, provenance
from src.report.rendering import render

SHOWN = 6  # photographs, of the best and of the worst each
LONGEST = 1600  # pixels of a side that is shown; more are shrunk


def page(recipe: Recipe, paths: Paths, result: dict[str, Any], made: CreatedFrom) -> str:
    """The page as HTML.

    Args:
        result: what submissions/<recipe>.json says.
        made: what the submission is made from.
    """
    train, test = Gallery.open(paths, recipe, "train"), Gallery.open(paths, recipe, "test")
    chosen = artifacts.read_arrays(
        paths.choice(recipe), ["name", "dice", "shows", "closed", "gate", "curve"]
    )
    told, csv, official = (
        curves.histories(recipe, paths),
        paths.submission(recipe),
        paths.submission(recipe, "_official.csv"),
    )
    channels = train.moments.shape[2]
    return render(
        "photographs.html",
        "photographs.js",
        result=result,
        ruler=_ruler(result),
        classes=_classes(
            train.classes, chosen, result, pd.read_csv(csv, dtype=str, keep_default_na=False)
        ),
        class_charts=_class_charts(
            train.classes, chosen["curve"], selection.sizes_of(recipe), result
        ),
        gate_chart=curves.gate_chart(
            chosen["gate"], chosen["shows"].any(1), result["gate"]["threshold"]
        )
        if "gate" in result
        else None,
        photographs=_photographs(
            train, Average([[paths.ensemble(recipe)]], "oof/"), chosen, result
        ),
        colours=dict(zip(train.classes, pictures.class_colours(len(train.classes)), strict=True)),
        inferno=pictures.INFERNO,
        learning=curves.learning(recipe, told),
        members=provenance.members(
            recipe,
            told,
            {
                m.name: networks.for_photographs(m, len(train.classes), channels)
                for m in recipe.members
            },
        ),
        seeds=recipe.seeds,
        checks=checks.photographs(csv, test.name.tolist(), test.classes, test.size),
        files=provenance.files([csv, official]),
        made=made,
        versions=provenance.versions(),
        toml=to_toml(recipe),
    )


def _ruler(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the chart at the top, between 0 and 1."""
    lines = [{"what": "Out of fold", "value": result["oof_score"], "kind": "score"}]
    if "gate" in result:
        lines.append(
            {
                "what": "Out of fold, without the gate",
                "value": result["oof_score_without_gate"],
                "kind": "score",
            }
        )
    if "expected_score" in result:
        interval = result["expected_interval"]
        lines.append(
            {
                "what": "Forecast for the test set",
                "value": result["expected_score"],
                "kind": "score",
                "range": interval,
            }
        )
    return [*lines, {"what": "Every mask empty", "value": result["all_empty"], "kind": "all_empty"}]


def _classes(
    names: list[str], chosen: Arrays, result: dict[str, Any], submission: pd.DataFrame
) -> list[dict[str, Any]]:
    """A line for each class: how often it is shown and marked, what was chosen for it, and its
    mean Dice out of fold.
    """
    lines = []
    for k, name in enumerate(names):
        shown, dice, marked = (
            chosen["shows"][:, k],
            chosen["dice"][:, k],
            submission["rle"][submission["class"] == name] != "",
        )
        lines.append(
            {
                "name": name,
                "shown": float(shown.mean()),
                "marked": float(marked.mean()) if len(marked) else None,
                "threshold": result["threshold"][k],
                "min_size": result["min_size"][k],
                "dice": float(dice.mean()),
                "dice_shown": float(dice[shown].mean()) if shown.any() else None,
                "all_empty": float((~shown).mean()),
            }
        )
    return lines


def _class_charts(
    names: list[str], curve: np.ndarray, sizes: list[int], result: dict[str, Any]
) -> list[dict[str, Any]]:
    """For each class the mean Dice of all training photographs against the threshold, at the
    smallest component chosen.
    """
    return [
        {
            "name": name,
            "chart": curves.threshold_chart(
                selection.THRESHOLDS,
                curve[None, :, sizes.index(result["min_size"][k]), k],
                result["threshold"][k],
            ),
        }
        for k, name in enumerate(names)
    ]


def _photographs(
    train: Gallery, average: Average, chosen: Arrays, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """The photographs with defects that came out best and worst, out of fold, by the mean Dice
    of the classes that they show.
    """
    score = np.where(chosen["shows"], chosen["dice"], np.nan)
    defective = np.flatnonzero(chosen["shows"].any(1))
    order = defective[np.argsort(np.nanmean(score[defective], axis=1), kind="stable")]
    row_of = {name: row for row, name in enumerate(train.name)}
    groups = []
    for title, some in (("Worst", order[:SHOWN]), ("Best", order[::-1][:SHOWN])):
        drawn = [
            _photograph(
                train, row_of[chosen["name"][n]], average, bool(chosen["closed"][n]), result
            )
            for n in some
        ]
        scores = [float(np.nanmean(score[n])) for n in some]
        groups.append(
            {
                "title": title,
                "photographs": [
                    own | {"score": dice} for own, dice in zip(drawn, scores, strict=True)
                ],
            }
        )
    return groups


def _photograph(
    train: Gallery, row: int, average: Average, closed: bool, result: dict[str, Any]
) -> dict[str, Any]:
    name = str(train.name[row])
    probability, truth, image = average.of(name), train.mask(row), train.image(row) / train.white
    mask = (
        np.zeros_like(truth)
        if closed
        else mask_of(probability, result["threshold"], result["min_size"])
    )
    step = -(-max(image.shape[:2]) // LONGEST)
    shows = [label for label, own in zip(train.classes, truth, strict=True) if own.any()]
    return {
        "name": name,
        "closed": closed,
        "shows": ", ".join(shows),
        "broad": image.shape[1] > 1.5 * image.shape[0],
        "panels": [
            {"title": "photograph", "picture": pictures.photograph(image, step)},
            {"title": "truth", "picture": pictures.classes(truth[:, ::step, ::step])},
            {
                "title": "probability",
                "picture": pictures.probability(probability.max(0)[::step, ::step]),
            },
            {"title": "mask", "picture": pictures.classes(mask[:, ::step, ::step])},
        ],
    }
