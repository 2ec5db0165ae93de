"""Learning-rate schedules, as factors of the phase's learning rate."""

import math
from collections.abc import Sequence

from src.recipe import Phase


def learning_rate(
    phase: Phase, progress: float, losses: Sequence[float] = (), step: int = 0
) -> float:
    """The rate at a point of a phase.

    The first `warmup` share of the phase climbs linearly; then the rate stays ("constant") or
    follows half a cosine to zero. "plateau" has no warm-up, and halves the rate whenever the loss
    stands still; "cyclic" has none either, and goes up and down in straight lines (Smith 2017;
    pruning study, section 3.2): `cycles` times in the phase, or, as torch's CyclicLR, once in two
    `half_cycle` steps, however long the phase is.

    Args:
        progress: from 0 at the first step to 1 after the last.
        losses: the training losses of the phase's epochs so far, for "plateau".
        step: how many steps of the phase are done, for `half_cycle`.
    """
    if phase.schedule == "plateau":
        return phase.learning_rate * plateau_factor(losses, phase.plateau_patience)
    if phase.schedule == "cyclic":
        turn = step / (2 * phase.half_cycle) if phase.half_cycle else progress * phase.cycles
        height = 1 - abs(1 - 2 * (turn % 1))
        return phase.lowest_rate + (phase.learning_rate - phase.lowest_rate) * height
    if progress < phase.warmup:
        return phase.learning_rate * progress / phase.warmup
    if phase.schedule == "constant":
        return phase.learning_rate
    return (
        phase.learning_rate
        * (1 + math.cos(math.pi * (progress - phase.warmup) / (1 - phase.warmup)))
        / 2
    )


def plateau_factor(losses: Sequence[float], patience: int) -> float:
    """1, halved after each `patience` epochs in a row whose loss is not below the lowest before
    them.

    As Keras's ReduceLROnPlateau counts (Severstal two-stage report, section 4.2); torch's waits one
    epoch longer.
    """
    factor, best, waited = 1.0, math.inf, 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == patience:
            factor, waited = factor / 2, 0
    return factor
