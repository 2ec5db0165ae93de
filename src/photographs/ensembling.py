"""Stage 03 for photographs: the averages of all tasks, with what was chosen out of fold."""

import numpy as np

from src import artifacts
from src.artifacts import CreatedFrom, Paths, streams
from src.photographs import selection
from src.photographs.averaging import oof_average, tasks_of, test_average
from src.photographs.dataset import Gallery
from src.photographs.prediction import test_from
from src.recipe import Recipe
from src.terminal.errors import UserError


def created_from(recipe: Recipe, paths: Paths, prepared: str) -> CreatedFrom:
    """What the ensemble is made from: the test predictions of every task, and by way of the choice
    the out-of-fold ones.

    Raises:
        UserError: predictions are missing, or of other weights or settings than today's.
    """
    selection.make(recipe, paths, prepared)
    files = [paths.choice(recipe)]
    for task in recipe.tasks():
        files.append(paths.test(recipe, task))
        if not artifacts.made_from(files[-1], test_from(recipe, task, paths, prepared)):
            raise UserError(
                f"{files[-1]} is missing or of other weights or settings: run "
                "02_predict.py with the same arguments first"
            )
    return {
        "prepared": prepared,
        "predictions": artifacts.digest(*map(artifacts.content_digest, files)),
    }


def write(recipe: Recipe, paths: Paths, prepared: str, inputs: CreatedFrom) -> str:
    """Write data/ensembles/<recipe>.h5, a photograph at a time; returns what the user should know.

    `oof` and `test` hold `name`, `size` and `probability` (N, K, H, W) float16, zero beyond a
    photograph's size; of the test set only what the gate let pass. With a gate, `gate/name` and
    `gate/probability` (N,) say what it thinks of every test photograph.
    """
    notes, counts = selection.make(recipe, paths, prepared), []
    with streams.streaming(paths.ensemble(recipe), inputs, **notes) as stream:
        for split, average in (
            ("oof", oof_average(recipe, paths, "segment")),
            ("test", test_average(recipe, paths, "segment")),
        ):
            gallery = Gallery.open(paths, recipe, "train" if split == "oof" else "test")
            rows = np.array(
                [row for row, name in enumerate(gallery.name) if name in average.names], np.int64
            )
            height, width = gallery.size[rows].max(0, initial=1)
            stream.put(f"{split}/name", gallery.name[rows])
            stream.put(f"{split}/size", gallery.size[rows])
            stream.create(
                f"{split}/probability", (len(rows), len(gallery.classes), height, width), np.float16
            )
            for number, row in enumerate(rows):
                stream.write(
                    f"{split}/probability", number, average.of(gallery.name[row]).astype(np.float16)
                )
            counts.append(len(rows))
        if tasks_of(recipe, "gate"):
            told = test_average(recipe, paths, "gate")
            stream.put("gate/name", gallery.name)
            stream.put(
                "gate/probability",
                np.array([told.of(name)[0, 0, 0] for name in gallery.name], np.float32),
            )
    score = artifacts.read_arrays(paths.choice(recipe), ["dice"])["dice"].mean()
    return (
        f"{paths.ensemble(recipe)}: {counts[0]} out-of-fold and {counts[1]} test photographs from "
        f"{len(recipe.tasks())} tasks\n"
        f"thresholds {notes['threshold']}, smallest components {notes['min_size']}, gate "
        f"{notes['gate']}; "
        f"out-of-fold Dice {score:.4f}, each fold under what is best on the others"
    )
