"""What stands on the page of a submission of photographs."""

from typing import Any

import numpy as np
import pandas as pd

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.photographs import decoding, selection
from src.photographs.dataset import PhotoDataset
from src.report import curves, pictures, provenance
from src.report.checks import Check
from src.report.pictures import Beside, Panel
from src.report.rendering import render
from src.scoring import averaging
from src.scoring.averaging import Average
from src.scoring.calibration import Tallies

SHOWN = 6  # photographs, of the best and of the worst each
LONGEST = 1600  # pixels of a side that is shown; more are shrunk


def page(
    run: Run,
    result: dict[str, Any],
    train: PhotoDataset,
    selected: Arrays,
    checks: list[Check],
    tallies: dict[str, Tallies],
) -> str:
    """The page as HTML.

    Args:
        result: what submissions/<recipe>.json says.
        selected: as `src.photographs.selection.arrays_of` gives it.
        tallies: of calibration, as `src.scoring.calibration.errors` takes them.
    """
    own = result.get("classifier")
    score = run.competition.metric.of(*selected["selected"])
    chart = own and curves.classifier_chart(
        selected["classifier"], selected["shows"].any(1), own["threshold"]
    )
    at = selected["score_at_thresholds"]
    return render(
        "photographs.html",
        "photographs.js",
        result=result,
        ruler=_ruler(result),
        classes=_classes(run, train.classes, selected, score, result),
        class_charts=_class_charts(train.classes, at, selection.sizes_of(run), result),
        classifier_chart=chart,
        photographs=_photographs(run, train, selected, score),
        disputed=_disputed(run),
        viridis=pictures.VIRIDIS,
        colours=dict(zip(train.classes, pictures.class_colours(len(train.classes)), strict=True)),
        inferno=pictures.INFERNO,
        calibration=curves.calibration(tallies),
        **provenance.shared(run, checks),
    )


def _ruler(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the chart at the top, between 0 and 1."""
    lines = [{"what": "Out of fold", "value": result["oof_score"], "kind": "score"}]
    if "classifier" in result:
        lines.append(
            {
                "what": "Out of fold, without the image classifier",
                "value": result["oof_score_without_classifier"],
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
    run: Run, names: list[str], selected: Arrays, score: np.ndarray, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """A line for each class: how often it is shown and marked, what is selected for it, and its
    mean score out of fold.

    Args:
        score: (N, K).
    """
    shows, empty = selected["shows"], selection.all_empty(run.competition.metric, selected)
    marked = pd.read_csv(run.submission())["rle"].notna().to_numpy().reshape(-1, len(names))
    lines = []
    for k, name in enumerate(names):
        shown, own = shows[:, k], score[:, k]
        lines.append(
            {
                "name": name,
                "shown": float(shown.mean()),
                "marked": float(marked[:, k].mean()) if len(marked) else None,
                "threshold": result["threshold"][k],
                "expected_dice": result["expected_dice"][k],
                "min_size": result["min_size"][k],
                "score": float(own.mean()),
                "score_shown": float(own[shown].mean()) if shown.any() else None,
                "all_empty": float(empty[:, k].mean()),
            }
        )
    return lines


def _class_charts(
    names: list[str], curve: np.ndarray, sizes: list[int], result: dict[str, Any]
) -> list[dict[str, Any]]:
    """For each class the mean score of all training photographs against the threshold, at the
    smallest component chosen; for a mask of the highest expected Dice none is marked.
    """
    return [
        {
            "name": name,
            "expected_dice": result["expected_dice"][k],
            "chart": curves.threshold_chart(
                decoding.THRESHOLDS,
                curve[None, :, sizes.index(result["min_size"][k]), k],
                None if result["expected_dice"][k] else result["threshold"][k],
            ),
        }
        for k, name in enumerate(names)
    ]


def _photographs(
    run: Run, train: PhotoDataset, selected: Arrays, score: np.ndarray
) -> list[dict[str, Any]]:
    """The photographs with defects that came out best and worst, out of fold, by the mean score
    of the classes that they show.
    """
    score = np.where(selected["shows"], score, np.nan)
    defective = np.flatnonzero(selected["shows"].any(1))
    order = defective[np.argsort(np.nanmean(score[defective], axis=1), kind="stable")]
    row_of = {name: row for row, name in enumerate(train.name)}
    networks, groups = averaging.oof(run), []
    for title, some in (("Worst", order[:SHOWN]), ("Best", order[::-1][:SHOWN])):
        drawn = [
            {
                **photograph(run, train, row_of[selected["name"][n]], networks, "oof"),
                "rejected": bool(selected["rejected"][n]),
                "score": float(np.nanmean(score[n])),
            }
            for n in some
        ]
        groups.append({"title": title, "photographs": drawn})
    return groups


def beside(run: Run, row: int, masks: dict[str, np.ndarray]) -> Beside:
    """`Modality.beside` of the photograph in a row of train.h5."""
    train = PhotoDataset.open(run, "train")
    image, (height, width) = train.image(row) / train.white, train.size[row]
    step = -(-max(image.shape[:2]) // LONGEST)
    shown = {"photograph": pictures.photograph(image, step)}
    whole = {"truth": train.mask(row), **{title: own[0] for title, own in masks.items()}}
    shown |= {
        title: pictures.classes(own[:, :height:step, :width:step]) for title, own in whole.items()
    }
    colours = pictures.class_colours(len(train.classes))
    return Beside(
        [Panel(title, own, "") for title, own in shown.items()],
        dict(zip(train.classes, colours, strict=True)),
    )


def _disputed(run: Run) -> list[dict[str, Any]]:
    """The test photographs on which the networks disagree most, on the mean over pixels of the
    standard deviation of their probabilities; the class that they disagree on most counts.
    """
    networks, test = averaging.test(run), PhotoDataset.open(run, "test")
    if len(networks.sources) < 2:
        return []
    apart = hdf5.read(run.ensemble, "test/disagreement")["test/disagreement"].max(1)
    row_of = {name: row for row, name in enumerate(test.name)}
    return [
        {
            **photograph(run, test, row_of[networks.names[n]], networks, "test"),
            "deviation": float(apart[n]),
        }
        for n in np.argsort(-apart, kind="stable")[:SHOWN]
    ]


def photograph(
    run: Run, photos: PhotoDataset, row: int, networks: Average, part: str
) -> dict[str, Any]:
    """Its panels; `networks` are those that predicted it, `part` that of the ensemble's file."""
    name, (height, width) = str(photos.name[row]), photos.size[row]
    average, image = averaging.of_ensemble(run, part), photos.image(row) / photos.white
    with hdf5.reading(run.ensemble) as file:
        mask = file[f"{part}/mask"][average.row_of[name]]
    step = -(-max(image.shape[:2]) // LONGEST)
    panels = {"photograph": pictures.photograph(image, step)}
    if part == "oof":
        truth = photos.mask(row)
        panels["truth"] = pictures.classes(truth[:, ::step, ::step])
        shows = [label for label, own in zip(photos.classes, truth, strict=True) if own.any()]
    panels["probability"] = pictures.probability(average.of(name).max(0)[::step, ::step])
    if len(networks.sources) > 1:
        apart = networks.of(name, deviation=True).max(0)[::step, ::step]
        panels["disagreement"] = pictures.deviation(apart)
    panels["mask"] = pictures.classes(mask[:, :height:step, :width:step])
    return {
        "name": name,
        "shows": ", ".join(shows) if part == "oof" else None,
        "broad": image.shape[1] > 1.5 * image.shape[0],
        "panels": [{"title": title, "picture": own} for title, own in panels.items()],
    }
