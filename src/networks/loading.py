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

Shape = tuple[int, ...]


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
        UserError: they differ; channels that were pruned away may be fewer.
    """
    for member in run.recipe.members:
        network = networks.sketch(run.modality.network_options(run, member))
        expected = {name: tuple(own.shape) for name, own in network.state_dict().items()}
        pruned = any(pruning.channels for pruning in member.prunings)
        for path in (run.weights(task) for task in run.tasks() if task.member == member.name):
            sealed.inputs_of(path)  # an error where it has no record
            with safetensors.safe_open(path, "np") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            whole = {"scaling.center", "scaling.scale"} <= found.keys()
            own = {name: shape for name, shape in found.items() if not name.startswith("scaling.")}
            masks = {name for name in own if name.endswith("_mask")} if pruned else set()
            fits = own == expected or (pruned and _shrunk(own, expected, masks))
            if not (whole and fits):
                raise UserError(
                    f"{path} holds the weights of another network than recipe.toml says"
                )


def _shrunk(own: dict[str, Shape], expected: dict[str, Shape], masks: set[str]) -> bool:
    """Whether a pruned network's shapes are at most those of the whole one, of the same names; a
    masked weight stands as `_orig` beside its `_mask`.
    """
    plain = {name.removesuffix("_orig"): shape for name, shape in own.items() if name not in masks}
    return plain.keys() == expected.keys() and all(
        len(shape) == len(expected[name])
        and all(small <= large for small, large in zip(shape, expected[name], strict=True))
        for name, shape in plain.items()
    )


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
