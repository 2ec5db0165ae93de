"""Stage 00: the organisers' raw patches or photographs -> data/prepared/<competition>.h5, clean
arrays keyed by name.
"""

import argparse

from src import artifacts, competitions, recipe
from src.artifacts.files import locked
from src.photographs import dataset
from src.terminal import command, console
from src.wells import preparation


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    competition = competitions.get(chosen.competition)
    target, lock = paths.prepared(chosen), paths.prepared_lock(chosen)
    with preparation.raw_held(competition, paths):
        with locked(lock, target, shared=True):  # to look is not to disturb those who read it
            done = not options.force and preparation.is_done(competition, chosen, paths)
        if not done:
            with locked(lock, target):
                # by another meanwhile
                done = not options.force and preparation.is_done(
                    competition, chosen, paths, quiet=True
                )
                if not done:
                    prepare(chosen, competition, paths, options.force)
    if done:
        console.summary(f"{target} is up to date")
    command.then("01_train_folds.py")


def prepare(
    chosen: recipe.Recipe,
    competition: competitions.Competition | competitions.PhotoCompetition,
    paths: artifacts.Paths,
    force: bool,
) -> None:
    if preparation.generates(competition):
        preparation.generate_raw(competition, chosen, paths, force)
    inputs = preparation.created_from(competition, chosen, paths)
    stage = dataset if isinstance(competition, competitions.PhotoCompetition) else preparation
    for line in stage.prepare(competition, chosen, paths, inputs):
        console.tell(line)
    target = paths.prepared(chosen)
    train, test = (artifacts.read_shape(target, f"{split}/image")[0] for split in ("train", "test"))
    console.summary(f"prepared {target}: {train} training and {test} test images")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
