"""Stage 00: the organisers' raw patches -> data/prepared/<competition>.h5, clean arrays keyed by name."""

import argparse

from src import artifacts, command, competitions, preparation, recipe


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

    raw = competition.read(paths.raw(competition.name))
    train, test = preparation.clean(preparation.subset(raw.train, chosen.data.patches)), preparation.clean(raw.test)
    preparation.add_folds(train, chosen)
    scaling = preparation.scale(train, test, chosen.data.scaling)
    artifacts.write_splits(target, {"train": train, "test": test}, inputs, center=scaling.center.tolist(), scale=scaling.scale.tolist())

    print(*raw.notes, preparation.summary(train, test), sep="\n")
    print(f"{target} written; {command.then('01_train_folds.py')}")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
