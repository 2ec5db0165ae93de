"""A study: variations of a recipe, each run as a normal run, compared in one table and one plot.

Every variation is trained twice: by the CorroSeg paper's protocol (one random fifth of the patches held out, the epoch picked on it, soft
IoU) and by the honest one (folds by well, fixed epochs, the official score). Usage: python -m src.study NAME [--epochs N] [--patches N]
[--seeds N].
"""

import argparse
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field, ValidationError

from src import (
    artifacts,
    command,
    competitions,
    ensemble,
    inference,
    metrics,
    networks,
    parallel,
    preparation,
    recipe,
    refine,
    report,
    training,
)
from src.artifacts import Paths
from src.errors import UserError, did_you_mean
from src.recipe import RECIPES, Count, Recipe, Section

STUDIES = RECIPES / "studies"
PAPER = [
    'folds={ scheme = "random", count = 5, run = [0] }',
    'member.selection="best_on_held_out"',
    "member.patience=20",
]
PROTOCOLS = {"paper": PAPER, "wells": []}


class Variation(Section):
    """A name for the table, and what it changes in the base recipe, as for --set."""

    name: str
    set: list[str] = Field(default=[])


class Study(Section):
    """`question` heads the table; `set` holds for every variation; `seeds` is how many seeds each gets."""

    question: str
    base: str
    seeds: Count = 1
    set: list[str] = Field(default=[])
    variations: list[Variation] = Field(alias="variation", min_length=1)


@dataclass(frozen=True)
class Run:
    """One variation under one protocol."""

    variation: str
    protocol: str
    recipe: Recipe


def load(name: str) -> Study:
    """The study called `name` in recipes/studies/.

    Raises:
        UserError: there is none, or it is not written as a study.
    """
    path = STUDIES / f"{name}.toml"
    if not path.is_file():
        raise UserError(f"no study at {path}: {did_you_mean(name, [file.stem for file in STUDIES.glob('*.toml')])}")
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UserError(f"{path}: {error}") from None


def runs(name: str, study: Study, shrink: list[str], seeds: int) -> list[Run]:
    """Every variation under both protocols; `shrink` are overrides that come last.

    Runs that share folds and patches share a prepared file, which is named after them.
    """
    result = []
    for number, variation in enumerate(study.variations):
        for protocol, changes in PROTOCOLS.items():
            own = [*study.set, *variation.set, *changes, *shrink, f"seeds={list(range(seeds))}", f"name={name}-{number}-{protocol}"]
            chosen = recipe.load(study.base, own)
            tag = artifacts.digest(chosen.data, chosen.folds)[:8]
            result.append(Run(variation.name, protocol, recipe.load(study.base, [*own, f"prepared={chosen.competition}_{tag}"])))
    return result


def train(all_runs: list[Run], folder: Path, options: argparse.Namespace) -> None:
    """Prepare what is missing and train every run, all in one task table."""
    paths, device = command.paths(options), inference.choose_device(options.device)
    for run in {run.recipe.prepared: run for run in all_runs}.values():
        file = folder / "recipes" / f"{run.recipe.name}.toml"
        artifacts.write_text(file, recipe.to_toml(run.recipe))
        stage = [sys.executable, "00_prepare_data.py", str(file), "--data-dir", str(options.data_dir)]
        if subprocess.run(stage, stdout=subprocess.DEVNULL, cwd=RECIPES.parent).returncode:
            raise UserError(f"study: preparing the data of {file} failed; the line above says why")
    calls, progress = [], []
    table = [(run.recipe, task) for run in all_runs for task in run.recipe.tasks()]
    jobs, threads = parallel.share_out(len(table), options.jobs, device)
    for run in all_runs:
        prepared = preparation.check(run.recipe, paths)
        training.check(run.recipe, paths)
        to_do = [task for task in run.recipe.tasks() if not training.is_done(run.recipe, task, paths, prepared)]
        calls += [(run.recipe, task, paths, prepared, device, threads) for task in to_do]
        progress += [paths.progress(run.recipe, task) for task in to_do]
    print(f"{len(table)} tasks on {device}, {len(table) - len(calls)} of them up to date")
    parallel.run(training.run_task, calls, progress, jobs, threads, "study")


def scores(run: Run, paths: Paths) -> list[float]:
    """The score of each seed: soft IoU under the paper's protocol, the official score with nested choices under the honest one."""
    chosen = run.recipe
    train_arrays = inference.read_split(paths, chosen, "train", "mask", "fold")
    result = []
    for seed in chosen.seeds:
        oof = ensemble.average(ensemble.oof_files(chosen.model_copy(update={"seeds": [seed]}), paths))
        rows = np.isin(train_arrays["fold"], chosen.folds.run or range(chosen.folds.number))
        scored = ensemble.scored(inference.rows_of(train_arrays, rows), oof["name"], paths.task(chosen, chosen.tasks()[0]))
        if run.protocol == "paper":
            result.append(metrics.soft_iou(oof["probability"][:, 0], scored["mask"]))
            continue
        score_of = competitions.get(chosen.competition).score
        choice = ensemble.choose(ensemble.threshold_scores(oof["probability"], scored["mask"], score_of), scored["fold"])
        thresholds = ensemble.describe_thresholds(choice)
        result.append(float(refine.choose(scored, oof["probability"][:, 0], thresholds, chosen.postprocess, score_of).score.mean()))
    return result


def curves(run: Run, paths: Paths) -> pd.DataFrame:
    """The training histories of a run's tasks, one below the other, with `fold` and `seed`."""
    parts = [
        pd.read_csv(paths.task(run.recipe, task) / "history.csv").assign(fold=task.fold, seed=task.seed) for task in run.recipe.tasks()
    ]
    return pd.concat(parts, ignore_index=True)


def row(variation: str, own: dict[str, Run], paths: Paths) -> dict[str, Any]:
    """A line of the table."""
    with torch.device("meta"):
        sizes = [
            sum(
                w.numel()
                for w in networks.create(
                    member.network | {"pretrained": False} if "pretrained" in member.network else member.network
                ).parameters()
            )
            for member in own["wells"].recipe.members
        ]
    paper, wells = (scores(own[protocol], paths) for protocol in ("paper", "wells"))
    seconds = sum(float(curves(run, paths)["seconds"].sum()) for run in own.values())
    return {
        "variation": variation,
        "parameters (M)": round(sum(sizes) / 1e6, 3),
        "paper's protocol: soft IoU": float(np.mean(paper)),
        "± (soft)": float(np.std(paper)),
        "wells held out: official": float(np.mean(wells)),
        "± (official)": float(np.std(wells)),
        "seeds": len(wells),
        "training (s)": round(seconds),
    }


def parser() -> argparse.ArgumentParser:
    arguments = command.parser(__doc__)
    arguments.add_argument("--epochs", type=int, help="every phase this long instead")
    arguments.add_argument("--patches", type=int, help="about so many training patches, from every well its share")
    arguments.add_argument("--seeds", type=int, help="so many seeds")
    return arguments


def main(options: argparse.Namespace) -> None:
    study, paths = load(options.recipe), command.paths(options)
    shrink = [f"member.phase.epochs={options.epochs}"] if options.epochs else []
    shrink += [f"data.patches={options.patches}"] if options.patches else []
    seeds = options.seeds or study.seeds
    all_runs = runs(options.recipe, study, [*shrink, *options.overrides], seeds)
    folder = paths.data / "studies" / options.recipe
    train(all_runs, folder, options)

    grouped = {v.name: {run.protocol: run for run in all_runs if run.variation == v.name} for v in study.variations}
    table = pd.DataFrame([row(name, own, paths) for name, own in grouped.items()])
    shrunk = ", ".join([*shrink, *options.overrides]) or "as published"
    note = f"{study.question}\n\nSettings: {shrunk}; {seeds} seed(s); device {inference.choose_device(options.device)}."
    artifacts.write_text(folder / "table.csv", table.to_csv(index=False))
    artifacts.write_text(folder / "table.md", f"{note}\n\n{report.markdown(table)}\n")
    histories = {name: curves(own["paper"], paths) for name, own in grouped.items()}
    with artifacts.replacing(folder / "plot.png") as partial:
        partial.write_bytes(report.png(report.study_plot(histories, table)))
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"{folder}/table.csv, table.md, plot.png")


if __name__ == "__main__":
    command.run(main, parser())
