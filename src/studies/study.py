"""A study: variations of a recipe, each run as a normal run, compared in one table and one plot.

Usage: python -m src.studies.study NAME [--only VARIATION] [--protocol paper|wells] [--epochs N]
[--patches N] [--seeds N]. Unless the study says otherwise every variation is trained twice: as in
the CorroSeg paper (random patches held out, here a fifth, the epoch picked on them, soft IoU) and
by the honest protocol (folds by well, fixed epochs, the official score).
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from src import modality, recipe
from src.artifacts import lineage
from src.artifacts.digests import digest
from src.artifacts.files import replacing, write_text
from src.artifacts.run import Run
from src.networks.devices import choose_device
from src.recipe import Recipe, Task
from src.report import figures
from src.stages.prepare import prepare
from src.stages.train import fit
from src.studies import backbones, photographs, pruning, pruning_figures, tables, walker
from src.studies.plots import study_plot
from src.studies.schema import PROTOCOLS, Study, load
from src.studies.severstal import defects, encoders
from src.studies.severstal import figures as severstal
from src.tasks.parallel import Options, workers
from src.terminal import command, console
from src.terminal.errors import UserError, did_you_mean
from src.training import checkpoints
from src.training import task as training


@dataclass(frozen=True)
class Part:
    """One variation under one protocol."""

    variation: str
    protocol: str
    run: Run


def parts(
    study: Study, shrink: list[str], seeds: int, protocols: Sequence[str], data: Path
) -> list[Part]:
    """Every variation under the protocols; `shrink` are overrides that come last.

    Runs that train alike share one folder, and runs of the same folds and patches one prepared
    folder: both are named by digest.
    """
    result = []
    for variation in study.variations:
        base = variation.base or study.base
        for protocol in protocols:
            own = [*study.set, *variation.set, *PROTOCOLS[protocol], *shrink]
            own.append(f"seeds={list(range(seeds))}")
            chosen = _with_members(recipe.load(base, own), variation.members or study.members)
            prepared = digest(chosen.data, chosen.folds)[:8]
            trained = digest(prepared, chosen.inference, *chosen.members)[:8]
            names = [f"name=study_{chosen.name}_{trained}"]
            names.append(f"prepared={chosen.competition}_{prepared}")
            named = recipe.load(base, [*own, *names])
            named = named.model_copy(update={"members": chosen.members})
            run = modality.open_run(named, data, data / "studies")
            result.append(Part(variation.name, protocol, run))
    return result


def _with_members(base: Recipe, names: list[str] | None) -> Recipe:
    """The recipe with no other members than `names`.

    Raises:
        UserError: a name that no member has.
    """
    known = [member.name for member in base.members]
    for name in names or []:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"recipe {base.name} has no member '{name}': {hint}")
    kept = [member for member in base.members if not names or member.name in names]
    return base.model_copy(update={"members": kept})


def train(runs: list[Run], options: Options) -> None:
    """Prepare what is missing and train every run, all in one task table.

    Of runs that have their training before pruning in common, the first goes first.
    """
    by_data = {run.recipe.prepared: run for run in runs}.values()
    for run in by_data:
        prepare(run)
    table = {(run.recipe.name, task) for run in runs for task in run.tasks()}
    first: dict[Path, tuple[Run, Task]] = {}
    later: list[tuple[Run, Task]] = []
    with ExitStack() as stack:
        for run in by_data:  # each task has a lock of its own
            stack.enter_context(run.locked_prepared())
        who = workers(options, len(table), options.gpus_per_task)
        for run in {run.recipe.name: run for run in runs}.values():
            lineage.check_prepared(run)
            run.modality.check(run)
            training.check(run, who.gpus)
            for task in run.tasks():
                if lineage.is_trained(run, task):
                    continue
                _, dense = checkpoints.dense(run, task)
                prunes, call = run.recipe.member(task.member).prunings, (run, task)
                if not prunes or first.setdefault(dense, call) is not call:
                    later.append(call)
        done = len(table) - len(first) - len(later)
        console.say(f"{len(table)} tasks on {who}, {done} of them up to date")
        for calls in (list(first.values()), later):
            fit(who, calls, "study")


def table_of(study: Study, grouped: dict[str, dict[str, Run]], device: str) -> pd.DataFrame:
    """A line for each variation, of its runs by protocol."""
    if study.table == "scores":
        return pd.DataFrame([tables.row(name, own) for name, own in grouped.items()])
    if study.table == "encoders":
        return pd.DataFrame([encoders.row(name, own["wells"]) for name, own in grouped.items()])
    if study.table == "photographs":
        return pd.DataFrame([photographs.row(name, own["wells"]) for name, own in grouped.items()])
    row_of = pruning.row if study.table == "pruning" else backbones.row
    on = choose_device(device)
    return pd.DataFrame([row_of(name, own["wells"], on) for name, own in grouped.items()])


def figures_of(
    study: Study, table: pd.DataFrame, grouped: dict[str, dict[str, Run]], device: str
) -> dict[str, Figure]:
    """The figures of a study, by the names of their files."""
    runs = {name: next(iter(own.values())) for name, own in grouped.items()}
    histories = {name: tables.history(run) for name, run in runs.items()}
    if study.table == "photographs":
        return {}
    if study.table == "encoders":
        return severstal.of_encoders(table, runs)
    if study.table == "backbones":
        return severstal.of_backbones(histories, runs, choose_device(device))
    if study.table != "pruning":
        plots = {"plot": study_plot(histories, table)}
        walked = {name: run for name, run in runs.items() if walker.on_patches(run)}
        return plots | ({"walk": walker.picture(walked)} if walked else {})
    pixels = pruning.label_pixels(next(iter(runs.values())))
    plots = {
        "plot": pruning_figures.by_sparsity(table),
        "labels": pruning_figures.label_shares(pixels),
        "first_stage": pruning_figures.first_stage(table, histories, runs),
        "curves": pruning_figures.through_phases(table, histories, runs),
        "curves_classes": pruning_figures.through_phases(table, histories, runs, "held_out_iou"),
    }
    plots = {name: figure for name, figure in plots.items() if figure}
    for network in dict.fromkeys(table["network"]):
        name = f"masks_{network.replace(', ', '_')}"
        plots[name] = pruning_figures.masks(table, network, runs)
    return plots


def parser() -> argparse.ArgumentParser:
    arguments = command.parser(__doc__)
    arguments.add_argument("--epochs", type=int, help="every phase this long instead")
    arguments.add_argument(
        "--patches", type=int, help="about so many training patches, from every well its share"
    )
    arguments.add_argument("--seeds", type=int, help="so many seeds")
    arguments.add_argument(
        "--protocol", choices=PROTOCOLS, help="by this one alone, not by all of the study's"
    )
    arguments.add_argument(
        "--only",
        action="append",
        metavar="VARIATION",
        help="this variation of the study; may be given several times",
    )
    return arguments


def main(options: argparse.Namespace) -> None:
    study = load(options.recipe).only(options.only)
    if options.protocol and options.protocol not in study.protocols:
        raise UserError(
            f"--protocol {options.protocol}: this study has {', '.join(study.protocols)} alone"
        )
    shrink = [f"member.phase.epochs={options.epochs}"] if options.epochs else []
    shrink += [f"data.patches={options.patches}"] if options.patches else []
    shrink += options.overrides
    seeds = options.seeds or study.seeds
    protocols = [options.protocol] if options.protocol else study.protocols
    data = options.data_dir.absolute() if options.cluster else options.data_dir
    everything = parts(study, shrink, seeds, protocols, data)
    folder = data / "studies" / Path(options.recipe).stem
    console.keep(folder / "log.txt")
    train([part.run for part in everything], Options.of(options))

    grouped = {
        variation.name: {p.protocol: p.run for p in everything if p.variation == variation.name}
        for variation in study.variations
    }
    table = table_of(study, grouped, options.device)
    how = ", ".join(shrink) or "as published"
    device = choose_device(options.device)
    note = f"{study.question}\n\nSettings: {how}; {seeds} seed(s); device {device}."
    write_text(folder / "table.csv", table.to_csv(index=False))
    text = f"{note}\n\n{figures.markdown(table)}\n"
    if study.table in ("backbones", "encoders"):
        labels = defects.table(next(iter(grouped.values()))["wells"])
        write_text(folder / "defects.csv", labels.to_csv(index=False))
        text += f"\nThe labels of the training photographs:\n\n{figures.markdown(labels)}\n"
    write_text(folder / "table.md", text)
    plots = figures_of(study, table, grouped, options.device)
    for name, figure in plots.items():
        with replacing(folder / f"{name}.png") as partial:
            partial.write_bytes(figures.png(figure))
    console.say((folder / "table.md").read_text(encoding="utf-8"))
    names = ", ".join(["table.csv", "table.md", *(f"{name}.png" for name in plots)])
    console.summary(f"compared {len(grouped)} variations: {folder}/{names}")


if __name__ == "__main__":
    command.run(main, parser())
