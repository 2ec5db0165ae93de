"""From a command line to the run that it means."""

import argparse

from src import modality, recipe
from src.artifacts.run import Run
from src.terminal import console


def open_run(options: argparse.Namespace) -> Run:
    """The recipe in its folders, with its competition; what is told from here on goes to its log.

    Args:
        options: by `src.terminal.command.parser`. Workers of a cluster start elsewhere: for them
            the data directory is given in full.

    Raises:
        UserError: the recipe cannot be.
    """
    chosen = recipe.load(options.recipe, options.overrides)
    data = options.data_dir.absolute() if options.cluster else options.data_dir
    run = modality.open_run(chosen, data, options.submissions_dir)
    console.keep(run.log)
    return run
