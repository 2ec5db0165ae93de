"""Pack a finished run into a model folder, models/<recipe>/, that predicts new data by itself.

Usage: make bundle RECIPE=corroseg_quick, or python -m src.cli.bundle RECIPE [--models-dir models]
[--zip]. It needs all five stages up to date.
"""

import argparse
from pathlib import Path

from src.stages.bundle import bundle
from src.stages.opening import open_run
from src.terminal import command


def main(options: argparse.Namespace) -> None:
    run = open_run(options)
    bundle(run, options.models_dir / run.recipe.name, options.zip)


def parser() -> argparse.ArgumentParser:
    arguments = command.parser(__doc__)
    arguments.add_argument(
        "--models-dir", type=Path, default=Path("models"), help="default: models"
    )
    arguments.add_argument("--zip", action="store_true", help="also models/<recipe>.zip")
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
