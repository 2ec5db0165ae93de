"""Losses on logits (B, K, H, W) and truth (B, K, H, W) in 0..1, over the pixels whose weight (B, 1,
H, W) is not zero.

With activation "softmax" the logits have one channel more, the background, before those of the
classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from src.networks.layers import Activation, probability
from src.recipe import Phase
from src.terminal.errors import UserError

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
OF_ONE_ACTIVATION: dict[str, Activation] = {
    "bce": "sigmoid",
    "focal": "sigmoid",
    "lovasz": "sigmoid",
    "cross_entropy": "softmax",
}


def smooth_iou(
    logits: torch.Tensor,
    truth: torch.Tensor,
    weight: torch.Tensor,
    activation: Activation = "sigmoid",
) -> torch.Tensor:
    """1 - (I + 1) / (U + 1), with soft intersection and union over the whole batch and all
    classes (CorroSeg paper, equation 2).
    """
    p = probability(logits, activation)
    return _smooth_ratio((weight * p * truth).sum(), (weight * (p + truth - p * truth)).sum())


def smooth_iou_per_patch(
    logits: torch.Tensor,
    truth: torch.Tensor,
    weight: torch.Tensor,
    activation: Activation = "sigmoid",
) -> torch.Tensor:
    """`smooth_iou` of each window by itself, then the mean: nearer to the metric, in which every
    patch counts alike.
    """
    p = probability(logits, activation)
    return _smooth_ratio(
        (weight * p * truth).sum((1, 2, 3)), (weight * (p + truth - p * truth)).sum((1, 2, 3))
    ).mean()


def dice(
    logits: torch.Tensor,
    truth: torch.Tensor,
    weight: torch.Tensor,
    activation: Activation = "sigmoid",
) -> torch.Tensor:
    """1 - (2 I + 1) / (P + T + 1) of each class over the whole batch, then the mean (Severstal
    two-stage report, equation 1).

    The report has neither the ones, which are those of `smooth_iou`, nor the "1 -": so a class that
    is absent and not predicted costs nothing, and is no division by zero.
    """
    p = probability(logits, activation)
    return _smooth_ratio(_of_class(2 * weight * p * truth), _of_class(weight * (p + truth))).mean()


def tversky(
    alpha: float,
    activation: Activation = "sigmoid",
    beta: float | None = None,
    background: bool = False,
    absent: bool = True,
    smooth: float = 1.0,
) -> Loss:
    """1 - (TP + smooth) / (TP + alpha FN + beta FP + smooth) of each class over the whole batch,
    then the mean.

    Severstal two-stage report, equation 3 (Salehi et al. 2017), with ones and the "1 -" as in
    `dice`. The pruning study's equation 8 has alpha and beta the other way round and no "1 -"; its
    code takes the library's: with the background, without `smooth`, absent classes costing nothing.

    Args:
        beta: 1 - alpha without it.
        background: count it as a class; with "softmax" only.
        absent: whether a class without a true pixel costs what it is falsely given; otherwise 0.
    """
    beta = 1 - alpha if beta is None else beta

    def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = probability(logits, activation)
        if background:
            p, truth = (_with_background(x) for x in (p, truth))
        found, missed, false = p * truth, (1 - p) * truth, p * (1 - truth)
        part = _of_class(weight * found)
        whole = _of_class(weight * (found + alpha * missed + beta * false))
        if absent:
            return _smooth_ratio(part, whole, smooth).mean()
        shown = _of_class(weight * truth) > 0
        return torch.where(shown, _smooth_ratio(part, whole, smooth), 0).mean()

    return loss


def _with_background(classes: torch.Tensor) -> torch.Tensor:
    """Probabilities or masks (B, K + 1, H, W), first of the background: what no class has."""
    return torch.cat([(1 - classes.sum(1, keepdim=True)).clamp(min=0), classes], dim=1)


def _of_class(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.sum((0, 2, 3))


def _smooth_ratio(part: torch.Tensor, whole: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    return 1 - (part + smooth) / (whole + smooth).clamp(min=1e-7)


def lovasz(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The Lovasz hinge over the whole batch and all classes, a convex stand-in for 1 - IoU (Berman
    et al. 2018, equations 8 and 11).

    Errors, the largest first, weigh what each adds to the Jaccard loss of those before it.
    """
    seen = weight.expand_as(logits).flatten() > 0
    logits, truth = (
        x.flatten()[seen].to(torch.promote_types(logits.dtype, torch.float32))
        for x in (logits, truth)
    )
    errors, order = (1 - logits * (2 * truth - 1)).sort(descending=True, stable=True)
    corroded = truth[order]
    union = corroded.sum() + (1 - corroded).cumsum(0)
    # the first defect-free pixel of a batch without corrosion: 1
    jaccard = 1 - (corroded.sum() - corroded.cumsum(0)) / union.clamp(min=1)
    return (errors.relu() * jaccard.diff(prepend=jaccard.new_zeros(1))).sum()


def bce(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over the weighted pixels of all classes (CorroSeg paper,
    section 4.1).
    """
    return _mean(_binary_cross_entropy(logits, truth), weight)


def focal(alpha: float, gamma: float) -> Loss:
    """-alpha (1 - p)^gamma log p on corrosion, -(1 - alpha) p^gamma log(1 - p) elsewhere (Lin et
    al. 2018; CorroSeg paper, section 4.2).
    """

    def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = probability(logits)
        missed = torch.where(truth > 0.5, 1 - p, p)
        balance = torch.where(truth > 0.5, alpha, 1 - alpha)
        return _mean(balance * missed**gamma * _binary_cross_entropy(logits, truth), weight)

    return loss


def cross_entropy(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Categorical cross-entropy of logits (B, K + 1, H, W), the background first; mean over the
    weighted pixels.

    Severstal two-stage report, section 4.2. A pixel belongs to the class of the largest truth, to
    the first of equals where classes overlap, and to the background where none is above 1/2.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest, of_class = truth.max(dim=1, keepdim=True)
    label = torch.where(largest > 0.5, of_class + 1, 0)
    own = label == torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    # A sum over a mask, because torch's own cross-entropy of images is not deterministic on CUDA.
    return _mean(-torch.where(own, logits.log_softmax(dim=1), 0).sum(dim=1, keepdim=True), weight)


def _binary_cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")


def _mean(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean of a loss (B, K, H, W) over weighted pixels and over channels."""
    return (weight * loss).sum() / (weight.sum() * loss.shape[1]).clamp(min=1)


def of_phase(phase: Phase, activation: Activation = "sigmoid") -> Loss:
    """The weighted sum of losses that a recipe names, as in `loss = { smooth_iou = 1.0, bce = 0.5
    }`.

    Raises:
        UserError: a loss that has no meaning with this activation.
    """
    for name in phase.loss:
        if OF_ONE_ACTIVATION.get(name, activation) != activation:
            instead = "cross_entropy" if activation == "softmax" else "bce or focal"
            raise UserError(
                f'loss "{name}" has no meaning with activation = "{activation}": use {instead}'
            )
    if phase.tversky_background and activation == "sigmoid":
        raise UserError(
            'tversky_background needs activation = "softmax": with "sigmoid" there is no background'
        )
    known: dict[str, Loss] = {
        "smooth_iou": partial(smooth_iou, activation=activation),
        "smooth_iou_per_patch": partial(smooth_iou_per_patch, activation=activation),
        "dice": partial(dice, activation=activation),
        "tversky": tversky(
            phase.tversky_alpha,
            activation,
            phase.tversky_beta,
            phase.tversky_background,
            phase.tversky_absent,
            phase.tversky_smooth,
        ),
        "bce": bce,
        "lovasz": lovasz,
        "focal": focal(phase.focal_alpha, phase.focal_gamma),
        "cross_entropy": cross_entropy,
    }
    return lambda logits, truth, weight: sum(
        factor * known[name](logits, truth, weight) for name, factor in phase.loss.items()
    )
