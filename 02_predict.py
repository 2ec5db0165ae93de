"""Stage 02: every trained task predicts the test set ->
data/runs/<recipe>/<member>/fold<f>_seed<s>/test.h5.
"""

import argparse
import time

from src import artifacts, competitions, recipe
from src.photographs import prediction as photographs_prediction
from src.tasks import parallel, progress
from src.terminal import command, console
from src.wells import prediction, preparation


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    stage = (
        photographs_prediction
        if isinstance(competitions.get(chosen.competition), competitions.PhotoCompetition)
        else prediction
    )
    predicted, began = 0, time.monotonic()
    with preparation.held(chosen, paths) as prepared:
        for table in chosen.rounds():  # gates first: what they call clean need not be segmented
            inputs = {task: stage.test_from(chosen, task, paths, prepared) for task in table}
            to_do = [
                task
                for task in table
                if options.force or not artifacts.up_to_date(paths.test(chosen, task), inputs[task])
            ]
            workers = parallel.workers(options, len(table))
            console.say(
                f"{chosen.name}: {len(table)} tasks on {workers}, "
                f"{len(table) - len(to_do)} of them up to date"
            )
            calls = [
                (chosen, task, paths, inputs[task], workers.device, workers.threads)
                for task in to_do
            ]
            shares, lengths = (
                [paths.progress(chosen, task) for task in to_do],
                progress.lengths(chosen, to_do, False),
            )
            workers.run(stage.predict_test, calls, shares, lengths, "predicting")
            predicted += len(to_do)
    console.summary(
        f"predicted the test set with {predicted} of {len(chosen.tasks())} networks "
        f"in {progress.since(began)}"
    )
    command.then("03_ensemble.py")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
