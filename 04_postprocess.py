"""Stage 04: refine the ensemble, encode and check it -> submissions/<recipe>.csv, with its scores
(.json) and report (.html).
"""

import argparse

from src.stages.opening import open_run
from src.stages.submit import submit
from src.terminal import command


def main(options: argparse.Namespace) -> None:
    submit(open_run(options), options.force, options.track)


if __name__ == "__main__":
    command.run(main, command.stage_parser(__doc__))
