"""Stage 02: every trained task predicts the test set -> data/runs/<recipe>/<member>/fold<f>_seed<s>/test.h5."""

import argparse
import time

from src import artifacts, command, competitions, console, inference, parallel, preparation, progress, recipe
from src.photographs import predicting


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    device = inference.choose_device(options.device)
    prepared = preparation.check(chosen, paths)

    stage = predicting if isinstance(competitions.get(chosen.competition), competitions.PhotoCompetition) else inference
    predicted, began = 0, time.monotonic()
    for table in chosen.rounds():  # gates first: what they call clean need not be segmented
        inputs = {task: stage.test_from(chosen, task, paths, prepared) for task in table}
        to_do = [task for task in table if options.force or not artifacts.up_to_date(paths.test(chosen, task), inputs[task])]
        console.say(f"{chosen.name}: {len(table)} tasks on {device}, {len(table) - len(to_do)} of them up to date")
        jobs, threads = parallel.share_out(len(table), options.jobs, device)
        calls = [(chosen, task, paths, inputs[task], device, threads) for task in to_do]
        shares, lengths = [paths.progress(chosen, task) for task in to_do], progress.lengths(chosen, to_do, False)
        parallel.run(stage.predict_test, calls, shares, lengths, jobs, threads, "predicting")
        predicted += len(to_do)
    console.summary(f"predicted the test set with {predicted} of {len(chosen.tasks())} networks in {progress.since(began)}")
    command.then("03_ensemble.py")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
