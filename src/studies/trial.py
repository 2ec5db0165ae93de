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
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src import modality, recipe
from src.artifacts import sealed
from src.artifacts.digests import digest
from src.artifacts.files import locked, write_text
from src.artifacts.run import Run
from src.report import figures
from src.scoring import averaging, forecast
from src.scoring.metrics import scorer
from src.stages.ensemble import ensemble
from src.stages.predict import predict
from src.stages.prepare import prepare
from src.stages.submit import submit
from src.stages.train import train
from src.studies.tables import nested
from src.tasks.parallel import Options
from src.terminal import command, console
from src.terminal.errors import UserError
from src.wells.postprocess import selection

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
    own = [*options.overrides, f"generate.seed={seed}"]
    by_well = recipe.load(options.recipe, [*own, f"name=trial_{seed}"])
    by_patch = recipe.load(options.recipe, [*own, f"name=trial_{seed}_random", *RANDOM])
    target, inputs = place.with_suffix(".json"), {"recipes": digest(by_well, by_patch)}
    with locked(folder / f".seed{seed}.lock", target):
        if options.force or not sealed.up_to_date(target, inputs):
            place.mkdir(parents=True, exist_ok=True)
            honest, random = (modality.open_run(own, place, place) for own in (by_well, by_patch))
            shown = console.state()
            with (
                open(place / "log.txt", "a", encoding="utf-8") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                result = run_all(honest, Options.of(options))
                prepare(random)
                train(random, Options.of(options))
            console.resume(shown)
            measured = {"seed": seed, **scores(honest, result), "promise": promise(random)}
            sealed.write_json(target, measured, inputs)
            shutil.rmtree(place)
    return sealed.read_json(target)


def run_all(run: Run, options: Options) -> dict[str, Any]:
    """The five stages; returns what the last one says."""
    prepare(run)
    train(run, options)
    predict(run, options)
    ensemble(run)
    return submit(run)


def scores(run: Run, result: dict[str, Any]) -> Measured:
    """What the five stages measured: what `measure` returns, but for the promise."""
    average = averaging.of_ensemble(run, "oof")
    wells = selection.predicted(run, "train", average, "image", "valid", "mask")
    score, _ = nested(run, wells)
    index = wells.index
    own = {str(name): index["group"] == name for name in np.unique(index["group"])}
    return {
        "train": {name: score[at].round(5).tolist() for name, at in own.items()},
        "fold": {name: int(index["fold"][at][0]) for name, at in own.items()},
        "test": result["test_by_group"],
        "test_score": result["test_score"],
        "removed_by_averaging": result["removed_by_averaging"],
    }


def promise(run: Run) -> float:
    """The score of the held-out patches of a random split, at the threshold best on them."""
    score = scorer(run.competition.metric)
    parts = [
        selection.threshold_scores(block["probability"], block["mask"], score)
        for block in selection.predicted(run, "train", averaging.oof(run), "mask")
    ]
    return float(np.concatenate(parts, axis=1).mean(1).max())


def row(measured: Measured) -> dict[str, Any]:
    """A line of the table: the forecast from what was known before the test, beside the truth."""
    own = forecast.expect(*known(measured))
    return {
        "seed": measured["seed"],
        "forecast": own.score,
        "low": own.low,
        "high": own.high,
        "truth": measured["test_score"],
        "inside": "yes" if own.low <= measured["test_score"] <= own.high else "no",
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


def parser() -> argparse.ArgumentParser:
    arguments = command.parser(__doc__)
    command.add_force(arguments)
    arguments.add_argument("--challenges", type=int, default=24, help="how many (default: 24)")
    arguments.add_argument(
        "--first-seed", type=int, default=1, help="their seeds count up from here (default: 1)"
    )
    return arguments


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    run = modality.open_run(chosen, options.data_dir, options.submissions_dir)
    if run.competition.generate is None:
        raise UserError(
            f"{chosen.competition} is not generated: a trial needs challenges whose "
            "truth is known, as recipe demo has them"
        )
    folder, rows = options.data_dir / "trials" / chosen.name, []
    for seed in range(options.first_seed, options.first_seed + options.challenges):
        rows.append(row(measure(seed, folder, options)))
        cells = (
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in rows[-1].items()
        )
        console.say(", ".join(cells))
    table = pd.DataFrame(rows)
    settings = ", ".join(options.overrides) or "as in the recipe"
    head = f"Recipe {chosen.name}; settings: {settings}."
    write_text(folder / "table.csv", table.to_csv(index=False))
    text = f"{head}\n\n{summary(table)}\n\n{figures.markdown(table)}\n"
    write_text(folder / "table.md", text)
    console.say(summary(table))
    console.summary(f"measured {len(table)} challenges: {folder}/table.csv, table.md")


if __name__ == "__main__":
    command.run(main, parser())
