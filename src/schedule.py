"""Learning-rate schedules, as factors of the phase's learning rate."""

import math

from src.recipe import Phase


def learning_rate(phase: Phase, progress: float) -> float:
    """The rate at a point of a phase.

    The first `warmup` share of the phase climbs linearly; then the rate stays ("constant") or follows half a cosine to zero.

    Args:
        progress: from 0 at the first step to 1 after the last.
    """
    if progress < phase.warmup:
        return phase.learning_rate * progress / phase.warmup
    if phase.schedule == "constant":
        return phase.learning_rate
    return phase.learning_rate * (1 + math.cos(math.pi * (progress - phase.warmup) / (1 - phase.warmup))) / 2
