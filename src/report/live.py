"""The page that a training shows while it runs: data/runs/<recipe>/live.html."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from src.artifacts.files import write_text
from src.artifacts.run import Run
from src.recipe import Task
from src.report import curves
from src.report.provenance import phase_text
from src.report.rendering import render
from src.tasks.progress import EVERY, Now, since


class Followed:
    """A training of some tasks of a run, and whose histories are of it: those that were there
    before may be of other settings.
    """

    def __init__(self, run: Run, to_do: list[Task]) -> None:
        self.run, self.began = run, time.monotonic()
        self.before = {task: _written(run.history(task)) for task in to_do}

    def trained(self, task: Task) -> bool:
        """Whether a task's history, as far as it goes, is that of its settings."""
        return task not in self.before or _written(self.run.history(task)) != self.before[task]

    def end(self) -> None:
        """All tasks are trained, also those of which only predictions lacked."""
        self.before = {}


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


class Page:
    """Writes the page whenever it is called; leaving its block, a last time, as one that does not
    renew itself any more.
    """

    def __init__(self, followed: Followed) -> None:
        self.followed, self.now = followed, Now(0.0, "begins", {}, set())

    def __enter__(self) -> "Page":
        return self

    def __call__(self, now: Now) -> None:
        self.now = now
        self.write(now.words, renewed=True)

    def __exit__(self, kind: type | None, *error: object) -> None:
        gone = since(self.followed.began)
        if kind is None:
            self.followed.end()
            self.now = Now(1.0, "", {}, set())
            self.write(f"all tasks are trained; this took {gone}", renewed=False)
            return
        self.now = Now(self.now.done, "", {}, self.now.finished)
        with suppress(Exception):  # of two errors the first is told
            self.write(f"stopped after {gone}; the same command goes on from here", renewed=False)

    def write(self, words: str, renewed: bool) -> None:
        run = self.followed.run
        histories = curves.histories(run, self.followed.trained)
        content = render(
            "live.html",
            None,
            recipe=run.recipe.name,
            every=round(EVERY) if renewed else None,
            done=self.now.done,
            words=words,
            written=time.strftime("%Y-%m-%d %H:%M:%S"),
            members=self.members(histories),
            colours=curves.TASK_COLOURS,
        )
        write_text(run.live, content)

    def members(self, histories: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
        """For each member its phases, its charts, and a line for each task."""
        recipe = self.followed.run.recipe
        charts = {
            member["name"]: member["charts"]
            for member in curves.learning(recipe, histories, by_task=True)
        }
        return [
            {
                "name": member.name,
                "phases": [phase_text(phase) for phase in member.phases],
                "charts": charts.get(member.name, []),
                "tasks": [
                    {"fold": task.fold, "seed": task.seed, "state": self.state(task, histories)}
                    for task in self.followed.run.tasks()
                    if task.member == member.name
                ],
            }
            for member in recipe.members
        ]

    def state(self, task: Task, histories: dict[str, pd.DataFrame]) -> str:
        """What a task does, in words."""
        path = self.followed.run.progress(task)
        if path in self.now.running:
            return self.now.running[path]
        if path in self.now.finished or task not in self.followed.before:
            return "done"
        history = histories.get(task.member, pd.DataFrame({"fold": [], "seed": []}))
        epochs = int(((history["fold"] == task.fold) & (history["seed"] == task.seed)).sum())
        total = self.followed.run.recipe.member(task.member).epochs
        return f"{epochs} of {total} epochs done" if epochs else "waits"
