"""Stage 01: members x folds x seeds -> data/runs/<recipe>/<member>/fold<f>_seed<s>/, each
trained and predicting its held-out fold.
"""

import argparse
import time

from src import recipe
from src.tasks import parallel, progress
from src.terminal import command, console
from src.training import loop
from src.wells import preparation


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    with preparation.held(chosen, paths) as prepared:
        table = chosen.tasks()
        workers = parallel.workers(options, len(table), options.gpus_per_task)
        loop.check(chosen, paths, workers.gpus)
        if options.force:
            loop.discard(chosen, paths, prepared)
        to_do = [task for task in table if not loop.is_done(chosen, task, paths, prepared)]
        console.say(
            f"{chosen.name}: {len(table)} tasks on {workers}, {len(table) - len(to_do)} "
            "of them up to date"
        )
        calls = [
            (chosen, task, paths, prepared, workers.device, workers.threads, workers.gpus)
            for task in to_do
        ]
        shares, lengths, began = (
            [paths.progress(chosen, task) for task in to_do],
            progress.lengths(chosen, to_do, True),
            time.monotonic(),
        )
        workers.run(loop.run_task, calls, shares, lengths, "training")
    console.summary(
        f"trained {len(to_do)} of {len(table)} tasks in {progress.since(began)}: "
        f"{paths.log(chosen).parent}"
    )
    command.then("02_predict.py")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
