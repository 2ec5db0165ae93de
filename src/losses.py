"""Losses on logits (B, 1, H, W), over the pixels whose weight is not zero."""

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from src.networks.layers import probability
from src.recipe import Phase

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def smooth_iou(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - (I + 1) / (U + 1), with soft intersection and union over the whole batch (CorroSeg paper, equation 2)."""
    p = probability(logits)
    return _smooth_ratio((weight * p * truth).sum(), (weight * (p + truth - p * truth)).sum())


def smooth_iou_per_patch(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`smooth_iou` of each window by itself, then the mean: nearer to the metric, in which every patch counts alike."""
    p = probability(logits)
    return _smooth_ratio((weight * p * truth).sum((1, 2, 3)), (weight * (p + truth - p * truth)).sum((1, 2, 3))).mean()


def _smooth_ratio(intersection: torch.Tensor, union: torch.Tensor) -> torch.Tensor:
    return 1 - (intersection + 1) / (union + 1)


def lovasz(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The Lovasz hinge over the whole batch, a convex stand-in for 1 - IoU (Berman et al. 2018, equations 8 and 11).

    Errors, the largest first, weigh what each adds to the Jaccard loss of those before it.
    """
    seen = weight.flatten() > 0
    logits, truth = (x.flatten()[seen].to(torch.promote_types(logits.dtype, torch.float32)) for x in (logits, truth))
    errors, order = (1 - logits * (2 * truth - 1)).sort(descending=True, stable=True)
    corroded = truth[order]
    union = corroded.sum() + (1 - corroded).cumsum(0)
    jaccard = 1 - (corroded.sum() - corroded.cumsum(0)) / union.clamp(min=1)  # the first sound pixel of a batch without corrosion: 1
    return (errors.relu() * jaccard.diff(prepend=jaccard.new_zeros(1))).sum()


def bce(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over the weighted pixels (CorroSeg paper, section 4.1)."""
    return _mean(_cross_entropy(logits, truth), weight)


def focal(alpha: float, gamma: float) -> Loss:
    """-alpha (1 - p)^gamma log p on corrosion, -(1 - alpha) p^gamma log(1 - p) elsewhere (Lin et al. 2018; CorroSeg paper, section 4.2)."""

    def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = probability(logits)
        missed = torch.where(truth > 0.5, 1 - p, p)
        balance = torch.where(truth > 0.5, alpha, 1 - alpha)
        return _mean(balance * missed**gamma * _cross_entropy(logits, truth), weight)

    return loss


def _cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")


def _mean(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * loss).sum() / weight.sum().clamp(min=1)


def of_phase(phase: Phase) -> Loss:
    """The weighted sum of losses that a recipe names, as in `loss = { smooth_iou = 1.0, bce = 0.5 }`."""
    known: dict[str, Loss] = {
        "smooth_iou": smooth_iou,
        "smooth_iou_per_patch": smooth_iou_per_patch,
        "bce": bce,
        "lovasz": lovasz,
        "focal": focal(phase.focal_alpha, phase.focal_gamma),
    }
    return lambda logits, truth, weight: sum(factor * known[name](logits, truth, weight) for name, factor in phase.loss.items())
