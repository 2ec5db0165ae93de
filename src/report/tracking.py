"""Trainings and scores for TensorBoard and MLflow, written with these libraries into the run's
folder: a log for each task, and one for the scores of stage 04.

They read what the tasks have written, in the process that runs the table: no artifact knows of
them.
"""

import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Real
from typing import Any, Protocol

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from src.artifacts import hdf5, lineage
from src.artifacts.digests import digest
from src.artifacts.run import Run
from src.artifacts.sealed import Inputs
from src.recipe import Task
from src.recipe.section import tree_of
from src.report import curves, figures
from src.report.live import Followed
from src.tasks.progress import Now
from src.terminal.errors import UserError

SHOWN, LOOKED_AT = 4, 16  # images of a task's picture, and those that they are chosen from


class Log(Protocol):
    """What a tracker keeps of a task or of a submission."""

    epochs: int  # that it has already

    def settings(self, settings: dict[str, Any]) -> None: ...

    def scalars(self, values: dict[str, float], step: int) -> None: ...

    def picture(self, name: str, image: np.ndarray) -> None:
        """An image (H, W, 3) uint8."""
        ...

    def flush(self) -> None: ...

    def close(self, whole: bool) -> None: ...


class Board:
    """A `Log` of TensorBoard: a folder, begun anew each time, for a history is always whole."""

    epochs = 0

    def __init__(self, run: Run, name: str, inputs: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard" / name
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(folder)

    def settings(self, settings: dict[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        # add_hparams would write them into a second file, and TensorBoard leave the first
        for part in hparams(settings, {"loss": 0.0}):
            self.writer.file_writer.add_summary(part)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray) -> None:
        self.writer.add_image(name, image, dataformats="HWC")

    def flush(self) -> None:
        self.writer.flush()

    def close(self, whole: bool) -> None:
        self.writer.close()


class Mlflow:
    """A `Log` of MLflow: a run, which goes on where one of the same inputs has ended."""

    def __init__(self, run: Run, name: str, inputs: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import ViewType

        self.client = MlflowClient((run.folder / "mlruns").absolute().as_uri())
        experiment = self.client.get_experiment_by_name(run.recipe.name)
        number = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment(run.recipe.name)
        )
        wanted = f"tags.inputs = '{inputs}'"
        found = self.client.search_runs([number], wanted, ViewType.ACTIVE_ONLY)
        tags = {"inputs": inputs, "mlflow.runName": name}
        own = found[0] if found else self.client.create_run(number, tags=tags)
        self.id = own.info.run_id
        self.client.update_run(self.id, "RUNNING")
        losses = self.client.get_metric_history(self.id, "loss")
        self.epochs = max((metric.step for metric in losses), default=0)

    def settings(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            self.client.log_param(self.id, name, value)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def picture(self, name: str, image: np.ndarray) -> None:
        self.client.log_image(self.id, image, f"{name}.png")

    def flush(self) -> None:
        pass

    def close(self, whole: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if whole else "KILLED")


LOGS = {"tensorboard": Board, "mlflow": Mlflow}
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny"}  # the smallest that will do


def check(names: Sequence[str]) -> None:
    """
    Raises:
        UserError: the library of a tracker is not there.
    """
    # MLflow wants to be told that its files are meant, and would speak to a server
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(
                f"--track {name}: the library is not there ({error}): "
                f"pip install {PACKAGES[name]}, or leave --track out"
            ) from None


class Tracking:
    """Gives a tracker the epochs of a training's tasks whenever it is called, and on leaving its
    block a picture of each task's out-of-fold predictions.
    """

    def __init__(self, followed: Followed, name: str) -> None:
        self.followed, self.run, self.name = followed, followed.run, name
        self.logs: dict[Task, Log] = {}

    def __enter__(self) -> "Tracking":
        return self

    def __call__(self, now: Now) -> None:
        self.update()

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is not None:
            for last in (self.update, partial(self.close, whole=False)):
                with suppress(Exception):  # of two errors the first is told
                    last()
            return
        with _told(self.name, "all tasks are trained"):
            self.followed.end()
            self.update()
            for task, log in self.logs.items():
                log.picture("out_of_fold", held_out_picture(self.run, task))
            self.close(whole=True)

    def update(self) -> None:
        """Write what the histories have more than the tracker."""
        for member, history in curves.histories(self.run, self.followed.trained).items():
            for (fold, seed), own in history.groupby(["fold", "seed"]):
                task = Task(member, int(fold), int(seed))
                log = self.logs.get(task) or self.begin(task)
                new = own[own["epoch"] > log.epochs].set_index("epoch")
                for epoch, line in new.drop(columns=["fold", "seed"]).iterrows():
                    numbers = {key: value for key, value in line.items() if _is_number(value)}
                    log.scalars(numbers, int(epoch))
                    log.epochs = int(epoch)
                log.flush()

    def begin(self, task: Task) -> Log:
        tree = tree_of(self.run.recipe.member(task.member), self.run.competition.kind)
        tree |= {"fold": task.fold, "seed": task.seed}
        name = f"{task.member}/fold{task.fold}_seed{task.seed}"
        inputs = lineage.weights(self.run, task)
        self.logs[task] = _begin(self.name, self.run, name, inputs, tree)
        return self.logs[task]

    def close(self, whole: bool) -> None:
        for log in self.logs.values():
            log.close(whole)


def scores(name: str, run: Run, result: dict[str, Any]) -> None:
    """Give a tracker the recipe, and what submissions/<recipe>.json says.

    Raises:
        UserError: it could not be written.
    """
    with _told(name, "the submission is written"):
        tree = tree_of(run.recipe, run.competition.kind)
        log = _begin(name, run, "scores", result["created_from"], tree)
        log.scalars(dict(_scores(result)), 0)
        log.close(whole=True)


@contextmanager
def _told(name: str, safe: str) -> Iterator[None]:
    """Whatever goes wrong with a tracker becomes one line, which says what is `safe`."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"--track {name}: {error}; {safe}, and the same command gives it to {name} again"
        ) from error


def _begin(tracker: str, run: Run, name: str, inputs: Inputs, tree: dict[str, Any]) -> Log:
    """A log with its settings; that of the same inputs and settings, where the tracker has one."""
    settings = dict(_flat(tree))
    log = LOGS[tracker](run, name, digest(json.dumps([inputs, settings], sort_keys=True)))
    log.settings(settings)
    return log


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _scores(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a submission: those of the whole, of each group and fold, of baselines."""
    for key, value in result.items():
        if _is_number(value):
            yield key, value
        elif key == "expected_interval":
            yield from zip((f"{key}/low", f"{key}/high"), value, strict=True)
        elif key.startswith(("oof_by", "test_by")):
            yield from ((f"{key}/{name}", row["score"]) for name, row in value.items())
        elif key.startswith("baselines_on"):
            yield from ((f"{key}/{name}", own) for name, own in value.items())


def _flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by their paths."""
    for key, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value if isinstance(value, (int, float)) else str(value)


def held_out_picture(run: Run, task: Task) -> np.ndarray:
    """Images of a task's held-out fold, with much of a defect where there are any, beside truth
    and the probability that the task predicts, (H, W, 3) uint8.
    """
    held_out = hdf5.read(run.oof(task), "name")["name"]
    looked_at = np.unique(np.linspace(0, len(held_out) - 1, LOOKED_AT).astype(int))
    row_of = {
        name: row for row, name in enumerate(hdf5.read(run.prepared("train"), "name")["name"])
    }
    with hdf5.reading(run.prepared("train")) as train, hdf5.reading(run.oof(task)) as oof:
        true = [int((train["mask"][row_of[held_out[n]]] > 0).sum()) for n in looked_at]
        shown = looked_at[np.argsort(true, kind="stable")[::-1][:SHOWN]]
        figure, grid = plt.subplots(
            len(shown), 3, figsize=(9, 3 * len(shown)), squeeze=False, layout="constrained"
        )
        for axes, n in zip(grid, shown, strict=True):
            row = row_of[held_out[n]]
            rows, columns = train["size"][row] if "size" in train else train["image"].shape[1:3]
            image = train["image"][row, :rows, :columns].astype(np.float32)
            image = image[..., :3].squeeze() if image.ndim == 3 else image
            likely = oof["probability"][n].astype(np.float32).max(0)
            likely = likely[:rows, :columns]
            truth = train["mask"][row].reshape(-1, *train["mask"].shape[-2:])[:, :rows, :columns]
            axes[0].imshow((image - image.min()) / max(np.ptp(image), 1e-6), cmap="gray")
            axes[0].set_title(held_out[n], fontsize=9)
            axes[1].imshow(truth.max(0) > 0, cmap="gray", vmin=0, vmax=1)
            axes[1].set_title("truth", fontsize=9)
            axes[2].imshow(likely, cmap="inferno", vmin=0, vmax=1)
            axes[2].set_title(f"probability up to {likely.max():.2f}", fontsize=9)
    for axis in grid.flat:
        axis.set_axis_off()
    return np.array(Image.open(io.BytesIO(figures.png(figure))).convert("RGB"))
