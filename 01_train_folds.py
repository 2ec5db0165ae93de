"""Stage 01: members x folds x seeds -> data/runs/<recipe>/<member>/fold<f>_seed<s>/.

Each task is trained, and predicts its held-out fold.
"""

import argparse

from src.stages.opening import open_run
from src.stages.train import train
from src.tasks.parallel import Options
from src.terminal import command


def main(options: argparse.Namespace) -> None:
    train(open_run(options), Options.of(options), options.force, options.track)
    command.then("02_predict.py")


if __name__ == "__main__":
    command.run(main, command.stage_parser(__doc__))
