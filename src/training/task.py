"""One task of stage 01 in a process of its own: fit, then predict the held-out fold."""

import time
from collections.abc import Callable

import torch

from src import networks
from src.artifacts import lineage, predictions, sealed
from src.artifacts.files import locked, write_text
from src.artifacts.run import Run
from src.networks.devices import keep_memory, set_up_torch
from src.recipe import Task, to_toml
from src.terminal.errors import UserError
from src.training import checkpoints, ranks
from src.training.loop import Fit
from src.training.losses import of_phase


def check(run: Run, gpus: int = 1) -> None:
    """Let every network see an image once, without memory, so that what cannot work is found before
    anything is trained.

    Raises:
        UserError: an unknown network or option, images that a network cannot take, a loss that does
            not fit, or what several GPUs cannot do.
    """
    for member in run.recipe.members:
        if gpus > 1 and (member.prunings or member.selection != "last"):
            raise UserError(
                f"member '{member.name}': --gpus-per-task {gpus} takes neither "
                "pruning nor a selection of epochs: use 1"
            )
        for phase in member.phases:
            of_phase(phase, member.activation)
        network = networks.sketch(run.modality.network_options(run, member))
        channels, rows, columns = run.modality.input_shape(run, member)
        try:
            network(torch.empty(2, channels, rows, columns, device="meta"))
        except Exception as error:
            raise UserError(
                f"member '{member.name}': network '{member.network['name']}' cannot take "
                f"{channels} x {rows} x {columns} inputs ({error}): choose another size or network"
            ) from None


def discard(run: Run) -> None:
    """Remove what every task has made, so that it is made again; done at once, a run that is
    then killed can go on like any other.
    """
    for task in run.tasks():
        _, dense = checkpoints.dense(run, task)
        made = (run.weights, run.oof, run.checkpoint, run.progress)
        for path in (*(place(task) for place in made), dense):
            path.unlink(missing_ok=True)


def run_task(run: Run, task: Task, device: torch.device, threads: int, gpus: int = 1) -> None:
    """Fit a task and predict its held-out fold; whatever is up to date already is kept.

    Args:
        threads: CPU threads to use.
        gpus: to train on, from the current one on.
    """
    set_up_torch(threads)
    # the workers of a killed run may still be at it
    with locked(run.task(task) / ".lock", run.task(task)):
        if not sealed.up_to_date(run.weights(task), lineage.weights(run, task), quiet=True):
            write_text(run.saved_recipe(task), to_toml(run.recipe, run.competition.kind))
            ranks.run(gpus, device, fit_task, run, task, max(1, threads // gpus))
        run.checkpoint(task).unlink(missing_ok=True)  # it has served
        inputs = lineage.oof(run, task)
        if not sealed.up_to_date(run.oof(task), inputs, quiet=True):
            predicted = run.modality.predict(run, task, "train", device)
            # without its progress: after a training's, the bar would go back
            predictions.write(run.oof(task), predicted, inputs)
        run.progress(task).unlink(missing_ok=True)


def fit_task(run: Run, task: Task, threads: int, device: torch.device) -> None:
    """Fit a task on this device, alone or as one of the ranks that share it."""
    set_up_torch(threads)
    keep_memory()
    progress, due = run.progress(task), 0.0

    def report(share: float, words: Callable[[], str]) -> None:
        nonlocal due
        # who reads it looks twice a second, and words keep a GPU waiting
        if ranks.first() and time.monotonic() >= due:
            progress.write_text(f"{share:.4f} {words()}", encoding="utf-8")
            due = time.monotonic() + 0.5

    Fit(run, task, run.modality.training_set(run, task, device, threads), device).run(report)
