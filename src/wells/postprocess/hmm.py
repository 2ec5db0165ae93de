"""Smooth a strip along depth with a hidden Markov model, so that a groove is found through faint
stretches.

A groove runs through hundreds of rows and drifts slowly around the pipe. Where it is faint a
network hesitates at every pixel, but the hesitations line up along depth, and nothing else in the
strip does: a model that knows how grooves drift tells the two apart.
"""

import numpy as np

from src.recipe import HMM

BATCH = 32  # strips that go through the model side by side, so that few long arrays are in memory


def smooth(logits: list[np.ndarray], settings: HMM) -> list[np.ndarray]:
    """Logits of strips, raised beside a groove that goes on along depth and lowered
    elsewhere.

    To each pixel's logit come `strength` times the log-odds that a groove's centre lies within
    `width` columns of it.

    Args:
        logits: (rows, W) for each strip.

    Returns:
        The same shapes, float64.
    """
    result: list[np.ndarray] = [np.empty(0)] * len(logits)
    order = sorted(range(len(logits)), key=lambda strip: len(logits[strip]))
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        for strip, centre in zip(
            batch, centres([logits[strip] for strip in batch], settings), strict=True
        ):
            near = np.clip(around(centre, settings.width), 0.005, 0.995)
            rows = np.repeat(np.log(near / (1 - near)), settings.rows, axis=0)[: len(logits[strip])]
            result[strip] = logits[strip] + settings.strength * rows
    return result


def centres(logits: list[np.ndarray], settings: HMM) -> list[np.ndarray]:
    """The probability that a groove's centre is at each column, given the whole strip.

    Depth advances in steps of `rows` rows. The hidden state is the column of the centre, or that
    there is no groove; a groove ends and another begins with the chance `change` a step, and
    between two steps a centre moves by a normal deviation of `drift` columns, around the ring. The
    evidence for a centre is the mean logit of three columns over the step, less `floor`, times
    `weight`, as the log-likelihood ratio against no groove. Marginals come from the
    forward-backward recursion (Rabiner 1989, equations 19 to 27).

    Args:
        logits: (rows, W) for each strip.

    Returns:
        (steps, W) for each strip, float32; a row sums to the probability that there is a groove.
    """
    evidence = [
        settings.weight * (around(_steps(strip, settings.rows), 1) / 3 - settings.floor)
        for strip in logits
    ]
    longest, width = max(map(len, evidence)), logits[0].shape[1]
    # Below the end of a shorter strip every state is as likely as any other, and says nothing about
    # the rows above.
    likelihood = np.ones((longest, len(logits), width + 1), np.float32)
    for strip, own in enumerate(evidence):
        likelihood[: len(own), strip, :width] = np.exp(np.clip(own, -20, 20))
    marginal = _forward_backward(likelihood, _transition(width, settings))
    return [marginal[: len(own), strip, :width] for strip, own in enumerate(evidence)]


def around(x: np.ndarray, reach: int) -> np.ndarray:
    """The sum over the columns within `reach` of each column, around the ring."""
    return sum(np.roll(x, shift, axis=1) for shift in range(-reach, reach + 1))


def _steps(strip: np.ndarray, rows: int) -> np.ndarray:
    """Means (steps, W) over every `rows` rows; what is left at the end makes a step of its own."""
    first = np.arange(0, len(strip), rows)
    return np.add.reduceat(strip, first, axis=0) / np.diff(np.append(first, len(strip)))[:, None]


def _transition(width: int, settings: HMM) -> np.ndarray:
    """(W + 1, W + 1) chances of the next state (column) after a state (row); the last state is
    "no groove".
    """
    distance = np.minimum(np.arange(width), width - np.arange(width))
    move = np.exp(-0.5 * (distance / settings.drift) ** 2)
    chances = np.full((width + 1, width + 1), settings.change / width)
    chances[:width, :width] = [
        (1 - settings.change) * np.roll(move / move.sum(), column) for column in range(width)
    ]
    chances[:width, width], chances[width, width] = settings.change, 1 - settings.change
    return chances.astype(np.float32)


def _forward_backward(likelihood: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """Marginals (steps, strips, states) of hidden states; every strip begins like one long
    without evidence.
    """
    marginal = np.empty_like(likelihood)
    width = likelihood.shape[2] - 1
    message = np.full(likelihood.shape[1:], 0.5 / width, np.float32)
    message[:, -1] = 0.5
    for step, own in enumerate(likelihood):
        message = (message @ transition if step else message) * own
        message /= message.sum(1, keepdims=True)
        marginal[step] = message
    message = np.ones_like(message)
    for step in reversed(range(len(likelihood))):
        marginal[step] *= message
        message = (message * likelihood[step]) @ transition.T
        message /= message.max(1, keepdims=True)
    return marginal / marginal.sum(2, keepdims=True)
