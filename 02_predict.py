"""Stage 02: every trained task predicts the test set -> test.h5 beside its weights."""

import argparse

from src.stages.opening import open_run
from src.stages.predict import predict
from src.tasks.parallel import Options
from src.terminal import command


def main(options: argparse.Namespace) -> None:
    predict(open_run(options), Options.of(options), options.force)
    command.then("03_ensemble.py")


if __name__ == "__main__":
    command.run(main, command.stage_parser(__doc__))
