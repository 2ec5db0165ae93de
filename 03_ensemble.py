"""Stage 03: average all tasks by name, select out of fold -> data/ensembles/<recipe>.h5."""

import argparse

from src.stages.ensemble import ensemble
from src.stages.opening import open_run
from src.terminal import command


def main(options: argparse.Namespace) -> None:
    ensemble(open_run(options), options.force)
    command.then("04_postprocess.py")


if __name__ == "__main__":
    command.run(main, command.stage_parser(__doc__))
