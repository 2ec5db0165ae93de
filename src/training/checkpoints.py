"""Where a training goes on: the checkpoint of a task after each epoch, and networks from before
their pruning.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src import artifacts
from src.artifacts import CreatedFrom, Paths
from src.recipe import Recipe, Task
from src.terminal import console
from src.training import pruning

State = dict[str, Any]
DIGEST = hashlib.sha256().digest_size


def save(state: State, path: Path) -> None:
    """Write what `torch.save` makes of a state, and behind it the SHA-256 of that."""
    content = io.BytesIO()  # torch's own writing to a file hides why it failed
    torch.save(state, content)
    content.write(hashlib.sha256(content.getbuffer()).digest())
    with artifacts.replacing(path) as partial:
        partial.write_bytes(content.getbuffer())


def load(
    path: Path, network: nn.Module, created_from: CreatedFrom, prunes: bool, device: torch.device
) -> State | None:
    """What a checkpoint holds, with its weights in the network; None if there is none of this
    network and these inputs.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        console.say(
            f"{path} is damaged (its checksum does not fit): this task starts again from "
            "its first epoch"
        )
        return None
    state = torch.load(io.BytesIO(content[:-DIGEST]), map_location=device, weights_only=True)
    if state["created_from"] != created_from:
        return None
    if prunes:
        pruning.fit_state(network, state["network"])
    if _shapes(state["network"]) != _shapes(network.state_dict()):
        return None
    network.load_state_dict(state["network"])
    return state


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def dense_from(
    recipe: Recipe, task: Task, paths: Paths, created_from: CreatedFrom
) -> tuple[CreatedFrom, Path]:
    """What a task's network is made from before its first pruning phase, and where it is kept then.

    Tasks of the same name, fold and seed whose phases are the same up to there have it in common,
    whatever their recipes are called: it is trained once. A recipe that prunes nothing may take the
    whole of its training from there.
    """
    member = recipe.member(task.member)
    dense = member.model_copy(update={"phases": member.dense_phases, "margin": 0})
    made_from = {**created_from, "member": artifacts.digest(dense)}
    return made_from, paths.dense(artifacts.digest(json.dumps([made_from, task.fold, task.seed])))
