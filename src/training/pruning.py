"""Pruning of networks while they are trained: single weights or whole filters by masks, or whole
channels taken out (`channels`), which makes a network smaller and faster.

Linear, automated gradual (AGP) and movement pruning after the paper "Neural Network Pruning for
Lightweight Metal Corrosion Image Segmentation Models", section 2.2; docs/pruning.md says where it
is followed and where not. Masks are carried by `torch.nn.utils.prune`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from segmentation_models_pytorch.decoders.manet.decoder import PABBlock
from torch import nn

from src.networks.loading import attach
from src.recipe import Pruning
from src.terminal.errors import UserError
from src.training.channels import PRUNABLE, State, remove_channels


def sparsity_at(pruning: Pruning, share: float) -> float:
    """The share of weights that is pruned when this share of the pruning is done (the paper's
    equations 3 and 4, from zero).
    """
    left = 1 - share
    return pruning.sparsity * (1 - left if pruning.method == "linear" else 1 - left**3)


def share_due(pruning: Pruning, progress: float) -> float:
    """The share of the pruning that is due when this share of the phase is done: from 0 to 1
    between warm-up and cool-down.
    """
    share = (progress - pruning.warm_up) / (1 - pruning.warm_up - pruning.cool_down)
    return min(max(share, 0), 1)


def turns_due(pruning: Pruning, progress: float) -> int:
    """How many of the phase's `steps` are due when this share of it is done: evenly spread."""
    # 0.7 * 10 is not quite 7
    return math.floor(share_due(pruning, progress) * pruning.steps + 1e-9)


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name, in order; the last one is the head, which gives
    the logits.
    """
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, PRUNABLE)}


def plain_state(network: nn.Module) -> State:
    """The network's state as if it had never had masks: what is pruned is zero."""
    state = network.state_dict()
    plain = {
        name: tensor for name, tensor in state.items() if not name.endswith(("_orig", "_mask"))
    }
    for name in (name.removesuffix("_orig") for name in state if name.endswith("_orig")):
        own = state[f"{name}_orig"]
        # times zero might be -0
        plain[name] = torch.where(state[f"{name}_mask"].bool(), own, torch.zeros_like(own))
    return plain


def count_weights(network: nn.Module) -> int:
    """Parameters that are not masked."""
    masked = sum(
        int((mask == 0).sum()) for name, mask in network.named_buffers() if name.endswith("_mask")
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


def least_filters(score: torch.Tensor, mask: torch.Tensor, sparsity: float) -> torch.Tensor:
    """`least` of whole filters (the first axis), each with the sum of its weights' scores
    (the paper's joint importance, after equation 6).
    """
    kept = least(score.flatten(1).sum(1), mask.flatten(1).amax(1), sparsity)
    return kept.view(-1, *[1] * (mask.dim() - 1)).expand_as(mask)


class Pruner:
    """Prunes a network through one phase: told of every backward pass, and asked after every step
    of the optimiser.

    Scores, by name of the layer, are sums over batches: for linear and AGP the Taylor importance (g
    W)^2 since the last pruning (the paper's equation 6; Molchanov et al. 2019), for movement -g W
    since the phase began (equation 7; Sanh et al. 2020). Equation 7's factor alpha is left out,
    because it changes no order.

    g is the gradient of a weight, zero where it is masked; with `regrow` that of what the layer
    computes with, masked or not (the straight-through estimator of Sanh et al., section 4).
    """

    def __init__(self, network: nn.Module, pruning: Pruning, scores: State | None = None) -> None:
        self.network, self.pruning = network, pruning
        known = layers(network)
        self.head = list(known.values())[-1]
        names = [name for name, layer in known.items() if self._prunes(layer)]
        if not names:
            raise UserError("pruning: the network has no layer that learns besides its head")
        if pruning.channels:
            if any(isinstance(layer, PABBlock) for layer in network.modules()):
                raise UserError(
                    "pruning.channels: not for ma_net, whose attention Torch-Pruning cannot "
                    "follow; prune single weights instead"
                )
        else:
            attach(network, [f"{name}.weight" for name in names])
        if pruning.granularity == "channel":
            biased = [name for name in names if known[name].bias is not None]
            attach(network, [f"{name}.bias" for name in biased])
        self.layers = {name: network.get_submodule(name) for name in names}
        self.scores = scores or {
            name: torch.zeros_like(_weight(layer)) for name, layer in self.layers.items()
        }
        self.straight: State = {}  # gradients of a step as if nothing were masked
        self.hooks = [
            layer.register_forward_pre_hook(self._listen_to(name))
            for name, layer in self.layers.items()
            if pruning.regrow
        ]

    def _prunes(self, layer: nn.Module) -> bool:
        """Whether the recipe has a layer pruned; filters are those of `Conv2d`, as in the authors'
        code.
        """
        right = isinstance(layer, nn.Conv2d) or self.pruning.granularity == "weight"
        return right and _learns(layer) and (self.pruning.head or layer is not self.head)

    def _listen_to(self, name: str) -> Callable[[nn.Module, Any], None]:
        """What to do before a layer's forward pass, so that its backward pass adds to `straight`.

        After `zero_grad` a sum begins anew, also where a step is tried again with less memory.
        """

        def add(gradient: torch.Tensor) -> None:
            self.straight[name] = self.straight.get(name, 0) + gradient

        def listen(layer: nn.Module, _: Any) -> None:
            if layer.weight_orig.grad is None:
                self.straight.pop(name, None)
            if layer.weight.requires_grad:
                layer.weight.register_hook(add)

        return listen

    def release(self) -> None:
        """Let go of the network; its masks stay."""
        for hook in self.hooks:
            hook.remove()

    @torch.no_grad()
    def observe(self) -> None:
        """Add what a backward pass says of every weight; to be called before the optimiser
        changes the weights.
        """
        for name, layer in self.layers.items():
            weight = _weight(layer)
            gradient = self.straight.get(name) if self.pruning.regrow else weight.grad
            if gradient is not None:
                change = gradient * weight
                self.scores[name] += -change if self.pruning.method == "movement" else change**2

    def advance(self, before: float, after: float, image: torch.Tensor) -> bool:
        """Prune if a step of the schedule falls between two shares of the phase, with `regrow`
        always once the warm-up is over; returns whether parameters were replaced.

        Args:
            image: anything that the network takes, from which Torch-Pruning learns which layers
                hang together.
        """
        if self.pruning.regrow:
            if after > self.pruning.warm_up:
                self._mask(sparsity_at(self.pruning, round(share_due(self.pruning, after), 9)))
            return False
        turn, done = turns_due(self.pruning, after), turns_due(self.pruning, before)
        if turn == done:
            return False
        sparsity = sparsity_at(self.pruning, turn / self.pruning.steps)
        if self.pruning.channels:
            had = sparsity_at(self.pruning, done / self.pruning.steps)
            remove_channels(
                self.network,
                self.scores,
                1 - (1 - sparsity) / (1 - had),
                [] if self.pruning.head else [self.head],
                image[:1],
            )
        else:
            self._mask(sparsity)
        if self.pruning.method != "movement":
            self.scores = {
                name: torch.zeros_like(_weight(layer)) for name, layer in self.layers.items()
            }
        return self.pruning.channels

    @torch.no_grad()
    def _mask(self, sparsity: float) -> None:
        """Mask so much of every layer, or of all of them together."""
        masks = {name: layer.weight_mask for name, layer in self.layers.items()}
        before = {
            name: torch.ones_like(mask) if self.pruning.regrow else mask
            for name, mask in masks.items()
        }
        if self.pruning.together:
            score, old = (
                torch.cat([state[name].flatten() for name in masks])
                for state in (self.scores, before)
            )
            kept = least(score, old, sparsity).split([mask.numel() for mask in masks.values()])
            for mask, own in zip(masks.values(), kept, strict=True):
                mask.copy_(own.view_as(mask))
            return
        by_filter = self.pruning.granularity == "channel"
        for name, mask in masks.items():
            rule = least_filters if by_filter else least
            mask.copy_(rule(self.scores[name], before[name], sparsity))
            if by_filter and hasattr(self.layers[name], "bias_mask"):
                self.layers[name].bias_mask.copy_(mask.flatten(1).amax(1))


def _weight(layer: nn.Module) -> nn.Parameter:
    """The parameter that learns, masked or not; what a mask hides has gradient zero."""
    return getattr(layer, "weight_orig", layer.weight)


def _learns(layer: nn.Module) -> bool:
    return _weight(layer).requires_grad
