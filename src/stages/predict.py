"""Stage 02: every trained task predicts the test set."""

import time

import torch

from src.artifacts import lineage, predictions
from src.artifacts.run import Run
from src.artifacts.sealed import up_to_date
from src.networks.devices import set_up_torch
from src.recipe import Task
from src.stages import ensemble
from src.stages.lengths import lengths
from src.tasks import progress
from src.tasks.parallel import Options, workers
from src.terminal import console


def predict(run: Run, options: Options, force: bool = False) -> None:
    """Predict the test set with every task that has not.

    Image classifiers go first: what they reject, at the threshold selected out of fold, need not be
    segmented.
    """
    lineage.check_prepared(run)
    finished, began = 0, time.monotonic()
    with run.locked():
        lineage.check_prepared(run)
        rounds = [table for role in ("classify", "segment") if (table := run.tasks(role))]
        for number, table in enumerate(rounds):
            if number:
                ensemble.select(run)
            stale = [t for t in table if force or not up_to_date(run.test(t), lineage.test(run, t))]
            who, done = workers(options, len(table)), len(table) - len(stale)
            console.say(
                f"{run.recipe.name}: {len(table)} tasks on {who}, {done} of them up to date"
            )
            calls = [(run, task) for task in stale]
            who.run(
                predict_task,
                [(*call, who.device, who.threads) for call in calls],
                [run.progress(task) for task in stale],
                lengths(calls, training=False),
                "predicting",
            )
            finished += len(stale)
    console.summary(
        f"predicted the test set with {finished} of {len(run.tasks())} networks in "
        f"{progress.since(began)}"
    )


def predict_task(run: Run, task: Task, device: torch.device, threads: int) -> None:
    """Predict the test set with one task's network."""
    set_up_torch(threads)
    predicted = run.modality.predict(run, task, "test", device)
    predictions.write(run.test(task), predicted, lineage.test(run, task), run.progress(task))
