"""Stage 01: members x folds x seeds -> weights and out-of-fold predictions of every task."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from src.artifacts import lineage
from src.artifacts.run import Run
from src.recipe import Task
from src.report import live, tracking
from src.stages.lengths import lengths, names
from src.tasks import progress
from src.tasks.parallel import Options, Workers, workers
from src.tasks.progress import Watch
from src.terminal import console
from src.training import task as training


def train(run: Run, options: Options, force: bool = False, track: Sequence[str] = ()) -> None:
    """Train every task that is not up to date, and let it predict its held-out fold.

    Args:
        track: the trackers that are given curves and pictures of all tasks.
    """
    tracking.check(track)
    lineage.check_prepared(run)  # before there is any folder for the locks
    with run.locked():
        lineage.check_prepared(run)
        run.modality.check(run)
        table = run.tasks()
        who = workers(options, len(table), options.gpus_per_task)
        training.check(run, who.gpus)
        if force:
            training.discard(run)
        to_do = [task for task in table if not lineage.is_trained(run, task)]
        done, began = len(table) - len(to_do), time.monotonic()
        console.say(f"{run.recipe.name}: {len(table)} tasks on {who}, {done} of them up to date")
        followed = live.Followed(run, to_do)
        with ExitStack() as stack:
            watch = [stack.enter_context(tracking.Tracking(followed, name)) for name in track]
            if to_do:
                console.detail(f"learning curves while it trains: {run.live}")
                watch.append(stack.enter_context(live.Page(followed)))
            fit(who, [(run, task) for task in to_do], "training", watch)
    console.summary(
        f"trained {len(to_do)} of {len(table)} tasks in {progress.since(began)}: {run.folder}"
    )


def fit(
    who: Workers, calls: list[tuple[Run, Task]], title: str, watch: Sequence[Watch] = ()
) -> None:
    """Run training tasks, of one run or of several."""
    who.run(
        training.run_task,
        [(run, task, who.device, who.threads, who.gpus) for run, task in calls],
        [run.progress(task) for run, task in calls],
        lengths(calls, training=True),
        title,
        names(calls),
        watch,
    )
