"""Stage 00: raw patches or photographs -> clean arrays, data/prepared/<name>/{train,test}.h5."""

import argparse

from src.stages.opening import open_run
from src.stages.prepare import prepare
from src.terminal import command


def main(options: argparse.Namespace) -> None:
    prepare(open_run(options), options.force)
    command.then("01_train_folds.py")


if __name__ == "__main__":
    command.run(main, command.stage_parser(__doc__))
