"""What stage 04 knows about the masks of wells: their scores, and how these are told."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from src.artifacts import hdf5
from src.artifacts.mapped import mapped
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions.formats.masks import slices
from src.report import pictures
from src.report.checks import Check
from src.report.pictures import Beside
from src.scoring import averaging, baselines, forecast
from src.scoring.averaging import Average, rows_by_name
from src.scoring.calibration import Tallies, errors, tally
from src.scoring.metrics import Score, scorer
from src.wells import page
from src.wells.blocks import Blocks
from src.wells.postprocess.selection import Selection, predicted, read

STRETCH = 20  # patches of a well in a picture of a comparison
SELECTED = {  # how, by `postprocess.threshold`
    "selected": "threshold and refinement selected on the other folds",
    "one_half": "threshold one half, refinement selected on the other folds",
}
BASELINES = ("all_empty", "intensity")


def report(run: Run, checks: list[Check]) -> tuple[dict[str, Any], dict[str, str | bytes]]:
    """What submissions/<recipe>.json says, and the page and picture by the endings of their files.

    All scores are of the masks in the ensemble's file.
    """
    selection, score = read(run), scorer(run.competition.metric)
    train, test = (masked(run, split) for split in ("train", "test"))
    level = baselines.fit_intensity(train, score)
    train, test = (evaluated(wells, level, score) for wells in (train, test))
    result = scores(run, train.index, selection)
    result |= expected(run, train, test)
    result |= test_scores(test.index)
    size = hdf5.shape(run.prepared("test"), "image")[1:]
    checks = [*checks, unmeasured(test.index, size[0] * size[1])]
    parts = {"Well": tallies(train)}
    result["calibration"] = errors(parts)
    train = disputed(train, averaging.oof(run))
    test = disputed(test, averaging.test(run))
    html = page.page(run, result, selection, train, test, checks, parts)
    return result, {".html": html, ".png": page.picture(result, train)}


def masked(run: Run, split: str) -> Blocks:
    """A split in blocks of whole wells, with the ensemble's `probability` and `prediction` (n, H,
    W), its masks; and, where it is known, the truth as `mask`.
    """
    part, large = ("oof", ["mask"]) if split == "train" else ("test", [])
    average = averaging.of_ensemble(run, part)
    wells = predicted(run, split, average, "image", "valid", *large)
    rows, name = rows_by_name(average.names, wells.index["name"], str(run.ensemble)), f"{part}/mask"
    marked = mapped(run.ensemble, name)[name]
    wells = wells.joined("prediction", lambda place: marked[rows[place]][:, 0])
    if split == "train" or not run.competition.read_truth:
        return wells
    have, masks = run.competition.read_truth(run.truth)
    truth = masks.take(rows_by_name(have, wells.index["name"], str(run.truth)))
    return wells.joined("mask", truth.__getitem__)


def disputed(wells: Blocks, average: Average) -> Blocks:
    """The same wells with how much the networks disagree, as `deviation` (n, H, W); where several
    predicted each patch.
    """
    if len(average.sources) < 2:
        return wells
    rows = rows_by_name(average.names, wells.index["name"], "the predictions")
    return wells.joined("deviation", lambda place: average.deviation(rows[place])[:, 0])


def evaluated(wells: Blocks, level: float, score: Score) -> Blocks:
    """The same wells, with what is found on each patch in their index.

    That is how many pixels are `repaired` and `marked`; where the truth is known, also how many are
    `true`, `right` and `wrong`, the `score`, and the scores of what a submission must beat,
    `all_empty` and `intensity`, marked below `level`.
    """
    parts = [_found(block, level, score) for block in wells]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Blocks(wells.index | found, wells.read)


def _found(block: Arrays, level: float, score: Score) -> Arrays:
    mask = block["prediction"]
    result = {"repaired": (~block["valid"]).sum((1, 2)), "marked": mask.sum((1, 2))}
    if "mask" not in block:
        return result
    truth = block["mask"] > 0
    return result | {
        "true": truth.sum((1, 2)),
        "right": (truth & (mask > 0)).sum((1, 2)),
        "wrong": (truth ^ (mask > 0)).sum((1, 2)),
        "score": score(mask, block["mask"]),
        "all_empty": baselines.all_empty(block["mask"], score),
        "intensity": baselines.intensity(block["image"], level, block["mask"], score),
    }


def tallies(train: Blocks) -> Tallies:
    """By well, as `src.scoring.calibration.tally` counts its pixels, out of fold."""
    result = {}
    for block in train:  # of whole wells
        for well in np.unique(block["group"]):
            own = block["group"] == well
            result[str(well)] = tally(block["probability"][own], block["mask"][own] > 0)
    return result


def scores(run: Run, train: Arrays, selection: Selection) -> dict[str, Any]:
    """The out-of-fold scores; `train` is the index of the training patches as `evaluated`."""
    base = {name: train[name] for name in BASELINES}
    result = {
        "recipe": run.recipe.name,
        "metric": run.competition.metric.name,
        "oof_score": float(train["score"].mean()),
        "oof_score_unrefined": selection.unrefined,
        "oof_by_group": _by(train["group"], {"score": train["score"], **base}),
        "oof_by_fold": _by(train["fold"], {"score": train["score"], **base}),
        "selected": SELECTED[run.recipe.postprocess.threshold],
        "threshold": selection.threshold,
        "refined": selection.refined,
        "refinement": str(selection),
        "refinements_tried": {name: round(own, 6) for name, own in selection.table.items()},
        "baselines_on_train": {name: float(own.mean()) for name, own in base.items()},
    }
    result |= baselines.judgement(result["oof_score"], result["baselines_on_train"])
    if any(member.selection == "best_on_held_out" for member in run.recipe.members):
        told = "epochs were picked on the held-out folds: the out-of-fold scores are optimistic"
        result["warning"] = told
    return result


def expected(run: Run, train: Blocks, test: Blocks) -> dict[str, Any]:
    """The forecast for the test wells. Patches held out at random say nothing about wells that
    were not seen: then there is none.
    """
    if run.recipe.folds.scheme == "random":
        return {}
    oof = ((block["probability"], block["mask"]) for block in train)
    removed = forecast.removed_by_averaging(_test_by_fold(run), oof)
    patches = np.unique(test.index["group"], return_counts=True)[1]
    own = forecast.expect(train.index["score"], train.index["group"], patches, removed)
    return {
        "expected_score": own.score,
        "expected_interval": [own.low, own.high],
        "removed_by_averaging": removed,
    }


def _test_by_fold(run: Run) -> Iterator[np.ndarray]:
    """(F, n, H, W) the test probabilities of each fold's networks, averaged over members and
    seeds as they are out of fold.
    """
    folds = [averaging.test(run, fold=fold) for fold in sorted({t.fold for t in run.tasks()})]
    for rows in slices(len(folds[0])):
        place = np.arange(rows.start, rows.stop)
        yield np.stack([fold.mean(place)[:, 0] for fold in folds])


def test_scores(test: Arrays) -> dict[str, Any]:
    """Where the truth is known, the score that the submission would get, and those of the
    baselines; `test` as `evaluated`.
    """
    if "score" not in test:
        return {}
    base = {name: test[name] for name in BASELINES}
    return {
        "test_score": float(test["score"].mean()),
        "test_by_group": _by(test["group"], {"score": test["score"], **base}),
        "baselines_on_test": {name: float(own.mean()) for name, own in base.items()},
    }


def unmeasured(test: Arrays, pixels: int) -> Check:
    """Whether patches of so many pixels, none of them measured, have empty masks."""
    without = test["repaired"] == pixels
    marked = int((without & (test["marked"] > 0)).sum())
    found = f"{without.sum()} such patches, {marked} with a mask"
    return Check("Patches without a single measured pixel have empty masks", found, not marked)


def describe(result: dict[str, Any]) -> str:
    """The scores as text for the terminal."""
    warning = [f"warning: {result['warning']}"] if "warning" in result else []
    lines = [
        f"{result['metric']}, out of fold (each well held out; {result['selected']})",
        *warning,
    ]
    titles = (("well", "oof_by_group"), ("fold", "oof_by_fold"), ("test well", "test_by_group"))
    for title, key in titles:
        lines += [
            f"  {title:9} {name:>3}  {row['patches']:6} patches  {row['score']:.4f}"
            for name, row in result.get(key, {}).items()
        ]
    how = result["refinement"]
    how = "refined by " + how if result["refined"] else f"not refined ({how})"
    lines.append(
        f"out-of-fold score {result['oof_score']:.4f}, {how}; "
        f"without refinement {result['oof_score_unrefined']:.4f}"
    )
    for where in ("train", "test"):
        if f"baselines_on_{where}" in result:
            base = result[f"baselines_on_{where}"]
            lines.append(
                f"baselines on {where}: all empty {base['all_empty']:.4f}, "
                f"threshold on intensity {base['intensity']:.4f}"
            )
    if "expected_score" in result:
        low, high = result["expected_interval"]
        lines.append(
            f"averaging the networks of all folds removes {result['removed_by_averaging']:.1%} "
            "of the squared error on the test wells"
        )
        lines.append(
            f"score to expect on the test wells {result['expected_score']:.4f}, "
            f"90 % interval {low:.2f} to {high:.2f}"
        )
    if "test_score" in result:
        told = "on the truth that the generator kept apart"
        lines.append(f"test score {result['test_score']:.4f}, {told}")
    return "\n".join(lines)


def beside(
    run: Run,
    rows: np.ndarray,
    differ: np.ndarray,
    masks: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> Beside:
    """`Modality.beside`, of the stretch of a well that is `STRETCH` patches long at most."""
    path = run.prepared("train")
    depth = hdf5.read_rows(path, ["depth"], rows)["depth"]
    depth = depth - depth.min()
    sums = np.append(0, np.bincount(depth, differ).cumsum())
    ends = (np.arange(len(sums) - 1) + STRETCH).clip(max=len(sums) - 1)
    first = int(np.argmax(sums[ends] - sums[:-1]))
    some = np.flatnonzero((depth >= first) & (depth < first + STRETCH))
    names = ("image", "valid", "mask", "group", "depth", "parity")
    found = {title: own[:, 0] for title, own in masks(some).items()}
    return pictures.beside(hdf5.read_rows(path, names, rows[some]), found)


def _by(key: np.ndarray, scores: Arrays) -> dict[str, dict[str, float]]:
    """For each value of a key (N,) the number of its patches and the means of their scores (N,)."""
    own = ((str(value), key == value) for value in np.unique(key))
    return {
        value: {
            "patches": int(at.sum()),
            **{name: float(of[at].mean()) for name, of in scores.items()},
        }
        for value, at in own
    }
