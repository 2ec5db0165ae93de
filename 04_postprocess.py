"""Stage 04: refine the ensemble, encode and check it -> submissions/<recipe>.csv, with its
scores (.json) and report (.html).
"""

import argparse

from src import artifacts, competitions, recipe
from src.photographs import submission as photographs_submission
from src.scoring import baselines
from src.terminal import command, console
from src.wells import page as wells_page
from src.wells import postprocessing, preparation, refinement, selection, submission


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    competition = competitions.get(chosen.competition)
    stage = (
        photographs_submission
        if isinstance(competition, competitions.PhotoCompetition)
        else postprocessing
    )
    with preparation.held(chosen, paths) as prepared:
        inputs = stage.created_from(chosen, paths, prepared)
        if options.force or not submission.is_done(chosen, paths, inputs):
            (
                photographs_submission.postprocess
                if stage is photographs_submission
                else postprocess
            )(chosen, competition, paths, inputs)
        else:
            console.say(f"{paths.submission(chosen)} is up to date")
        result = submission.read_scores(chosen, paths)
    console.tell(stage.table(result))
    console.say(
        f"scores: {paths.submission(chosen, '.json')}; report: {paths.submission(chosen, '.html')}"
    )
    console.say(f"run-length form: {paths.submission(chosen)}; log: {paths.log(chosen)}")
    console.summary(
        f"submission {paths.submission(chosen, '_official.csv')}: {submission.told(result)}"
    )


def postprocess(
    chosen: recipe.Recipe,
    competition: competitions.Competition,
    paths: artifacts.Paths,
    inputs: artifacts.CreatedFrom,
) -> None:
    settings, score = chosen.postprocess, competition.score
    notes = artifacts.read_notes(paths.ensemble(chosen))
    train, test = (selection.predicted(chosen, paths, split) for split in ("train", "test"))
    truth = postprocessing.read_truth(competition, test.index["name"], paths)
    test = test if truth is None else test.joined("mask", truth.__getitem__)

    best = refinement.choose(train, notes, settings, score)
    level = baselines.fit_intensity(train, score)
    train, _ = postprocessing.examined(train, best, level, settings, score)
    test, masks = postprocessing.examined(test, best, level, settings, score)
    submission.write(
        paths.submission(chosen),
        paths.submission(chosen, "_official.csv"),
        test.index["name"],
        masks,
        competition,
    )

    result = postprocessing.scores(chosen, competition, train.index, best, notes["threshold"])
    result |= postprocessing.expected(chosen, paths, train, test)
    result |= postprocessing.test_scores(test.index)
    page = wells_page.page(
        chosen, competition, paths, result, inputs, train, test, masks, best.at_thresholds
    )
    postprocessing.write(chosen, paths, result, inputs, page, postprocessing.picture(result, train))


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
