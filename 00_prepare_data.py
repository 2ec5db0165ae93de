"""Stage 00: the organisers' raw patches or photographs -> data/prepared/<competition>.h5, clean arrays keyed by name."""

import argparse

from src import artifacts, command, competitions, console, preparation, recipe
from src.photographs import gallery


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    competition = competitions.get(chosen.competition)
    preparation.generate_raw(competition, chosen, paths, options.force)

    target = paths.prepared(chosen)
    inputs = preparation.created_from(competition, chosen, paths)
    if not options.force and artifacts.up_to_date(target, inputs):
        console.summary(f"{target} is up to date")
        return command.then("01_train_folds.py")

    prepare = gallery.prepare if isinstance(competition, competitions.PhotoCompetition) else preparation.prepare
    for line in prepare(competition, chosen, paths, inputs):
        console.tell(line)
    train, test = (artifacts.read_shape(target, f"{split}/image")[0] for split in ("train", "test"))
    console.summary(f"prepared {target}: {train} training and {test} test images")
    command.then("01_train_folds.py")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
