"""Runs side by side: python -m src.cli.compare A B [...], names of folders in data/runs/.

What differs in their recipes, their scores by group, and the wells or photographs on which their
out-of-fold masks disagree most; as a page submissions/compare_A_B.html too.
"""

import argparse
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src import modality, recipe
from src.artifacts.digests import digest
from src.artifacts.files import write_text
from src.artifacts.run import Run
from src.cli.records import run_row, saved_recipe
from src.cli.runs import COLUMNS, score, table
from src.recipe import Recipe
from src.report import comparison
from src.report.comparison import Compared
from src.report.rendering import render
from src.terminal import command, console
from src.terminal.errors import UserError, did_you_mean

GROUPS = 20  # that are listed; of more, those with the lowest and the highest differences
VIEWS, DRAWN = 10, 4  # wells or photographs that are listed, and drawn
WIDEST = 36  # letters of a recipe's value on the terminal


def open_runs(names: list[str], data: Path, submissions: Path) -> list[Run]:
    """Finished runs by their names.

    Raises:
        UserError: fewer than two, one that there is not, or one that has trained nothing.
    """
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise UserError(f"compare at least two different runs, not {' '.join(names) or 'none'}")
    folder = data / "runs"
    known = [path.name for path in folder.glob("*/")] if folder.is_dir() else []
    opened = []
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) if known else "make all trains the demo"
            raise UserError(f"no run '{name}' in {folder}: {hint}")
        chosen = saved_recipe(folder / name)
        if chosen is None:
            raise UserError(f"{folder / name} has no trained task: run its stages first")
        opened.append(modality.open_run(chosen, data, submissions))
    return opened


def as_made(run: Run) -> tuple[Run, list[str]]:
    """The run with the [inference] and [postprocess] that its predictions and its selection were
    made with, and what is not known of them.

    A task saves its recipe when it trains: these sections may have changed since.
    """
    known, notes = [run.recipe], []
    with suppress(UserError):
        known.append(recipe.load(run.recipe.name))
    task = run.tasks()[0]
    margin = str(run.recipe.member(task.member).margin)
    made = {
        "inference": (run.oof(task), lambda own: digest(own.inference, margin)),
        "postprocess": (run.selection, lambda own: digest(own.postprocess)),
    }
    chosen: dict[str, object] = {}
    for section, (path, digest_of) in made.items():
        recorded = comparison.made_from(path)[section]
        fitting = [own for own in known if digest_of(own) == recorded]
        if fitting:
            chosen[section] = getattr(fitting[0], section)
        else:
            notes.append(
                f"{run.recipe.name}: [{section}] was another one than its tasks have saved"
            )
    changed: Recipe = run.recipe.model_copy(update=chosen)
    return replace(run, recipe=changed), notes


def listed(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups that are shown: all, or those with the lowest and the highest differences."""
    if len(groups) <= GROUPS:
        return groups
    by_difference = sorted(groups, key=lambda line: line["differences"][0])
    return by_difference[: GROUPS // 2] + by_difference[-GROUPS // 2 :]


@dataclass(frozen=True)
class Told:
    """What the terminal and the page show."""

    names: list[str]
    metric: str
    rows: list[list[str]]
    notes: list[str]
    keys: list[dict[str, Any]]
    found: Compared

    def text(self) -> list[str]:
        """The lines for the terminal."""
        found, count = self.found, f"{len(self.found.group)} images that all have"
        of = ", ".join(map(str, found.images))
        lines = [f"{self.metric}, out of fold, on the {count} (of {of})", *self.notes, ""]
        lines += table([*COLUMNS], self.rows)
        lines += ["", "what differs in the recipes" if self.keys else "the recipes are the same"]
        cut = [[line["key"], *map(_cut, line["values"])] for line in self.keys]
        lines += table(["key", *self.names], cut) if cut else []
        return [*lines, "", *self._groups(), "", *self._views()]

    def _groups(self) -> list[str]:
        groups, names, first = self.found.by_group(), self.names, self.names[0]
        others = ["difference"] if len(names) == 2 else [f"{name} - {first}" for name in names[1:]]
        heads = ["group", ">images", *(f">{name}" for name in [*names, *others])]
        cells = [
            [
                line["group"],
                str(line["images"]),
                *map(score, line["scores"]),
                *(score(value, signed=True) for value in line["differences"]),
            ]
            for line in [*listed(groups), self.found.overall()]
        ]
        lines, more = table(heads, cells), len(groups) - len(listed(groups))
        lines += [f"{more} groups between these are left out"] if more else []
        for own in self.found.spread():
            lines.append(
                f"{own['run']} - {first}: mean over groups {score(own['mean'], signed=True)}, "
                f"standard deviation {score(own['deviation'])}; "
                f"higher in {own['higher']}, lower in {own['lower']}, equal in {own['equal']}"
            )
        return lines

    def _views(self) -> list[str]:
        views = self.found.views(VIEWS)
        if not views:
            return ["all masks are the same"]
        cells = [
            [line["view"], f"{line['share']:.2%}", *map(score, line["scores"])] for line in views
        ]
        return table(
            ["where masks disagree most", ">pixels", *(f">{n}" for n in self.names)], cells
        )

    def _marks(self, scores: list[float]) -> list[dict[str, Any]]:
        """Those of a line's chart; the first run's is a ring."""
        kinds = ["all_empty", *["score"] * (len(scores) - 1)]
        return [
            {"what": name, "value": value, "kind": kind}
            for name, value, kind in zip(self.names, scores, kinds, strict=True)
        ]

    def page(self) -> str:
        """The page as HTML."""
        groups, views, legend = self.found.by_group(), self.found.views(VIEWS), {}
        for line in views[:DRAWN]:
            beside = self.found.pictures(line["view"])
            line["panels"], legend = beside.panels, beside.legend
        shown, overall = listed(groups), self.found.overall()
        for line in [*shown, overall]:
            line["marks"] = self._marks(line["scores"])
        return render(
            "comparison.html",
            None,
            names=self.names,
            metric=self.metric,
            columns=[head.removeprefix(">") for head in [*COLUMNS][1:]],
            rows=[
                {"cells": cells[1:], "images": images}
                for cells, images in zip(self.rows, self.found.images, strict=True)
            ],
            notes=self.notes,
            keys=self.keys,
            spread=self.found.spread(),
            groups=shown,
            left_out=len(groups) - len(shown),
            overall=overall,
            views=views,
            legend=legend,
        )


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def compare(names: list[str], data: Path, submissions: Path) -> Told:
    """Compare runs by their names.

    Raises:
        UserError: as `open_runs` and `src.report.comparison.compare` do.
    """
    runs = open_runs(names, data, submissions)
    found = comparison.compare(runs)
    made, notes = zip(*map(as_made, runs), strict=True)
    rows = [run_row(run.folder, data, submissions) for run in runs]
    problems = [problem for row in rows for problem in row.problems]
    return Told(
        names,
        runs[0].competition.metric.name,
        [[of(row) for of in COLUMNS.values()] for row in rows],
        [*problems, *(note for own in notes for note in own)],
        comparison.recipe_differences(list(made)),
        found,
    )


def main(options: argparse.Namespace) -> None:
    told = compare(options.runs, options.data_dir, options.submissions_dir)
    name = f"compare_{'_'.join(told.names)}"[:200]
    page = options.submissions_dir / f"{name}.html"
    write_text(page, told.page())
    for line in told.text():
        console.say(line)
    console.summary(f"compared {' and '.join(told.names)}: {page}")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("runs", metavar="RUN", nargs="*", help="names of folders in data/runs/")
    for name in ("data", "submissions"):
        arguments.add_argument(
            f"--{name}-dir", type=Path, default=Path(name), help=f"default: {name}"
        )
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
