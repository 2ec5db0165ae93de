"""Where a training goes on: the checkpoint of a task after each epoch, and networks from before
their pruning.
"""

import copy
import hashlib
import io
import json
import math
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
    try:
        state = torch.load(io.BytesIO(content[:-DIGEST]), map_location=device, weights_only=True)
        whole = isinstance(state, dict)
        if whole and state["created_from"] != created_from:
            return None
        whole = whole and _is_whole(state) and _fits(network, state["network"], prunes)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # whatever torch and the checks make of something else
        whole = False
    if not whole:
        console.say(
            f"{path} holds something else than a checkpoint of this task: it starts again from "
            "its first epoch"
        )
        return None
    if prunes:
        pruning.fit_state(network, state["network"])
    network.load_state_dict(state["network"])
    return state


def _is_whole(state: State) -> bool:
    """Whether a state has what `save_checkpoint` or `save_dense` of a training put into one."""
    kinds = {"most": int, "best_score": float, "best_epoch": int, "best": dict, "average": dict}
    kinds |= {"scores": dict, "optimiser": dict}
    return (
        len(state["history"]) == state["epoch"]
        and all(math.isfinite(float(line["loss"])) for line in state["history"])
        and all(isinstance(state[key], kind) for key, kind in kinds.items() if key in state)
        and ("optimiser" in state) == ("scores" in state)
    )


def _fits(network: nn.Module, weights: dict[str, torch.Tensor], prunes: bool) -> bool:
    """Whether weights are those of a network, in pruning of what becomes of it."""
    if prunes:
        network = copy.deepcopy(network)
        pruning.fit_state(network, weights)
    return _shapes(weights) == _shapes(network.state_dict())


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
