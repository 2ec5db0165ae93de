"""Stage 00: the organisers' raw patches or photographs -> data/prepared/<competition>.h5, clean arrays keyed by name."""

import argparse

from src import artifacts, command, competitions, preparation, recipe
from src.photographs import gallery


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    competition = competitions.get(chosen.competition)
    preparation.generate_raw(competition, chosen, paths, options.force)

    target = paths.prepared(chosen)
    inputs = preparation.created_from(competition, chosen, paths)
    if not options.force and artifacts.up_to_date(target, inputs):
        print(f"{target} is up to date")
        return

    prepare = gallery.prepare if isinstance(competition, competitions.PhotoCompetition) else preparation.prepare
    for line in prepare(competition, chosen, paths, inputs):
        print(line)
    print(f"{target} written; {command.then('01_train_folds.py')}")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
