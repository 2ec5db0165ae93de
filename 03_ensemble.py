"""Stage 03: average all tasks by name, choose the threshold out of fold -> data/ensembles/<recipe>.h5."""

import argparse

from src import artifacts, command, competitions, ensemble, inference, preparation, recipe


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    paths = command.paths(options)
    prepared = preparation.check(chosen, paths)
    inputs = ensemble.created_from(chosen, paths, prepared)
    target = paths.ensemble(chosen)
    if not options.force and artifacts.up_to_date(target, inputs):
        print(f"{target} is up to date")
        return

    oof = ensemble.average(ensemble.oof_files(chosen, paths))
    test = ensemble.average(ensemble.test_files(chosen, paths))
    train = inference.read_split(paths, chosen, "train", "mask", "fold")
    train = ensemble.scored(train, oof["name"], target)
    scores = ensemble.threshold_scores(oof["probability"], train["mask"], competitions.get(chosen.competition).score)
    choice = ensemble.choose(scores, train["fold"])
    notes = ensemble.describe_thresholds(choice)
    artifacts.write_splits(target, {"oof": oof, "test": test}, inputs, **notes)

    print(f"{target}: {len(oof['name'])} out-of-fold and {len(test['name'])} test patches from {len(chosen.tasks())} tasks")
    print(f"threshold {notes['threshold']:.2f}; out-of-fold score {choice.score.mean():.4f}, each fold at the threshold of the others")
    print(command.then("04_postprocess.py"))


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
