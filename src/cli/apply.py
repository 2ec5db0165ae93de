"""Predict new wells or photographs with a model folder that make bundle wrote, or its zip.

Usage: make apply MODEL=models/corroseg_quick INPUT=FOLDER OUTPUT=out, or python -m src.cli.apply
MODEL INPUT OUTPUT [--probabilities]. INPUT is a file or a folder: of wells .npy or .csv (rows x 36
or 72 numbers), or patches as the challenge packs them; of photographs images of any sizes. OUTPUT
gets masks/, the run-length and the organisers' CSV, and what is said of each well or photograph as
JSON; OUTPUT/work/ holds what is needed to go on after an interruption, and may be removed.
"""

import argparse
from pathlib import Path

from src.modality import open_model
from src.stages.apply import apply
from src.tasks.parallel import Options
from src.terminal import command, console
from src.terminal.errors import UserError


def main(options: argparse.Namespace) -> None:
    places = (options.model, options.input, options.output)
    # workers of a cluster start elsewhere
    model, new, output = (path.absolute() for path in places) if options.cluster else places
    if new.resolve() in output.resolve().parents:
        raise UserError(f"{output} lies in {new}: its masks would be taken for new data")
    run = open_model(model, new, output)
    console.keep(run.log)
    result = apply(run, Options.of(options, output), options.probabilities)
    told = f"{len(result['images'])} predicted: {output / 'masks'}, {run.submission()}"
    if result["refused"]:
        raise UserError(f"{len(result['refused'])} files could not be read; {told}")
    console.summary(told)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL", help="a model folder or its zip")
    arguments.add_argument("input", type=Path, metavar="INPUT", help="a file or folder of new data")
    arguments.add_argument("output", type=Path, metavar="OUTPUT", help="a folder for the results")
    arguments.add_argument(
        "--probabilities",
        action="store_true",
        help="also probabilities/: 16-bit PNG of photographs, .npy of wells",
    )
    command.add_places(arguments)
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
