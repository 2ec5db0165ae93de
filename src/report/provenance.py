"""What a submission is made from: networks, times, machines, versions, digests."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from src import networks
from src.artifacts import hdf5, lineage
from src.artifacts.run import Run
from src.recipe import Member, Phase, to_toml
from src.report import curves
from src.report.checks import Check

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


def shared(run: Run, checks: list[Check]) -> dict[str, Any]:
    """What the pages of both kinds of data tell alike, by the names of their templates."""
    histories = curves.histories(run)
    csv, official = run.submission(), run.submission("_official.csv")
    return {
        "data": run.modality.data_report(run),
        "learning": curves.learning(run.recipe, histories),
        "members": members(run, histories),
        "seeds": run.recipe.seeds,
        "checks": checks,
        "files": files([csv, official]),
        "made": lineage.submission(run),
        "versions": versions(),
        "toml": to_toml(run.recipe, run.competition.kind),
    }


def of_model(run: Run) -> dict[str, Any]:
    """What the pages of new data of both kinds tell alike, by the names of their templates."""
    refused = hdf5.metadata(run.prepared("test"))["refused"]
    made = lineage.submission(run)
    return {"content": run.model.content, "made": made, "refused": refused}


def members(run: Run, histories: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """A line for each member: its network, how it was trained, how long, and on what.

    Args:
        histories: by member, as `src.report.curves.histories` gives them.
    """
    return [
        _member(member, run, histories.get(member.name, pd.DataFrame()))
        for member in run.recipe.members
    ]


def _member(member: Member, run: Run, history: pd.DataFrame) -> dict[str, Any]:
    network = networks.sketch(run.modality.network_options(run, member))
    line = {
        "name": member.name,
        "role": member.role,
        "network": ", ".join(
            f"{value}" if key == "name" else f"{key} {value}"
            for key, value in member.network.items()
        ),
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "phases": [phase_text(phase) for phase in member.phases],
        "epochs": member.epochs,
        "batch": member.batch_size,
        "tasks": sum(task.member == member.name for task in run.tasks()),
        "recorded": 0,
        "seconds": None,
        "devices": UNKNOWN,
        "weights": None,
    }
    if len(history):
        tasks = len(history[["fold", "seed"]].drop_duplicates())
        line |= {"recorded": tasks, "seconds": float(history["seconds"].sum())}
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
