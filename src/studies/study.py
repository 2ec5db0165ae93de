"""A study: variations of a recipe, each run as a normal run, compared in one table and one plot.

Every variation is trained twice: by the CorroSeg paper's protocol (one random fifth of the patches
held out, the epoch picked on it, soft IoU) and by the honest one (folds by well, fixed epochs, the
official score). Usage: python -m src.studies.study NAME [--only VARIATION] [--protocol paper|wells]
[--epochs N] [--patches N] [--seeds N].
"""

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, ValidationError, model_validator

from src import artifacts, competitions, networks, recipe
from src.artifacts import Paths
from src.artifacts.files import locked
from src.recipe import RECIPES, Count, Recipe, Section
from src.report import figures
from src.scoring import metrics
from src.studies import comparing, pruned, pruned_figures
from src.tasks import parallel, progress
from src.terminal import command, console
from src.terminal.errors import UserError, did_you_mean
from src.training import checkpoints, loop
from src.wells import prediction, preparation, refinement, selection

STUDIES = RECIPES / "studies"
PAPER = [
    'folds={ scheme = "random", count = 5, run = [0] }',
    'member.selection="best_on_held_out"',
    "member.patience=20",
]
PROTOCOLS = {"paper": PAPER, "wells": []}
TITLES = {"paper": figures.RANDOM_SPLIT, "wells": figures.WELLS_HELD_OUT}


class Variation(Section):
    """A name for the table, and what it changes in the base recipe, as for --set; it may start from
    another base.

    `members` keeps only those members of the base.
    """

    name: str
    base: str | None = None
    members: list[str] | None = Field(default=None, min_length=1)
    set: list[str] = Field(default=[])


class Axis(Section):
    """One of several choices that are combined with those of every other axis."""

    options: list[Variation] = Field(alias="option", min_length=1)


class Study(Section):
    """`question` heads the table; `set` and `members` hold for every variation, unless one names
    `members` of its own; `seeds` is how many seeds each gets.

    Besides the variations that are listed there is one for each combination of the axes' options,
    should there be axes.
    """

    question: str
    base: str
    members: list[str] | None = Field(default=None, min_length=1)
    seeds: Count = 1
    set: list[str] = Field(default=[])
    listed: list[Variation] = Field(alias="variation", default=[])
    axes: list[Axis] = Field(alias="axis", default=[])

    @model_validator(mode="after")
    def check(self) -> "Study":
        if not self.variations:
            raise ValueError("a study needs a variation or an axis")
        return self

    @property
    def variations(self) -> list[Variation]:
        return [
            *self.listed,
            *(
                _combined(options)
                for options in product(*(axis.options for axis in self.axes))
                if options
            ),
        ]


def _combined(options: Sequence[Variation]) -> Variation:
    base = next((option.base for option in options if option.base), None)
    return Variation(
        name=", ".join(option.name for option in options),
        base=base,
        set=[line for option in options for line in option.set],
    )


@dataclass(frozen=True)
class Run:
    """One variation under one protocol."""

    variation: str
    protocol: str
    recipe: Recipe


def load(name: str) -> Study:
    """The study called `name` in recipes/studies/, or the file at that path.

    Raises:
        UserError: there is none, or it is not written as a study.
    """
    path = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    if not path.is_file():
        raise UserError(
            f"no study at {path}: "
            f"{did_you_mean(name, [file.stem for file in STUDIES.glob('*.toml')])}"
        )
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UserError(f"{path}: {error}") from None


def only(study: Study, names: list[str] | None) -> Study:
    """The study with no other variations than `names`, where there are any.

    Raises:
        UserError: a name that no variation has.
    """
    known = [variation.name for variation in study.variations]
    for name in names or []:
        if name not in known:
            raise UserError(f"--only {name}: {did_you_mean(name, known)}")
    kept = [variation for variation in study.variations if not names or variation.name in names]
    return study.model_copy(update={"listed": kept, "axes": []})


def runs(
    study: Study, shrink: list[str], seeds: int, protocols: Sequence[str] = tuple(PROTOCOLS)
) -> list[Run]:
    """Every variation under the protocols; `shrink` are overrides that come last.

    Runs that train alike share one folder, and runs of the same folds and patches one prepared
    file: both are named by digest.
    """
    result = []
    for variation in study.variations:
        base = variation.base or study.base
        for protocol in protocols:
            own = [
                *study.set,
                *variation.set,
                *PROTOCOLS[protocol],
                *shrink,
                f"seeds={list(range(seeds))}",
            ]
            chosen = _with_members(recipe.load(base, own), variation.members or study.members)
            data = artifacts.digest(chosen.data, chosen.folds)[:8]
            trained = artifacts.digest(data, chosen.inference, *chosen.members)[:8]
            names = [f"name=study_{chosen.name}_{trained}", f"prepared={chosen.competition}_{data}"]
            named = recipe.load(base, [*own, *names]).model_copy(update={"members": chosen.members})
            result.append(Run(variation.name, protocol, named))
    return result


def _with_members(base: Recipe, names: list[str] | None) -> Recipe:
    """The recipe with no other members than `names`.

    Raises:
        UserError: a name that no member has.
    """
    known = [member.name for member in base.members]
    for name in names or []:
        if name not in known:
            raise UserError(
                f"recipe {base.name} has no member '{name}': {did_you_mean(name, known)}"
            )
    return base.model_copy(
        update={"members": [member for member in base.members if not names or member.name in names]}
    )


def prepare(all_runs: list[Run], folder: Path, options: argparse.Namespace) -> None:
    """Run stage 00 for every prepared file that the runs need."""
    for run in {run.recipe.prepared: run for run in all_runs}.values():
        file = folder / "recipes" / f"{run.recipe.name}.toml"
        artifacts.write_text(file, recipe.to_toml(run.recipe))
        stage = [
            sys.executable,
            str(RECIPES.parent / "00_prepare_data.py"),
            str(file),
            "--data-dir",
            str(options.data_dir),
        ]
        if subprocess.run(stage, stdout=subprocess.DEVNULL).returncode:
            raise UserError(f"study: preparing the data of {file} failed; the line above says why")


def train(all_runs: list[Run], folder: Path, options: argparse.Namespace) -> None:
    """Prepare what is missing and train every run, all in one task table."""
    prepare(all_runs, folder, options)
    paths = command.paths(options)
    # of those that have their training before pruning in common, the first goes first
    costs, first, later = {}, {}, []
    table = {(run.recipe.name, task) for run in all_runs for task in run.recipe.tasks()}
    with ExitStack() as stack:
        # each task has a lock of its own
        for run in {run.recipe.prepared: run for run in all_runs}.values():
            stack.enter_context(
                locked(paths.prepared_lock(run.recipe), paths.prepared(run.recipe), shared=True)
            )
        workers = parallel.workers(options, len(table), options.gpus_per_task)
        for run in {run.recipe.name: run for run in all_runs}.values():
            prepared = preparation.check(run.recipe, paths)
            loop.check(run.recipe, paths, workers.gpus)
            to_do = [
                task
                for task in run.recipe.tasks()
                if not loop.is_done(run.recipe, task, paths, prepared)
            ]
            costs |= {
                (run.recipe.name, name): progress.cost(run.recipe.member(name), True)
                for name in {task.member for task in to_do}
            }
            for task in to_do:
                _, dense = checkpoints.dense_from(
                    run.recipe, task, paths, prediction.weights_from(run.recipe, task, prepared)
                )
                call = (
                    run.recipe,
                    task,
                    paths,
                    prepared,
                    workers.device,
                    workers.threads,
                    workers.gpus,
                )
                if (
                    not run.recipe.member(task.member).prunings
                    or first.setdefault(dense, call) is not call
                ):
                    later.append(call)
        console.say(
            f"{len(table)} tasks on {workers}, {len(table) - len(first) - len(later)} of "
            "them up to date"
        )
        for calls in (list(first.values()), later):
            shares = [paths.progress(*call[:2]) for call in calls]
            lengths = [costs[chosen.name, task.member] for chosen, task, *_ in calls]
            workers.run(loop.run_task, calls, shares, lengths, "study")


def scores(run: Run, paths: Paths, seeds: list[int]) -> dict[str, float]:
    """The score of the average of some seeds: soft IoU under the paper's protocol, else the
    official score with nested choices.

    It is called by the protocol's title; where whole wells are held out, each fold's own score
    follows, called by its wells.
    """
    chosen = run.recipe.model_copy(update={"seeds": seeds})
    oof = selection.average(selection.oof_files(chosen, paths))
    arrays = prediction.read_split(paths, chosen, "train", "mask", "fold")
    arrays = prediction.rows_of(
        arrays, np.isin(arrays["fold"], chosen.folds.run or range(chosen.folds.number))
    )
    arrays = selection.scored(arrays, oof["name"], paths.task(chosen, chosen.tasks()[0]))
    if run.protocol == "paper":
        return {TITLES[run.protocol]: metrics.soft_iou(oof["probability"][:, 0], arrays["mask"])}
    score_of = competitions.get(chosen.competition).score
    arrays["probability"] = oof["probability"][:, 0]
    best = refinement.choose(
        [arrays], selection.thresholds([arrays], score_of), chosen.postprocess, score_of
    )
    score, _ = refinement.assess(arrays, best, chosen.postprocess, score_of)
    result = {TITLES[run.protocol]: float(score.mean())}
    for fold in np.unique(arrays["fold"]) if chosen.folds.scheme == "group" else ():
        own = arrays["fold"] == fold
        result["wells " + ", ".join(map(str, np.unique(arrays["group"][own])))] = float(
            score[own].mean()
        )
    return result


def curves(run: Run, paths: Paths) -> pd.DataFrame:
    """The training histories of a run's tasks, one below the other, with `fold` and `seed`."""
    parts = [
        pd.read_csv(paths.history(run.recipe, task)).assign(fold=task.fold, seed=task.seed)
        for task in run.recipe.tasks()
    ]
    return pd.concat(parts, ignore_index=True)


def row(variation: str, own: dict[str, Run], paths: Paths) -> dict[str, Any]:
    """A line of the table: each score as mean and standard deviation over single seeds, and for the
    average of all seeds.

    The scores of the folds come last, mean and deviation in one cell.
    """
    any_run = next(iter(own.values())).recipe
    seeds = any_run.seeds
    parameters = sum(
        w.numel()
        for member in any_run.members
        for w in networks.sketch(member.network).parameters()
    )
    line: dict[str, Any] = {"variation": variation, "parameters (M)": f"{parameters / 1e6:.3f}"}
    folds: dict[str, str] = {}
    for protocol in own:
        title = TITLES[protocol]
        single = pd.DataFrame([scores(own[protocol], paths, [seed]) for seed in seeds])
        mean, deviation = single.mean(), single.std(ddof=1)  # of one seed: not a number
        line[title], line[f"{title}, deviation over seeds"] = (
            float(mean[title]),
            float(deviation[title]),
        )
        line[f"{title}, seeds averaged"] = scores(own[protocol], paths, list(seeds))[title]
        spread = {name: f" ± {deviation[name]:.4f}" if len(seeds) > 1 else "" for name in single}
        folds |= {name: f"{mean[name]:.4f}{spread[name]}" for name in single if name != title}
    if any(member.prunings for member in any_run.members):
        line["weights left (M)"] = f"{weights_left(next(iter(own.values())), paths) / 1e6:.3f}"
    line["seeds"] = len(seeds)
    line["training operations for a patch (G)"] = round(training_operations(any_run) / 1e9, 1)
    line["training (s)"] = round(
        sum(float(curves(run, paths)["seconds"].sum()) for run in own.values())
    )
    return line | folds


def weights_left(run: Run, paths: Paths) -> int:
    """Parameters that pruning has left, of all members together; those of the first fold and
    seed.
    """
    first = {task.member: task for task in reversed(run.recipe.tasks())}
    histories = [pd.read_csv(paths.history(run.recipe, task)) for task in first.values()]
    dense = [
        sum(w.numel() for w in networks.sketch(run.recipe.member(name).network).parameters())
        for name in first
    ]
    return sum(
        int(history["weights"].iloc[-1]) if "weights" in history else all_of_it
        for history, all_of_it in zip(histories, dense, strict=True)
    )


def training_operations(recipe: Recipe) -> float:
    """What one seed spends on a training patch: forward and backward passes of all members over
    all epochs and copies.
    """
    return sum(36 * progress.cost(member, training=True) for member in recipe.members)


def parser() -> argparse.ArgumentParser:
    arguments = command.parser(__doc__)
    arguments.add_argument("--epochs", type=int, help="every phase this long instead")
    arguments.add_argument(
        "--patches", type=int, help="about so many training patches, from every well its share"
    )
    arguments.add_argument("--seeds", type=int, help="so many seeds")
    arguments.add_argument("--protocol", choices=PROTOCOLS, help="by this one alone, not by both")
    arguments.add_argument(
        "--only",
        action="append",
        metavar="VARIATION",
        help="this variation of the study; may be given several times",
    )
    return arguments


def of_photographs(study: Study) -> bool:
    return isinstance(
        competitions.get(recipe.load(study.base).competition), competitions.PhotoCompetition
    )


def protocols_of(study: Study) -> list[str]:
    """Photographs, and networks that are pruned, have the honest protocol alone; the other one is
    that of the CorroSeg paper.

    It picks the best epoch, which could be one before the pruning.
    """
    alone = of_photographs(study) or any(
        member.prunings for run in runs(study, [], 1, ["wells"]) for member in run.recipe.members
    )
    return ["wells"] if alone else list(PROTOCOLS)


def pruning_plots(
    table: pd.DataFrame,
    histories: dict[str, pd.DataFrame],
    recipes: dict[str, Recipe],
    paths: Paths,
) -> dict[str, Figure]:
    """The figures of a study of pruning, by the names of their files."""
    plots = {"plot": pruned_figures.by_sparsity(table)}
    curves = pruned_figures.through_phases(table, histories, recipes)
    if curves:
        plots["curves"] = curves
    for network in dict.fromkeys(table["network"]):
        plots[f"masks_{network.replace(', ', '_')}"] = pruned_figures.masks(
            table, network, recipes, paths
        )
    return plots


def main(options: argparse.Namespace) -> None:
    study, paths = only(load(options.recipe), options.only), command.paths(options)
    shrink = [f"member.phase.epochs={options.epochs}"] if options.epochs else []
    shrink += [f"data.patches={options.patches}"] if options.patches else []
    seeds = options.seeds or study.seeds
    photographs, known = of_photographs(study), protocols_of(study)
    if options.protocol and options.protocol not in known:
        raise UserError(
            f"--protocol {options.protocol}: this study has the protocol {known[0]} "
            "alone: it is one of photographs, or prunes"
        )
    protocols = [options.protocol] if options.protocol else known
    all_runs = runs(study, [*shrink, *options.overrides], seeds, protocols)
    folder = paths.study(Path(options.recipe).stem)
    console.keep(folder / "log.txt")
    train(all_runs, folder, options)

    grouped = {
        v.name: {run.protocol: run for run in all_runs if run.variation == v.name}
        for v in study.variations
    }
    prunes = any(member.prunings for run in all_runs for member in run.recipe.members)
    if photographs:
        device = prediction.choose_device(options.device)
        row_of = pruned.row if prunes else comparing.row
        table = pd.DataFrame(
            [row_of(name, own["wells"].recipe, paths, device) for name, own in grouped.items()]
        )
    else:
        table = pd.DataFrame([row(name, own, paths) for name, own in grouped.items()])
    shrunk = ", ".join([*shrink, *options.overrides]) or "as published"
    note = (
        f"{study.question}\n\nSettings: {shrunk}; {seeds} seed(s); device "
        f"{prediction.choose_device(options.device)}."
    )
    artifacts.write_text(folder / "table.csv", table.to_csv(index=False))
    artifacts.write_text(folder / "table.md", f"{note}\n\n{figures.markdown(table)}\n")
    histories = {name: curves(own[protocols[0]], paths) for name, own in grouped.items()}
    if photographs and prunes:
        plots = pruning_plots(
            table, histories, {name: own["wells"].recipe for name, own in grouped.items()}, paths
        )
    else:
        plots = {"plot": figures.study_plot(histories, table)}
    for name, figure in plots.items():
        with artifacts.replacing(folder / f"{name}.png") as partial:
            partial.write_bytes(figures.png(figure))
    console.say((folder / "table.md").read_text(encoding="utf-8"))
    console.summary(
        f"compared {len(grouped)} variations: {folder}/table.csv, table.md, "
        f"{', '.join(f'{name}.png' for name in plots)}"
    )


if __name__ == "__main__":
    command.run(main, parser())
