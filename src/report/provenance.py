"""What a submission is made from: networks, times, machines, versions, digests."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from src import networks
from src.recipe import Member, Phase, Recipe

PACKAGES = (
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "scipy",
    "scikit-image",
    "pandas",
    "h5py",
    "pillow",
)
UNKNOWN = "not recorded"


def members(
    recipe: Recipe, told: dict[str, pd.DataFrame], options: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A line for each member: its network, how it was trained, how long, and on what.

    Args:
        told: the histories, as `src.report.curves.histories` gives them.
        options: by member, its network's name and options.
    """
    return [
        _member(member, recipe, told.get(member.name, pd.DataFrame()), options[member.name])
        for member in recipe.members
    ]


def _member(
    member: Member, recipe: Recipe, history: pd.DataFrame, options: dict[str, Any]
) -> dict[str, Any]:
    tasks = [task for task in recipe.tasks() if task.member == member.name]
    line = {
        "name": member.name,
        "role": member.role,
        "network": ", ".join(
            f"{value}" if key == "name" else f"{key} {value}"
            for key, value in member.network.items()
        ),
        "parameters": sum(weights.numel() for weights in networks.sketch(options).parameters()),
        "phases": [phase_text(phase) for phase in member.phases],
        "epochs": member.epochs,
        "batch": member.batch_size,
        "tasks": len(tasks),
        "recorded": 0,
        "seconds": None,
        "devices": UNKNOWN,
        "weights": None,
    }
    if len(history):
        line |= {
            "recorded": len(history[["fold", "seed"]].drop_duplicates()),
            "seconds": float(history["seconds"].sum()),
        }
        named = sorted(history["device"].dropna().unique()) if "device" in history else []
        line["devices"] = "; ".join(named) or UNKNOWN
        if "weights" in history:
            line["weights"] = int(history.loc[history["epoch"].idxmax(), "weights"])
    return line


def phase_text(phase: Phase) -> str:
    """A phase of training in one line."""
    loss = " + ".join(
        name if weight == 1 else f"{weight:g} {name}" for name, weight in phase.loss.items()
    )
    text = (
        f"{phase.epochs} epochs of {loss}; {phase.optimiser}, rate {phase.learning_rate:g}, "
        f"{phase.schedule}"
    )
    text += f"; frozen {', '.join(phase.frozen)}" if phase.frozen else ""
    return text + (
        f"; pruned ({phase.pruning.method}) to {1 - phase.pruning.sparsity:.0%}"
        if phase.pruning
        else ""
    )


def versions() -> dict[str, str]:
    """Of Python and of the libraries that masks pass through, in the environment that wrote the
    page.
    """
    return {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def files(paths: list[Path]) -> list[dict[str, Any]]:
    """Names, sizes in bytes and SHA-256, as `sha256sum` prints it, of files."""
    result = []
    for path in paths:
        with open(path, "rb") as stream:
            result.append(
                {
                    "name": path.name,
                    "size": path.stat().st_size,
                    "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
                }
            )
    return result
