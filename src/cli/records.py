"""What the files of runs, studies and models tell of them, without torch and within a second.

Weights and scores are compared with their checksums; of large files only the beginning is read,
and that they are not cut off.
"""

import csv
import math
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from src import competitions, recipe
from src.artifacts import lineage, sealed
from src.artifacts.run import Run
from src.recipe import Recipe
from src.terminal import command
from src.terminal.errors import UserError

UNREADABLE = (*sealed.DAMAGE, AttributeError, LookupError, ArithmeticError, csv.Error)
LOGGED = re.compile(r"(?m)^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4})  (.*)")
COMMIT = re.compile(r"commit (\w+(?:-dirty)?)")
TRAINS = re.compile(r"\$ python \S*(01_train_folds|studies/study)\.py")
DONE = re.compile(r"trained [1-9]\d* of \d+ tasks|compared \d+ variations")
SUBMITTED = (".csv", "_official.csv", ".json", ".html", ".png")


@dataclass
class Row:
    """A run, a study or a model; what is None is not known.

    Args:
        tasks, trained: how many a run has, and how many of them are.
        when: it was trained, as the log has it.
        seconds: that its training took.
        commit: that trained it.
        bytes: of all its files.
        problems: what could not be read, and why.
    """

    kind: str
    recipe: str
    state: str = ""
    tasks: int | None = None
    trained: int | None = None
    when: str | None = None
    seconds: float | None = None
    commit: str | None = None
    metric: str | None = None
    oof_score: float | None = None
    expected_score: float | None = None
    expected_interval: list[float] | None = None
    test_score: float | None = None
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """What is damaged, or not what it should be, becomes a problem of the row."""
        try:
            yield
        except UserError as error:
            self.problems.append(command.one_line(str(error)))
        except UNREADABLE as error:
            told = f"{path} cannot be read ({type(error).__name__}: {error})"
            self.problems.append(command.one_line(told)[:200])

    def take_scores(self, content: dict[str, Any]) -> None:
        """The scores of submissions/<recipe>.json or of a model's decisions.json."""
        metric, interval = content.get("metric"), content.get("expected_interval")
        self.metric = None if metric is None else str(metric)
        for name in ("oof_score", "expected_score", "test_score"):
            setattr(self, name, _number(content.get(name)))
        if interval is not None:
            low, high = interval
            self.expected_interval = [_number(low), _number(high)]


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no score")
    return float(value)


def saved_recipe(folder: Path) -> Recipe | None:
    """The recipe that a run's folder was trained with last; None where nothing was trained.

    Raises:
        UserError: it cannot be read, or is another run's.
    """
    saved = folder.glob("*/fold*_seed*/recipe.toml")
    newest = max(saved, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    if newest is None:
        return None
    chosen = recipe.load(str(newest))
    if chosen.name != folder.name:
        raise UserError(f"{newest} is the recipe of {chosen.name}: not what belongs there")
    return chosen


def run_row(folder: Path, data: Path, submissions: Path) -> Row:
    """What a folder of data/runs/, and what was made of it, tell of a run."""
    row = Row("run", folder.name, "no task trained", bytes=_size(folder))
    if not folder.is_dir():
        row.problems.append(f"{folder} is no run: take it away")
    with row.reading(folder / "log.txt"):
        row.when, row.commit = _logged(folder / "log.txt")
    with row.reading(folder):
        chosen = saved_recipe(folder)
        if chosen:
            own = Run(chosen, data, submissions, competitions.get(chosen.competition), None)
            _take_run(row, own)
    return row


def _take_run(row: Row, run: Run) -> None:
    """State, time, scores and size of a run whose recipe is known."""
    table = run.tasks()
    trained = [task for task in table if _is_trained(row, run, task)]
    row.tasks, row.trained = len(table), len(trained)
    row.state = f"{row.trained} of {row.tasks} tasks"
    stale = 0
    for task in trained:
        row.seconds = (row.seconds or 0) + _seconds(row, run.history(task))
        with row.reading(run.weights(task)):
            stale += _is_stale(run, task)
    row.state += f", {stale} of other data or settings" if stale else ""
    if row.when is None and trained:
        row.when = _newest(map(run.weights, trained))
    files = [run.ensemble, run.selection, *map(run.submission, SUBMITTED)]
    row.bytes += sum(map(_size, files))
    scores = run.submission(".json")
    if _opens(row, run.ensemble) and _is_of(row, run, run.ensemble):
        row.state += ", ensembled"
    if scores.is_file():
        with row.reading(scores):
            row.take_scores(sealed.read_json(scores))
            row.state += ", submitted" if _is_of(row, run, scores) else ""


def _is_trained(row: Row, run: Run, task: recipe.Task) -> bool:
    weights = run.weights(task)
    if not weights.is_file() or not _opens(row, run.oof(task)):
        return False
    with row.reading(weights):
        return bool(sealed.verified(weights))
    return False


def _opens(row: Row, path: Path) -> bool:
    """Whether an HDF5 artifact is there, carries a checksum and is not cut off."""
    if not path.is_file():
        return False
    with row.reading(path):
        sealed.fingerprint(path)
        with h5py.File(path):
            return True
    return False


def _is_of(row: Row, run: Run, path: Path) -> bool:
    """Whether an artifact was made from the out-of-fold predictions that lie there."""
    with row.reading(path):
        if sealed.inputs_of(path)["oof"] == lineage.oof_as_found(run):
            return True
        row.problems.append(f"{path} is of other networks than those here: run 03 and 04 again")
    return False


def _is_stale(run: Run, task: recipe.Task) -> bool:
    """Whether the prepared file or the settings are other ones now than those of the weights."""
    if not run.prepared("train").is_file():
        return False  # who knows
    return sealed.inputs_of(run.weights(task)) != lineage.weights(run, task)


def _seconds(row: Row, history: Path) -> float:
    with row.reading(history), open(history, encoding="utf-8", newline="") as file:
        return sum(float(line["seconds"]) for line in csv.DictReader(file))
    return 0.0


def _logged(log: Path) -> tuple[str | None, str | None]:
    """When a log says that something was trained last, and of which commit; where it does not say
    so, when training began last.
    """
    done = began = (None, None)
    trains, commit = False, None
    lines = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    for when, text in LOGGED.findall(lines):
        if text.startswith("$ "):
            trains, commit = bool(TRAINS.match(text)), None
        elif found := COMMIT.match(text):
            commit = found[1]
            began = (when, commit) if trains else began
        elif DONE.match(text):
            done = when, commit
    return done if done[0] else began


def study_row(folder: Path) -> Row:
    """What a folder of data/studies/ tells; the score is that of its best variation."""
    row = Row("study", folder.name, "not finished", bytes=_size(folder))
    table = folder / "table.csv"
    with row.reading(folder / "log.txt"):
        row.when, row.commit = _logged(folder / "log.txt")
    if table.is_file():
        with row.reading(table), open(table, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
            row.state = f"{len(lines)} variations"
            # a score is what has a deviation; the last such column is that of the held-out groups
            titles = [name for name in lines[0] if f"{name}, deviation over seeds" in lines[0]]
            best = max(lines, key=lambda line: float(line[titles[-1]]))
            row.metric, row.oof_score = titles[-1], float(best[titles[-1]])
            row.state += f", best: {best['variation']}"
            if "training (s)" in best:
                row.seconds = sum(float(line["training (s)"]) for line in lines)
    return row


def _newest(weights: Iterable[Path]) -> str:
    """When the last of them was written; a model's keep the time of their training."""
    last = max(path.stat().st_mtime for path in weights)
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(last))


def model_row(folder: Path) -> Row:
    """What decisions.json tells of a model folder."""
    row, path = Row("model", folder.name, "", bytes=_size(folder)), folder / "decisions.json"
    if not path.is_file():
        row.problems.append(f"{folder} is no model: it has no decisions.json")
        return row
    with row.reading(path):
        content = sealed.read_json(path)
        row.take_scores(content)
        row.state = f"of {content['recipe']}" if "recipe" in content else ""
        weights = list(folder.glob("weights/*/*.safetensors"))
        row.when = _newest(weights) if weights else None
        row.commit = str(content.get("commit") or "").removeprefix("commit ") or None
    return row


def rows(data: Path, submissions: Path, trained: Path) -> list[Row]:
    """The runs, the studies and, in the folder `trained`, the models; each by name."""
    return [
        *(run_row(path, data, submissions) for path in _inside(data / "runs")),
        *(study_row(path) for path in _inside(data / "studies")),
        *(model_row(path) for path in _inside(trained) if path.suffix != ".zip"),
    ]


def _inside(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if not path.name.startswith("."))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file())
