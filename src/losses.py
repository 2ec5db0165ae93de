"""Losses on logits, over the pixels whose weight is not zero."""

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from src.networks.layers import probability

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def smooth_iou(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - (I + 1) / (U + 1), with soft intersection and union over the whole batch (CorroSeg paper, equation 2)."""
    p = probability(logits)
    intersection = (weight * p * truth).sum()
    union = (weight * (p + truth - p * truth)).sum()
    return 1 - (intersection + 1) / (union + 1)


def bce(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over the weighted pixels (CorroSeg paper, section 4.1)."""
    loss = binary_cross_entropy_with_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)), truth, reduction="none")
    return (weight * loss).sum() / weight.sum().clamp(min=1)


LOSSES: dict[str, Loss] = {"smooth_iou": smooth_iou, "bce": bce}


def combine(weights: dict[str, float]) -> Loss:
    """The weighted sum of losses by name, as in a recipe's `loss = { smooth_iou = 1.0, bce = 0.5 }`."""
    return lambda logits, truth, weight: sum(factor * LOSSES[name](logits, truth, weight) for name, factor in weights.items())
