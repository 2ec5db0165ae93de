"""The card of a model folder: what it is for, how good it is, what it cannot."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from src.artifacts import hdf5, lineage, sealed
from src.artifacts.run import Run
from src.report.provenance import versions


def text(run: Run, content: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        content: what decisions.json will hold.
    """
    return "\n\n".join(_parts(run, content)) + "\n"


def _parts(run: Run, content: dict[str, Any]) -> Iterator[str]:
    recipe, kind = run.recipe, run.competition.kind
    yield f"# {recipe.name}"
    yield (
        f"Finds {', '.join(content['training']['classes'])} in "
        + ("ultrasonic thickness maps of wells" if kind == "wells" else "photographs")
        + f". {len(run.tasks())} networks, averaged. Predict new data with it: "
        "`make apply MODEL=THIS_FOLDER INPUT=FOLDER OUTPUT=out`."
    )
    yield "## Trained on"
    known = hdf5.read(run.prepared("train"), "group", "fold")
    counted = known["fold"] >= 0
    groups = len(np.unique(known["group"][counted]))
    yield (
        f"{counted.sum():,} {'patches' if kind == 'wells' else 'photographs'} of {groups} groups "
        f"(competition `{run.competition.name}`, {run.competition.source}), SHA-256 of the "
        f"prepared file `{sealed.fingerprint(run.prepared('train'))}`. "
        f"Licence of the data: {run.competition.licence}."
    )
    yield "## How good it is"
    yield (
        f"{content['metric']}, every group predicted by networks that did not see it: "
        f"**{content['oof_score']:.4f}**. " + _forecast(content)
    )
    if "judgement" in content:
        yield f"**Judgement:** {content['judgement']}."
    if "calibration" in content:
        error = content["calibration"]["error"]
        yield f"Expected calibration error of its probabilities, out of fold: {error:.4f}."
    yield _table(content["oof_by_group"])
    yield (
        "Scores hold for the labels that it was trained on. Networks that saw a group in training "
        "look better on it than this: score it with `folds.run`, not with this model."
    )
    yield "## Limits"
    ranges = [
        f"| {name} | {low:.3g} | {high:.3g} |" for name, (low, high) in content["familiar"].items()
    ]
    yield (
        "It was trained on data within these ranges; `apply` names what lies outside. Beyond them, "
        "and on other instruments, materials or kinds of defects, nothing is known of it."
    )
    yield "\n".join(["| number | lowest | highest |", "|---|---:|---:|", *ranges])
    yield "## Made with"
    yield ", ".join(f"{name} {number}" for name, number in versions().items())
    yield (
        f"Packed at {content['commit']}, format {lineage.FORMAT} of this project's artifacts. "
        "`recipe.toml` holds every choice."
    )


def _forecast(content: dict[str, Any]) -> str:
    if "expected_score" not in content:
        return "There is no forecast for new data."
    low, high = content["expected_interval"]
    return (
        f"On new groups like the test set expect {content['expected_score']:.2f}, with 90 % "
        f"probability {low:.2f} to {high:.2f}."
    )


def _table(by_group: dict[str, dict[str, float]]) -> str:
    """The scores of the groups, or of many their spread."""
    if len(by_group) > 40:
        quantiles = np.percentile([own["score"] for own in by_group.values()], [5, 25, 50, 75, 95])
        cells = " | ".join(f"{value:.3f}" for value in quantiles)
        return f"| of groups: 5 % | 25 % | 50 % | 75 % | 95 % |\n|---|---|---|---|---|\n| {cells} |"
    lines = [
        f"| {name} | {own.get('patches', own.get('photographs'))} | {own['score']:.3f} |"
        for name, own in by_group.items()
    ]
    return "\n".join(["| group | images | score |", "|---|---:|---:|", *lines])
