"""A trial of the forecast: many generated challenges, and for each the forecast beside the true
test score.

Every challenge is a normal run of the five stages on wells from a seed of its own, and one training
on a random split of patches, whose held-out score is what such a split would have promised. What
was measured is kept, a JSON a challenge in data/trials/<recipe>/; the data are not. Forecasts are
made from the JSONs, so that another way of forecasting needs no training. Usage: python -m
src.studies.trial RECIPE [--challenges N] [--first-seed S] [--set KEY.PATH=VALUE].
"""

import argparse
import contextlib
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src import artifacts, competitions, recipe
from src.artifacts import Paths
from src.artifacts.files import locked
from src.recipe import RECIPES, Recipe
from src.report import figures
from src.scoring import forecast
from src.terminal import command, console
from src.terminal.errors import UserError
from src.wells import prediction, refinement, selection, submission

STAGES = [
    "00_prepare_data.py",
    "01_train_folds.py",
    "02_predict.py",
    "03_ensemble.py",
    "04_postprocess.py",
]
RANDOM = ['folds={ scheme = "random", count = 5, run = [0] }', "prepared=random_split"]

Measured = dict[str, Any]


def measure(seed: int, folder: Path, options: argparse.Namespace) -> Measured:
    """Run the challenge of a seed, or read what was measured when it was run before with the same
    recipe.

    Returns:
        `train`: by well the nested out-of-fold scores of its patches, in order along the well;
        `fold`: by well; `test`: by well its `patches` and true `score`; `test_score`: the true
        score; `removed_by_averaging`: see `forecast.expect`; `promise`: the held-out score under a
        random split of patches.
    """
    place = folder / f"seed{seed}"
    by_well = _options(options, place, [f"generate.seed={seed}", f"name=trial_{seed}"])
    by_patch = _options(
        options, place, [f"generate.seed={seed}", f"name=trial_{seed}_random", *RANDOM]
    )
    runs = [recipe.load(run.recipe, run.overrides) for run in (by_well, by_patch)]
    target, inputs = place.with_suffix(".json"), {"recipes": artifacts.digest(*runs)}
    with locked(folder / f".seed{seed}.lock", target):
        if options.force or not artifacts.up_to_date(target, inputs):
            place.mkdir(parents=True, exist_ok=True)
            told = console.state()
            with (
                open(place / "log.txt", "a", encoding="utf-8") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                _run(STAGES, by_well)
                _run(STAGES[:2], by_patch)
            console.resume(told)  # the stages' own log goes with the place
            paths = command.paths(by_well)
            measured = {"seed": seed, **scores(runs[0], paths), "promise": promise(runs[1], paths)}
            artifacts.write_json(target, measured, inputs)
            shutil.rmtree(place)
    return artifacts.read_json(target)


def scores(chosen: Recipe, paths: Paths) -> Measured:
    """What the five stages measured: what `measure` returns, but for the promise."""
    source, rule = paths.ensemble(chosen), competitions.get(chosen.competition).score
    oof = artifacts.read_split(source, "oof", ["name", "probability"])
    train = selection.scored(
        prediction.read_split(paths, chosen, "train", "mask", "fold"), oof["name"], source
    )
    train["probability"] = oof["probability"][:, 0]
    best = refinement.choose([train], artifacts.read_notes(source), chosen.postprocess, rule)
    score, _ = refinement.assess(train, best, chosen.postprocess, rule)
    wells = {str(name): train["group"] == name for name in np.unique(train["group"])}
    told = submission.read_scores(chosen, paths)
    return {
        "train": {name: score[own].round(5).tolist() for name, own in wells.items()},
        "fold": {name: int(train["fold"][own][0]) for name, own in wells.items()},
        "test": told["test_by_group"],
        "test_score": told["test_score"],
        "removed_by_averaging": told["removed_by_averaging"],
    }


def promise(chosen: Recipe, paths: Paths) -> float:
    """The score of the held-out patches of a random split, at the threshold that is best on
    them.
    """
    oof = selection.average(selection.oof_files(chosen, paths))
    train = prediction.read_split(paths, chosen, "train", "mask", "fold")
    train = prediction.rows_of(train, np.isin(train["fold"], chosen.folds.run))
    mask = selection.scored(train, oof["name"], paths.prepared(chosen))["mask"]
    return float(
        selection.threshold_scores(
            oof["probability"][:, 0], mask, competitions.get(chosen.competition).score
        )
        .mean(1)
        .max()
    )


def row(measured: Measured) -> dict[str, Any]:
    """A line of the table: the forecast from what was known before the test, beside the truth."""
    told = forecast.expect(*known(measured))
    return {
        "seed": measured["seed"],
        "forecast": told.score,
        "low": told.low,
        "high": told.high,
        "truth": measured["test_score"],
        "inside": "yes" if told.low <= measured["test_score"] <= told.high else "no",
        "random split promised": measured["promise"],
    }


def known(measured: Measured) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The arguments of `forecast.expect`: nothing that needs the truth of the test set."""
    wells = measured["train"]
    well = np.repeat(list(wells), [len(own) for own in wells.values()])
    test_patches = np.array([test["patches"] for test in measured["test"].values()])
    return (
        np.concatenate(list(wells.values())),
        well,
        test_patches,
        measured["removed_by_averaging"],
    )


def summary(table: pd.DataFrame) -> str:
    """How often the interval held the truth, and how far forecasts and promises were off on
    average, with standard errors.
    """
    lines = [
        f"The 90 % interval held the true score in {(table['inside'] == 'yes').sum()} of "
        f"{len(table)} challenges."
    ]
    for name, column in (
        ("forecast - truth", "forecast"),
        ("random split's promise - truth", "random split promised"),
    ):
        off = table[column] - table["truth"]
        lines.append(
            f"Mean of {name}: {off.mean():+.4f} (standard error "
            f"{off.std(ddof=1) / np.sqrt(len(off)):.4f})."
        )
    lines.append(f"Mean width of the interval: {(table['high'] - table['low']).mean():.4f}.")
    return "\n".join(lines)


def _options(options: argparse.Namespace, place: Path, more: list[str]) -> argparse.Namespace:
    """The options of the stages for a run of its own in `place`."""
    return argparse.Namespace(
        **{
            **vars(options),
            "overrides": [*options.overrides, *more],
            "data_dir": place,
            "submissions_dir": place,
        }
    )


def _run(stages: list[str], options: argparse.Namespace) -> None:
    for stage in stages:
        runpy.run_path(str(RECIPES.parent / stage))["main"](options)


def parser() -> argparse.ArgumentParser:
    arguments = command.parser(__doc__)
    arguments.add_argument("--challenges", type=int, default=24, help="how many (default: 24)")
    arguments.add_argument(
        "--first-seed", type=int, default=1, help="their seeds count up from here (default: 1)"
    )
    return arguments


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    competition = competitions.get(chosen.competition)
    if isinstance(competition, competitions.PhotoCompetition) or competition.generate is None:
        raise UserError(
            f"{chosen.competition} is not generated: a trial needs challenges whose "
            "truth is known, as recipe demo has them"
        )
    folder, rows = command.paths(options).trial(chosen.name), []
    for seed in range(options.first_seed, options.first_seed + options.challenges):
        rows.append(row(measure(seed, folder, options)))
        console.say(
            ", ".join(
                f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in rows[-1].items()
            )
        )
    table = pd.DataFrame(rows)
    settings = ", ".join(options.overrides) or "as in the recipe"
    artifacts.write_text(folder / "table.csv", table.to_csv(index=False))
    artifacts.write_text(
        folder / "table.md",
        f"Recipe {chosen.name}; settings: "
        f"{settings}.\n\n{summary(table)}\n\n{figures.markdown(table)}\n",
    )
    console.say(summary(table))
    console.summary(f"measured {len(table)} challenges: {folder}/table.csv, table.md")


if __name__ == "__main__":
    command.run(main, parser())
