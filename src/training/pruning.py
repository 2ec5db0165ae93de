"""Pruning of networks while they are trained: single weights by masks, or whole channels, which
makes a network smaller and faster.

Linear, automated gradual (AGP) and movement pruning as in the paper "Neural Network Pruning for
Lightweight Metal Corrosion Image Segmentation Models", section 2.2. Masks are carried by
`torch.nn.utils.prune`; channels are removed by Torch-Pruning.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
import torch_pruning
from segmentation_models_pytorch.decoders.manet.decoder import PABBlock
from torch import nn

from src.networks.layers import RingConv2d
from src.networks.loading import attach
from src.recipe import Pruning
from src.terminal.errors import UserError

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
State = dict[str, torch.Tensor]


def sparsity_at(pruning: Pruning, turn: int) -> float:
    """The share of weights that is pruned after so many of the phase's `steps` (the paper's
    equations 3 and 4, from zero).
    """
    left = 1 - turn / pruning.steps
    return pruning.sparsity * (1 - left if pruning.method == "linear" else 1 - left**3)


def turns_due(pruning: Pruning, progress: float) -> int:
    """How many of the phase's `steps` are due when this share of it is done: evenly spread
    between warm-up and cool-down.
    """
    share = (progress - pruning.warm_up) / (1 - pruning.warm_up - pruning.cool_down)
    return math.floor(min(max(share, 0), 1) * pruning.steps + 1e-9)  # 0.7 * 10 is not quite 7


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name, in order; the last one is the head, which gives
    the logits.
    """
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, PRUNABLE)}


def plain_state(network: nn.Module) -> State:
    """The network's state as if it had never had masks: what is pruned is zero."""
    state = network.state_dict()
    plain = {
        name: tensor
        for name, tensor in state.items()
        if not name.endswith(("weight_orig", "weight_mask"))
    }
    for name in (name.removesuffix("_orig") for name in state if name.endswith("weight_orig")):
        weight = state[f"{name}_orig"]
        # times zero might be -0
        plain[name] = torch.where(state[f"{name}_mask"].bool(), weight, torch.zeros_like(weight))
    return plain


def count_weights(network: nn.Module) -> int:
    """Parameters that are not masked."""
    masked = sum(
        int((mask == 0).sum())
        for name, mask in network.named_buffers()
        if name.endswith("weight_mask")
    )
    return sum(weights.numel() for weights in network.parameters()) - masked


def least(score: torch.Tensor, mask: torch.Tensor, sparsity: float) -> torch.Tensor:
    """A mask without the k = int(numel * sparsity) weights of the lowest score; what is masked
    already comes first and stays so.

    Args:
        score, mask: of equal shape. Of equal scores the first are masked.
    """
    k = int(score.numel() * sparsity)
    ranked = score.masked_fill(mask == 0, -torch.inf).flatten().argsort(stable=True)
    kept = mask.flatten().clone()
    kept[ranked[:k]] = 0
    return kept.reshape(mask.shape)


class Pruner:
    """Prunes a network through one phase: told of every backward pass, and asked after every step
    of the optimiser.

    Scores, by name of the layer, are sums over batches: for linear and AGP the Taylor importance (g
    W)^2 since the last pruning (the paper's equation 6; Molchanov et al. 2019), for movement -g W
    since the phase began (equation 7; Sanh et al. 2020). Equation 7's factor alpha is left out,
    because it changes no order.
    """

    def __init__(self, network: nn.Module, pruning: Pruning, scores: State | None = None) -> None:
        self.network, self.pruning = network, pruning
        known = layers(network)
        self.head = list(known.values())[-1]
        spared = [] if pruning.head else [self.head]
        names = [name for name, layer in known.items() if layer not in spared and _learns(layer)]
        if not names:
            raise UserError("pruning: the network has no layer that learns besides its head")
        if pruning.channels:
            if any(isinstance(layer, PABBlock) for layer in network.modules()):
                raise UserError(
                    "pruning.channels: not for ma_net, whose attention Torch-Pruning cannot "
                    "follow; prune single weights instead"
                )
            self.layers = {name: known[name] for name in names}
        else:
            attach(network, names)
            self.layers = {name: network.get_submodule(name) for name in names}
        self.scores = scores or {
            name: torch.zeros_like(_weight(layer)) for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def observe(self) -> None:
        """Add what a backward pass says of every weight; to be called before the optimiser
        changes the weights.
        """
        for name, layer in self.layers.items():
            weight = _weight(layer)
            if weight.grad is not None:
                change = weight.grad * weight
                self.scores[name] += -change if self.pruning.method == "movement" else change**2

    def advance(self, before: float, after: float, image: torch.Tensor) -> bool:
        """Prune if a step of the schedule falls between two shares of the phase; returns whether
        parameters were replaced.

        Args:
            image: anything that the network takes, from which Torch-Pruning learns which layers
                hang together.
        """
        turn, done = turns_due(self.pruning, after), turns_due(self.pruning, before)
        if turn == done:
            return False
        sparsity = sparsity_at(self.pruning, turn)
        if self.pruning.channels:
            had = sparsity_at(self.pruning, done)
            remove_channels(
                self.network,
                self.scores,
                1 - (1 - sparsity) / (1 - had),
                [] if self.pruning.head else [self.head],
                image[:1],
            )
        else:
            for name, layer in self.layers.items():
                layer.weight_mask.copy_(least(self.scores[name], layer.weight_mask, sparsity))
        if self.pruning.method != "movement":
            self.scores = {
                name: torch.zeros_like(_weight(layer)) for name, layer in self.layers.items()
            }
        return self.pruning.channels


def _weight(layer: nn.Module) -> nn.Parameter:
    """The parameter that learns, masked or not; what a mask hides has gradient zero."""
    return getattr(layer, "weight_orig", layer.weight)


def _learns(layer: nn.Module) -> bool:
    return _weight(layer).requires_grad


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
