"""Stage 03: average all tasks by name, choose the threshold out of fold ->
data/ensembles/<recipe>.h5.
"""

import argparse

from src import artifacts, competitions, recipe
from src.photographs import ensembling
from src.terminal import command, console
from src.wells import preparation, selection


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    stage = (
        ensembling
        if isinstance(competitions.get(chosen.competition), competitions.PhotoCompetition)
        else selection
    )
    with preparation.held(chosen, paths) as prepared:
        inputs = stage.created_from(chosen, paths, prepared)
        target = paths.ensemble(chosen)
        if not options.force and artifacts.up_to_date(target, inputs):
            console.summary(f"{target} is up to date")
            return command.then("04_postprocess.py")
        *details, chose = stage.write(chosen, paths, prepared, inputs).splitlines()
    console.tell("\n".join(details))
    console.summary(f"averaged: {chose}")
    command.then("04_postprocess.py")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
