"""What stage 04 knows about its submission: where it comes from, its scores, and how both are
told.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src import artifacts
from src.artifacts import Arrays, CreatedFrom, Paths
from src.competitions import Competition
from src.competitions.formats.masks import PackedMasks, pack, slices
from src.recipe import Postprocess, Recipe
from src.report import figures
from src.scoring import baselines, forecast
from src.scoring.metrics import Score
from src.terminal.errors import UserError
from src.wells import refinement as wells_refinement
from src.wells import selection, submission
from src.wells.blocks import Blocks
from src.wells.refinement import Chosen, Refinement

FILES = (".csv", "_official.csv", ".html", ".png")
BASELINES = ("all_empty", "intensity")


def created_from(recipe: Recipe, paths: Paths, prepared: str) -> CreatedFrom:
    """What the submission is made from.

    Raises:
        UserError: there is no ensemble, or it is of other predictions than today's.
    """
    if not artifacts.made_from(
        paths.ensemble(recipe), selection.created_from(recipe, paths, prepared)
    ):
        raise UserError(
            f"{paths.ensemble(recipe)} is missing or of other predictions: run "
            "03_ensemble.py with the same arguments first"
        )
    content = artifacts.content_digest(paths.ensemble(recipe))
    return {
        "prepared": prepared,
        "ensemble": content,
        "postprocess": artifacts.digest(recipe.postprocess),
    }


def read_truth(competition: Competition, names: np.ndarray, paths: Paths) -> PackedMasks | None:
    """Masks (N, H, W) of the test patches where they are known, which is for generated
    competitions.
    """
    path = paths.truth(competition.name)
    if competition.generate is None:
        return None
    have, masks = competition.read_masks(path)
    return masks.take(selection.rows_by_name(have, names, str(path)))


def examined(
    wells: Blocks, chosen: Chosen, level: float, settings: Postprocess, score: Score
) -> tuple[Blocks, PackedMasks]:
    """A split with the masks that the submission has, or would have, as `prediction`; and these
    masks of all patches.

    What is found on each patch comes to the index: how many pixels are `repaired` and `marked`;
    where the truth is known, also how many are `true`, `right` and `wrong`, and the scores of what
    a submission must beat, `all_empty` and `intensity`, marked below `level`; `score` is that of
    the submission's masks or, of training patches, the one honestly earned, `plain` that without
    refinement.
    """
    bits, parts, size = [], [], (0, 0)
    for block in wells:
        mask = wells_refinement.apply(block, block["probability"], chosen, settings)
        bits.append(pack(mask))
        parts.append(_found(block, mask, level, score))
        if "fold" in block:
            parts[-1]["score"], parts[-1]["plain"] = wells_refinement.assess(
                block, chosen, settings, score
            )
        size = mask.shape[1:]
    masks = PackedMasks(np.concatenate(bits), size)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Blocks(wells.index | found, wells.read).joined("prediction", masks.__getitem__), masks


def _found(block: Arrays, mask: np.ndarray, level: float, score: Score) -> Arrays:
    """What `examined` says of the patches of a block, under masks (n, H, W)."""
    result = {"repaired": (~block["valid"]).sum((1, 2)), "marked": mask.sum((1, 2))}
    if "mask" not in block:
        return result
    truth = block["mask"] > 0
    counts = {
        "true": truth.sum((1, 2)),
        "right": (truth & (mask > 0)).sum((1, 2)),
        "wrong": (truth ^ (mask > 0)).sum((1, 2)),
    }
    base = {
        "all_empty": baselines.all_empty(block["mask"], score),
        "intensity": baselines.intensity(block["image"], level, block["mask"], score),
    }
    return result | counts | base | {"score": score(mask, block["mask"])}


def scores(
    recipe: Recipe, competition: Competition, train: Arrays, chosen: Chosen, threshold: float
) -> dict[str, Any]:
    """What submissions/<recipe>.json says about the out-of-fold scores; `train` is the index of
    the training patches as `examined`.
    """
    base = {name: train[name] for name in BASELINES}
    result = {
        "recipe": recipe.name,
        "metric": competition.metric,
        "oof_score": float(train["score"].mean()),
        "oof_score_unrefined": float(train["plain"].mean()),
        "oof_by_group": _by(train["group"], {"score": train["score"], **base}),
        "oof_by_fold": _by(train["fold"], {"score": train["score"], **base}),
        "threshold": threshold,
        "refined": not (
            chosen.refinement.plain and (chosen.for_interleaved or chosen.refinement).plain
        ),
        "refinement": _how(chosen),
        "refinements_tried": {
            _name(refinement): round(score, 6) for refinement, score in chosen.table.items()
        },
        "baselines_on_train": {name: float(own.mean()) for name, own in base.items()},
    }
    if any(member.selection == "best_on_held_out" for member in recipe.members):
        result["warning"] = (
            "epochs were picked on the held-out folds: the out-of-fold scores are optimistic"
        )
    return result


def expected(recipe: Recipe, paths: Paths, train: Blocks, test: Blocks) -> dict[str, Any]:
    """The forecast for the test wells. Patches held out at random say nothing about wells that
    were not seen: then there is none.
    """
    if recipe.folds.scheme == "random":
        return {}
    oof = ((block["probability"], block["mask"]) for block in train)
    removed = forecast.removed_by_averaging(_test_by_fold(recipe, paths, test.index["name"]), oof)
    told = forecast.expect(
        train.index["score"],
        train.index["group"],
        np.unique(test.index["group"], return_counts=True)[1],
        removed,
    )
    return {
        "expected_score": told.score,
        "expected_interval": [told.low, told.high],
        "removed_by_averaging": removed,
    }


def _test_by_fold(recipe: Recipe, paths: Paths, names: np.ndarray) -> Iterator[np.ndarray]:
    """(F, n, H, W) the test probabilities of each fold's networks, averaged over members and
    seeds as they are out of fold.
    """
    files: dict[int, list[Path]] = {}
    for task in recipe.tasks():
        files.setdefault(task.fold, []).append(paths.test(recipe, task))
    folds = [selection.Sources([[file] for file in own], names) for own in files.values()]
    for rows in slices(len(names)):
        place = np.arange(rows.start, rows.stop)
        yield np.stack([fold.mean(place)[:, 0] for fold in folds])


def test_scores(test: Arrays) -> dict[str, Any]:
    """Where the truth is known, the score that the submission would get, and those of the
    baselines; `test` as `examined`.
    """
    if "score" not in test:
        return {}
    base = {name: test[name] for name in BASELINES}
    return {
        "test_score": float(test["score"].mean()),
        "test_by_group": _by(test["group"], {"score": test["score"], **base}),
        "baselines_on_test": {name: float(own.mean()) for name, own in base.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The scores as text for the terminal."""
    warning = [f"warning: {result['warning']}"] if "warning" in result else []
    lines = [
        f"{result['metric']}, out of fold (each well held out, thresholds and refinement "
        "chosen on the other folds)",
        *warning,
    ]
    for title, key in (
        ("well", "oof_by_group"),
        ("fold", "oof_by_fold"),
        ("test well", "test_by_group"),
    ):
        lines += [
            f"  {title:9} {name:>3}  {row['patches']:6} patches  {row['score']:.4f}"
            for name, row in result.get(key, {}).items()
        ]
    how = (
        "refined by " + result["refinement"]
        if result["refined"]
        else (f"not refined ({result['refinement']})")
    )
    lines.append(
        f"out-of-fold score {result['oof_score']:.4f}, {how}; without refinement "
        f"{result['oof_score_unrefined']:.4f}"
    )
    for where in ("train", "test"):
        if f"baselines_on_{where}" in result:
            base = result[f"baselines_on_{where}"]
            lines.append(
                f"baselines on {where}: all empty {base['all_empty']:.4f}, threshold on "
                f"intensity {base['intensity']:.4f}"
            )
    if "expected_score" in result:
        low, high = result["expected_interval"]
        lines.append(
            f"averaging the networks of all folds removes {result['removed_by_averaging']:.1%} of "
            "the squared error on the test wells"
        )
        lines.append(
            f"score to expect on the test wells {result['expected_score']:.4f}, 90 % "
            f"interval {low:.2f} to {high:.2f}"
        )
    if "test_score" in result:
        lines.append(
            f"test score {result['test_score']:.4f}, on the truth that the generator kept apart"
        )
    return "\n".join(lines)


def write(
    recipe: Recipe,
    paths: Paths,
    result: dict[str, Any],
    inputs: CreatedFrom,
    page: str,
    picture: bytes,
) -> None:
    """Write the page, a picture and, last, the scores with the digests of the submission files:
    what `is_done` looks for.
    """
    artifacts.write_text(paths.submission(recipe, ".html"), page)
    with artifacts.replacing(paths.submission(recipe, ".png")) as partial:
        partial.write_bytes(picture)
    submission.write_scores(recipe, paths, result, inputs, FILES)


def picture(result: dict[str, Any], train: Blocks) -> bytes:
    """The best and the worst training well of those that show corrosion, as predicted by
    networks that did not see them.
    """
    corroded = {
        str(well) for well in np.unique(train.index["group"][train.index["true"] > 0])
    } or set(result["oof_by_group"])
    ranked = sorted(
        (row["score"], int(well))
        for well, row in result["oof_by_group"].items()
        if well in corroded
    )
    shown = []
    for (score, well), what in zip(
        dict.fromkeys((ranked[-1], ranked[0])), ("best", "worst"), strict=False
    ):
        own = next(train.of([well]))
        panels = {
            "truth": own["mask"],
            "probability": own["probability"],
            "prediction": own["prediction"],
        }
        shown.append(figures.Shown(f"{what} well: {well}, {score:.3f}", own, panels))
    return figures.png(figures.wells_picture(shown))


def _how(chosen: Chosen) -> str:
    other = (
        f"; interleaved wells by {_name(chosen.for_interleaved)}" if chosen.for_interleaved else ""
    )
    return _name(chosen.refinement) + other


def _name(refinement: Refinement) -> str:
    source = (
        f"threshold {refinement.threshold:.2f}"
        if refinement.beta is None
        else f"random walker, beta {refinement.beta:g}"
    )
    if refinement.track:
        source = (
            f"grooves followed (floor {refinement.track.floor:g}, strength "
            f"{refinement.track.strength:g}), {source}"
        )
    source += (
        f", components of {refinement.min_size} pixels or more" if refinement.min_size > 1 else ""
    )
    return source + (
        f", patches of {refinement.min_in_patch} pixels or more"
        if refinement.min_in_patch > 1
        else ""
    )


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
