"""Trained networks from disk."""

from collections.abc import Iterable

import safetensors
import torch
from torch import nn
from torch.nn.utils import prune

from src import networks
from src.artifacts import sealed
from src.artifacts.run import Run
from src.networks.devices import LAYOUT
from src.networks.scaling import Scaling
from src.recipe import Task
from src.terminal.errors import UserError


def load_network(run: Run, task: Task, device: torch.device) -> tuple[nn.Module, Scaling]:
    """The trained network of a task, in evaluation mode, and the scaling of its input.

    Raises:
        UserError: the weights are missing, damaged, or of another network.
    """
    path, member = run.weights(task), run.recipe.member(task.member)
    arrays = sealed.read_weights(path)
    scaling = Scaling(arrays.pop("scaling.center"), arrays.pop("scaling.scale"))
    network = networks.create(networks.untrained(run.modality.network_options(run, member)))
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if any(pruning.channels for pruning in member.prunings):
        fit_state(network, state)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise UserError(
            f"{path} holds the weights of another network: run 01_train_folds.py {run.recipe.name}"
        ) from None
    return network.to(device, memory_format=LAYOUT).eval(), scaling


def check_weights(run: Run) -> None:
    """Compare the shapes of a model's weights with those of its networks, before either takes
    memory.

    Raises:
        UserError: they differ.
    """
    for task in run.tasks():
        member, path = run.recipe.member(task.member), run.weights(task)
        network = networks.sketch(networks.untrained(run.modality.network_options(run, member)))
        expected = {name: tuple(own.shape) for name, own in network.state_dict().items()}
        with safetensors.safe_open(path, "np") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        lacking = {"scaling.center", "scaling.scale"} - found.keys()
        pruned = any(pruning.channels for pruning in member.prunings)
        own = {name: shape for name, shape in found.items() if not name.startswith("scaling.")}
        if lacking or (own.keys() != expected.keys() if pruned else own != expected):
            raise UserError(f"{path} holds the weights of another network than recipe.toml says")


def attach(network: nn.Module, names: Iterable[str]) -> None:
    """Give parameters masks of ones, where they have none: `weight` becomes `weight_orig` times
    `weight_mask`.

    Args:
        names: of parameters, as in "encoder.conv1.weight".
    """
    for name in names:
        place, _, parameter = name.rpartition(".")
        layer = network.get_submodule(place)
        if not hasattr(layer, f"{parameter}_mask"):
            prune.identity(layer, parameter)


def fit_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give a new network the masks and the channel counts of a stored state, so that it can be
    loaded.

    Channels need no record of their own: the shapes of the weights say how many each layer has
    kept.
    """
    attach(network, (name.removesuffix("_mask") for name in state if name.endswith("_mask")))
    for name, layer in network.named_modules():
        own = {
            key: state.get(f"{name}.{key}")
            for key, _ in (
                *layer.named_parameters(recurse=False),
                *layer.named_buffers(recurse=False),
            )
        }
        for key, stored in own.items():
            mine = getattr(layer, key)
            if stored is not None and stored.shape != mine.shape:
                fresh = mine.new_empty(stored.shape)
                setattr(
                    layer,
                    key,
                    nn.Parameter(fresh, mine.requires_grad)
                    if isinstance(mine, nn.Parameter)
                    else fresh,
                )
        _count_channels(layer)


def _count_channels(layer: nn.Module) -> None:
    """Let a layer's own numbers say what its weights' shapes say."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
        outputs, inputs = (
            layer.weight.shape[:2] if not layer.transposed else reversed(layer.weight.shape[:2])
        )
        if layer.groups == layer.in_channels == layer.out_channels:  # depthwise: a group a channel
            layer.groups = outputs if not layer.transposed else inputs
        layer.in_channels = layer.weight.shape[0] if layer.transposed else inputs * layer.groups
        layer.out_channels = outputs * layer.groups if layer.transposed else outputs
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = len(layer.running_mean)
    elif isinstance(layer, nn.GroupNorm) and layer.affine:
        size, layer.num_channels = layer.num_channels // layer.num_groups, len(layer.weight)
        layer.num_groups = layer.num_channels // size
