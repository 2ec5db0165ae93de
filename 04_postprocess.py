"""Stage 04: refine the ensemble, encode and check it -> submissions/<recipe>.csv, with its scores (.json) and report (.html)."""

import argparse

from src import (
    artifacts,
    baselines,
    command,
    competitions,
    console,
    ensemble,
    inference,
    postprocessing,
    preparation,
    recipe,
    refine,
    submission,
)
from src.page import wells
from src.photographs import submitting


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    console.keep(paths.log(chosen))
    competition = competitions.get(chosen.competition)
    stage = submitting if isinstance(competition, competitions.PhotoCompetition) else postprocessing
    with preparation.held(chosen, paths) as prepared:
        inputs = stage.created_from(chosen, paths, prepared)
        if options.force or not submission.is_done(chosen, paths, inputs):
            (submitting.postprocess if stage is submitting else postprocess)(chosen, competition, paths, inputs)
        else:
            console.say(f"{paths.submission(chosen)} is up to date")
        result = submission.read_scores(chosen, paths)
    console.tell(stage.table(result))
    console.say(f"scores: {paths.submission(chosen, '.json')}; report: {paths.submission(chosen, '.html')}")
    console.say(f"run-length form: {paths.submission(chosen)}; log: {paths.log(chosen)}")
    console.summary(f"submission {paths.submission(chosen, '_official.csv')}: {submission.told(result)}")


def postprocess(
    chosen: recipe.Recipe, competition: competitions.Competition, paths: artifacts.Paths, inputs: artifacts.CreatedFrom
) -> None:
    source = paths.ensemble(chosen)
    oof, predicted = (artifacts.read_split(source, split, ["name", "probability"]) for split in ("oof", "test"))
    train = ensemble.scored(inference.read_split(paths, chosen, "train", "mask", "fold"), oof["name"], source)
    test = inference.read_split(paths, chosen, "test")
    order = ensemble.rows_by_name(predicted["name"], test["name"], str(source))
    oof_probability, probability = oof["probability"][:, 0], predicted["probability"][order, 0]

    notes = artifacts.read_notes(source)
    best = refine.choose(train, oof_probability, notes, chosen.postprocess, competition.score)
    oof_mask = refine.apply(train, oof_probability, best, chosen.postprocess)
    mask = refine.apply(test, probability, best, chosen.postprocess)
    submission.write(paths.submission(chosen), paths.submission(chosen, "_official.csv"), test["name"], mask, competition)

    truth = postprocessing.read_truth(competition, test["name"], paths)
    level = baselines.fit_intensity(train["image"], train["mask"], competition.score)
    result = postprocessing.scores(chosen, competition, train, best, notes["threshold"], level)
    result |= postprocessing.expected(chosen, paths, train, oof_probability, best, test)
    result |= postprocessing.test_scores(competition, test, mask, truth, level)
    train |= {"probability": oof_probability, "prediction": oof_mask, "score": best.score}
    test |= {"probability": probability, "prediction": mask}
    test |= {} if truth is None else {"mask": truth, "score": competition.score(mask, truth)}
    page = wells.page(chosen, competition, paths, result, inputs, train, test)
    postprocessing.write(chosen, paths, result, inputs, page, postprocessing.picture(result, train))


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
