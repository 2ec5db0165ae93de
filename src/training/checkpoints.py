"""Where a training goes on: the checkpoint of a task after each epoch, and networks from before
their pruning.
"""

import copy
import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.artifacts import lineage, sealed
from src.artifacts.digests import digest
from src.artifacts.files import replacing
from src.artifacts.run import Run
from src.artifacts.sealed import Inputs
from src.networks.loading import fit_state
from src.recipe import Task
from src.terminal import console

State = dict[str, Any]


def save(state: State, inputs: Inputs, path: Path) -> None:
    """Write a record of the inputs and, behind it, what `torch.save` makes of a state."""
    content = io.BytesIO()  # torch's own writing to a file hides why it failed
    torch.save(state, content)
    with replacing(path) as partial:
        partial.write_bytes(sealed.record(inputs) + content.getbuffer())
        sealed.seal(partial)


def load(
    path: Path, network: nn.Module, inputs: Inputs, prunes: bool, device: torch.device
) -> State | None:
    """What a checkpoint holds, with its weights in the network; None if there is none of this
    network and these inputs.
    """
    if not sealed.up_to_date(path, inputs):
        return None
    with open(path, "rb") as file:
        file.readline()
        content = io.BytesIO(file.read())
    try:
        state = torch.load(content, map_location=device, weights_only=True)
        whole = isinstance(state, dict) and _is_whole(state)
        whole = whole and _fits(network, state["network"], prunes)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # whatever torch and the checks make of something else
        whole = False
    if not whole:
        console.say(f"{path} holds something else than a checkpoint of this task: it is made again")
        return None
    if prunes:
        fit_state(network, state["network"])
    network.load_state_dict(state["network"])
    return state


def _is_whole(state: State) -> bool:
    """Whether a state has what a training put into it."""
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
        fit_state(network, weights)
    return _shapes(weights) == _shapes(network.state_dict())


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def dense(run: Run, task: Task) -> tuple[Inputs, Path]:
    """The inputs of a task's network before its first pruning phase, and where it is kept then.

    Tasks of the same name, fold and seed whose phases are the same up to there have it in common,
    whatever their recipes are called: it is trained once. A recipe that prunes nothing may take the
    whole of its training from there.
    """
    member = run.recipe.member(task.member)
    member = member.model_copy(update={"phases": member.dense_phases, "margin": 0})
    inputs = lineage.weights_of(run, task, member)
    return inputs, run.dense(digest(repr(sorted(inputs.items()))))
