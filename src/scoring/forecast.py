"""The score to expect on wells that nobody has seen, and how far off that may be.

Wells differ much more than chance within a well would have them, and there are few: what every
challenge draws anew is its wells, not its patches. So a well's mean score is taken to be a draw
from a population of wells,

    mean of well i = m + u_i + e_i,    u_i ~ N(0, tau^2),    e_i ~ N(0, s^2(n_i)),

with e_i what chance adds within a well of n_i patches: the random-effects model of Gelman et al.,
Bayesian Data Analysis (3rd ed.), section 5.4, and of Higgins, Thompson and Spiegelhalter, J. R.
Stat. Soc. A 172 (2009) 137, who ask it about a new study as this does about new wells.
docs/forecast.md has the figures behind the choices:

- The centre m is the mean over patches, as the score is. Weighting wells alike would be a little
  sharper where a well's size says nothing about its score, but is far off where it does: small
  wells may be clean, or easier.
- tau is not known but has a distribution: flat over 0..1/2 before the wells are seen (Gelman,
  Bayesian Analysis 1 (2006) 515), as no scores within 0..1 vary more. With k wells this widens the
  interval about as Student's t with k - 2 degrees of freedom does, and needs no special case for
  one or two wells, from which it becomes as wide as it must. Drawing new wells from those seen
  would be too sure of itself.
- Each test well brings a draw of its own, weighted by its patches, which are known: one huge well
  makes the score as uncertain as one well.
- s^2(n) comes from the means of blocks of consecutive patches, since neighbours resemble each
  other.

The test set is predicted by the average over the folds' networks, while each of them alone scored
out of fold. How much that removes of the squared error is known without the truth: exactly the
variance among the networks (Krogh and Vedelsby, Advances in Neural Information Processing Systems 7
(1995) 231). The forecast takes it that what a score lacks of 1 shrinks by the same share.

What it cannot know: that test wells may be of another kind than any in training.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

BLOCK = 16  # patches; with 1 to 32 the intervals on simulated wells are about a tenth wider at most
SPREADS = (np.arange(250) + 0.5) / 500  # the values of tau
COVERAGE = 0.9


@dataclass(frozen=True)
class Forecast:
    """The score to expect as the mean over the patches of some test wells, and an interval for
    it.
    """

    score: float
    low: float
    high: float


def expect(
    score: np.ndarray, well: np.ndarray, test_patches: np.ndarray, removed: float = 0.0
) -> Forecast:
    """Forecast the mean score over the patches of unseen wells of known sizes.

    Args:
        score: (N,) out-of-fold scores of patches, 0 to 1, none used for choosing what it is scored
            on; in order along each well.
        well: (N,) the well of each.
        test_patches: (W,) the number of patches of each test well.
        removed: the share of the error that averaging removes on the test set, as
            `removed_by_averaging` gives it.

    Returns:
        The expected score, and an interval that holds the true one with a probability of 90 %.
    """
    score = 1 - (1 - score) * (1 - removed)
    wells = [score[well == name] for name in np.unique(well)]
    mean, patches = np.array([own.mean() for own in wells]), np.array([len(own) for own in wells])
    sizes = {size: min(size, BLOCK) for size in {*patches.tolist(), *test_patches.tolist()}}
    # few, however many wells there are
    by_block = {block: chance(wells, block) for block in set(sizes.values())}
    by_size = {size: by_block[block] * block / size for size, block in sizes.items()}
    noise, test_noise = (
        np.array([by_size[size] for size in sizes.tolist()]) for sizes in (patches, test_patches)
    )
    weight, test_weight = patches / patches.sum(), test_patches / test_patches.sum()

    centre = weight @ mean
    of_centre = (weight**2) @ (SPREADS**2 + noise[:, None])
    of_test = (test_weight**2) @ (SPREADS**2 + test_noise[:, None])
    low, high = _interval(centre, np.sqrt(of_centre + of_test), spread(mean, noise))
    return Forecast(float(centre), low, high)


def removed_by_averaging(
    folds: Iterable[np.ndarray], oof: Iterable[tuple[np.ndarray, np.ndarray]]
) -> float:
    """The share of the squared error of the folds' predictions, 0 to 1, that their average does not
    have.

    Args:
        folds: (F, n, H, W) the probabilities of some test patches from each fold's networks, until
            there are no more.
        oof: (n, H, W) the probabilities of some training patches out of fold, and their truth: what
            the folds' squared error is.
    """
    error = _mean((probability.astype(np.float32) - mask) ** 2 for probability, mask in oof)
    return min(1.0, _mean(own.astype(np.float32).var(0) for own in folds) / error) if error else 0.0


def _mean(parts: Iterable[np.ndarray]) -> float:
    """The mean over arrays of any sizes, as if they were one."""
    total, count = 0.0, 0
    for part in parts:
        total, count = total + part.sum(dtype=np.float64), count + part.size
    return float(total / count)


def spread(mean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The probability of each of `SPREADS`, given the wells' means (K,) and the variance (K,) that
    chance within the wells adds to them.

    Equation 5.21 of Bayesian Data Analysis, with flat distributions for tau and the population's
    mean.
    """
    variance = SPREADS[:, None] ** 2 + noise
    precision = (1 / variance).sum(1)
    pooled = (mean / variance).sum(1) / precision
    log = -0.5 * (
        np.log(precision) + (np.log(variance) + (mean - pooled[:, None]) ** 2 / variance).sum(1)
    )
    probability = np.exp(log - log.max())
    return probability / probability.sum()


def chance(wells: list[np.ndarray], patches: int) -> float:
    """The variance of the mean score of `patches` consecutive patches of one well, about what the
    well is like as a whole.

    From the scores of the training wells: how the means of blocks of at most `BLOCK` patches
    scatter within a well. Zero where no well has two blocks, which leaves all differences to the
    wells.
    """
    block = min(patches, BLOCK, max(len(own) for own in wells) // 2)
    if block == 0:
        return 0.0
    blocks = [
        own[: len(own) // block * block].reshape(-1, block).mean(1)
        for own in wells
        if len(own) >= 2 * block
    ]
    scatter = sum(((own - own.mean()) ** 2).sum() for own in blocks) / sum(
        len(own) - 1 for own in blocks
    )
    return float(scatter * block / patches)


def _interval(centre: float, deviation: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """Where a mixture of normal distributions, cut off at 0 and 1, leaves half of the rest below
    and half above.
    """
    x = np.linspace(0, 1, 401)
    below = ndtr((x[:, None] - centre) / deviation) @ probability
    low, high = np.interp([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], below, x)
    return float(low), float(high)
