"""Whole channels taken out of a network while it is trained, with all that depends on them, by
Torch-Pruning: the network is smaller and faster afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
import torch_pruning
from torch import nn

from src.networks.layers import RingConv2d

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
State = dict[str, torch.Tensor]


class GroupTaylor(torch_pruning.importance.GroupMagnitudeImportance):
    """The importance of a channel: the mean, over the layers that lose it together, of their
    weights' accumulated (g W)^2.

    Each layer's `weight.grad` is to hold these, because Torch-Pruning shortens gradients along with
    weights.
    """

    def __init__(self) -> None:
        super().__init__(p=1, group_reduction="mean", normalizer=None, target_types=list(PRUNABLE))

    def __call__(self, group: torch_pruning.Group) -> torch.Tensor:
        weights = [
            w
            for w in {
                id(w): w
                for w in (getattr(dep.layer, "weight", None) for dep, _ in group)
                if w is not None
            }.values()
        ]
        values = [weight.data for weight in weights]
        for weight in weights:
            weight.data = torch.zeros_like(weight) if weight.grad is None else weight.grad
        try:
            return super().__call__(group)
        finally:
            for weight, value in zip(weights, values, strict=True):
                weight.data = value


@contextmanager
def _without_rings(network: nn.Module) -> Iterator[None]:
    """Ring convolutions pad with zeros meanwhile: Torch-Pruning takes a ring's concatenation of
    columns for one of channels.
    """
    rings = [layer for layer in network.modules() if isinstance(layer, RingConv2d)]
    for ring in rings:
        ring.padding, ring.forward = (1, 1), MethodType(nn.Conv2d.forward, ring)
    try:
        yield
    finally:
        for ring in rings:
            ring.padding = (0, 0)
            del ring.forward


def _of_whole_groups(
    pruner: torch_pruning.BasePruner,
    group: torch_pruning.Group,
    norms: set[nn.GroupNorm],
    share: float,
) -> torch_pruning.Group:
    """The least important whole groups of these norms in place of what Torch-Pruning would remove,
    a part of each of their groups.

    Of groups of four channels a part is at least a quarter, whatever the share.
    """
    (groups,) = {norm.num_groups for norm in norms}
    root = group[0].dep
    channels = pruner.DG.get_out_channels(root.layer)
    everything = pruner.DG.get_pruning_group(root.layer, root.handler, list(range(channels)))
    kept = max(int(groups * (1 - share) + 1e-9), 1)  # 24 * 7 / 8 is not quite 21
    least_important = (
        pruner.importance(everything).view(groups, -1).mean(1).argsort(stable=True)[: groups - kept]
    )
    for norm in norms:
        norm.num_groups = kept
    removed = (
        torch.arange(channels, device=least_important.device)
        .view(groups, -1)[least_important]
        .flatten()
        .tolist()
    )
    return pruner.DG.get_pruning_group(root.layer, root.handler, removed)


def remove_channels(
    network: nn.Module, scores: State, share: float, spared: list[nn.Module], image: torch.Tensor
) -> list[tuple[str, bool, list[int]]]:
    """Remove a share of every layer's output channels, the least important ones, with all that
    depends on them.

    Channels that a group norm sees are removed a whole group at a time: its other groups then give
    what they gave.

    Args:
        scores: (g W)^2 summed over batches, by name of the layer.
        spared: layers whose outputs stay.
        image: one photograph or window that the network takes.

    Returns:
        Torch-Pruning's record: layers, whether outputs (or inputs) were removed, and which.
    """
    training = {layer: layer.training for layer in network.modules()}
    network.zero_grad(set_to_none=True)
    for name, score in scores.items():
        network.get_submodule(name).weight.grad = score
    with _without_rings(network):
        pruner = torch_pruning.BasePruner(
            network.eval(), image, GroupTaylor(), pruning_ratio=share, ignored_layers=spared
        )
    for group in pruner.step(interactive=True):
        norms = {dep.layer for dep, _ in group if isinstance(dep.layer, nn.GroupNorm)}
        if norms:
            group = _of_whole_groups(pruner, group, norms, share)
        group.prune()
    network.zero_grad(set_to_none=True)
    for layer, mode in training.items():
        layer.training = mode
    return pruner.pruning_history()
