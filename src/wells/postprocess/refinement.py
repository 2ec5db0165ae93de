"""Refine probabilities into masks on whole strips, with the ring closed: no patch edge and no
seam shows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from skimage import segmentation

from src.artifacts.sealed import Arrays
from src.recipe import HMM, Postprocess
from src.wells.geometry import Strip, strips
from src.wells.postprocess import hmm

Sources = dict[HMM | None, np.ndarray]


@dataclass(frozen=True)
class Refinement:
    """How a probability becomes a mask: perhaps HMM smoothing along depth, then a threshold; or,
    with `beta`, a random walker at one half; then small components are dropped and, last, patches
    with few marked pixels emptied.
    """

    threshold: float
    beta: float | None = None
    min_size: int = 0
    hmm: HMM | None = None
    min_in_patch: int = 0

    @property
    def plain(self) -> bool:
        return self == Refinement(self.threshold)

    def __str__(self) -> str:
        text = f"threshold {self.threshold:.2f}"
        if self.beta is not None:
            text = f"random walker, beta {self.beta:g}"
        if self.hmm:
            own = f"floor {self.hmm.floor:g}, strength {self.hmm.strength:g}"
            text = f"HMM smoothing ({own}), {text}"
        if self.min_size > 1:
            text += f", components of {self.min_size} pixels or more"
        if self.min_in_patch > 1:
            text += f", patches of {self.min_in_patch} pixels or more"
        return text


def refine(
    arrays: Arrays, probability: np.ndarray, refinements: list[Refinement], settings: Postprocess
) -> dict[Refinement, np.ndarray]:
    """Masks (N, H, W) uint8 of a split under each of several refinements.

    Args:
        arrays: `image`, `valid`, `group`, `depth`, `parity` of the split; a patch without a valid
            pixel gets an empty mask.
        probability: (N, H, W).
    """
    masks = {refinement: np.zeros(probability.shape, np.uint8) for refinement in refinements}
    hmms = [refinement.hmm for refinement in refinements if refinement.hmm]
    sources = smoothed(arrays | {"probability": probability}, hmms)
    for refinement, rows, own in refined(arrays, sources, refinements, settings):
        masks[refinement][rows] = own
    return masks


def smoothed(arrays: Arrays, hmms: Iterable[HMM]) -> Sources:
    """The probabilities (N, H, W) as they are (None), and what each hidden Markov model makes of
    them along depth (`src.wells.postprocess.hmm`).
    """
    probability, measured = arrays["probability"], arrays["valid"].any((1, 2))
    wells = strips(arrays["group"], arrays["depth"], arrays["parity"])
    sources: Sources = {None: probability}
    for settings in dict.fromkeys(hmms):
        result = np.zeros(probability.shape, np.float32)
        logits = hmm.smooth([_logits(strip, probability, measured) for strip in wells], settings)
        for strip, own in zip(wells, logits, strict=True):
            strip.unstack(1 / (1 + np.exp(-own)), result)
        sources[settings] = result
    return sources


def refined(
    arrays: Arrays, sources: Sources, refinements: list[Refinement], settings: Postprocess
) -> Iterator[tuple[Refinement, np.ndarray, np.ndarray]]:
    """For each refinement and strip the rows (n,) of its patches and their masks (n, H, W):
    nothing is held for all strips at once.
    """
    measured = arrays["valid"].any((1, 2))
    wells = strips(arrays["group"], arrays["depth"], arrays["parity"])
    for beta, smoothing in dict.fromkeys((own.beta, own.hmm) for own in refinements):
        # those that differ only in what they empty
        alike: dict[tuple[float, int], list[Refinement]] = {}
        for own in refinements:
            if (own.beta, own.hmm) == (beta, smoothing):
                alike.setdefault((own.threshold, own.min_size), []).append(own)
        for strip in wells:
            present = strip.index >= 0
            rows = strip.index[present]
            walked = _walk(strip, arrays["image"], sources[smoothing], measured, beta, settings)
            for (threshold, min_size), some in alike.items():
                mask = remove_small(walked > threshold, min_size)
                patches = mask.reshape(len(present), -1, mask.shape[1])[present]
                marked = patches.sum((1, 2)) * measured[rows]
                for own in some:
                    kept = marked >= max(1, own.min_in_patch)
                    yield own, rows, patches & kept[:, None, None]


def _logits(strip: Strip, probability: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(rows, W) float64 of a strip; zero in missing patches, which say nothing."""
    present = strip.index >= 0
    rows = strip.index[present]
    p = np.clip(probability[rows].astype(np.float64) * measured[rows, None, None], 0.005, 0.995)
    logits = np.zeros((len(present), *p.shape[1:]))
    logits[present] = np.log(p / (1 - p))
    return logits.reshape(-1, p.shape[2])


def _walk(
    strip: Strip,
    image: np.ndarray,
    probability: np.ndarray,
    measured: np.ndarray,
    beta: float | None,
    settings: Postprocess,
) -> np.ndarray:
    """What a random walker makes of a strip's probability; without `beta`, the probability
    itself.
    """
    # What was not measured is no seed of corrosion for its neighbours.
    known = np.repeat((strip.index >= 0) & measured[strip.index], image.shape[1])
    p = strip.stack(probability).astype(np.float64) * known[:, None]
    limits = settings.seed_above, settings.seed_below
    if beta is None:
        return p
    if settings.walk_on == "strips":
        return random_walker(strip.stack(image), p, beta, *limits)
    patches = p.reshape(len(strip.index), *image.shape[1:])
    for place, row in enumerate(strip.index):
        if row >= 0:
            patches[place] = random_walker_on_patch(image[row], patches[place], beta, *limits)
    return patches.reshape(p.shape)


def random_walker(
    image: np.ndarray, probability: np.ndarray, beta: float, above: float, below: float
) -> np.ndarray:
    """The chance that a walker from each pixel meets a corroded seed before a clean one (Grady
    2006, equation 8).

    Seeds are the pixels with a probability beyond `above` (corroded) or under `below` (clean).
    Steps between neighbours are weighted exp(-beta d^2 / (10 sigma)) with d the difference of the
    two pixels and sigma the standard deviation of the image, as in scikit-image; unlike there, the
    first and the last column are neighbours. Without any seed the probability is returned as it is.

    Args:
        image, probability: (rows, columns) of a strip.

    Returns:
        (rows, columns) float64.
    """
    free = (probability <= above) & (probability >= below)
    result = (probability > above).astype(np.float64)
    if free.all():
        return probability
    if not free.any():
        return result
    a, b = _neighbours(image.shape)
    free, seed, values = free.ravel(), result.ravel(), image.ravel().astype(np.float64)
    touching = free[a] | free[b]  # an edge between two seeds has no say
    a, b = a[touching], b[touching]
    weight = np.exp(-beta * (values[a] - values[b]) ** 2 / (10 * values.std() or 1.0)) + 1e-10

    # The Laplacian of the free pixels, and how strongly corroded seeds pull at each.
    count, place = int(free.sum()), np.cumsum(free) - 1
    degree, pull = np.zeros(count), np.zeros(count)
    for here, there in ((a, b), (b, a)):
        own = free[here]
        degree += np.bincount(place[here[own]], weight[own], count)
        pull += np.bincount(place[here[own]], (weight * seed[there] * ~free[there])[own], count)
    inside = free[a] & free[b]
    half = sparse.coo_array(
        (-weight[inside], (place[a[inside]], place[b[inside]])), shape=(count, count)
    )
    laplacian = half + half.T + sparse.diags_array(degree)
    result[free.reshape(result.shape)] = spsolve(sparse.csc_array(laplacian), pull).clip(0, 1)
    return result


def _neighbours(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of every edge between pixels of a strip: around the ring, and downwards."""
    number = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.concatenate([number.ravel(), number[:-1].ravel()]), np.concatenate(
        [np.roll(number, -1, 1).ravel(), number[1:].ravel()]
    )


def random_walker_on_patch(
    image: np.ndarray, probability: np.ndarray, beta: float, above: float, below: float
) -> np.ndarray:
    """`random_walker` as the CorroSeg paper has it, by scikit-image: one patch, an open seam,
    intensities stretched to 0..255.
    """
    seeds = np.where(probability > above, 2, np.where(probability < below, 1, 0))
    # nothing free, or seeds of one kind only, to which every walker comes
    if len(np.unique(seeds)) < 3:
        return probability if not seeds.any() else np.full(image.shape, float(seeds.max() == 2))
    stretched = np.interp(image, (image.min(), image.max()), (0, 255))
    return segmentation.random_walker(stretched, seeds, beta, mode="bf", return_full_prob=True)[1]


def remove_small(mask: np.ndarray, min_size: int) -> np.ndarray:
    """A strip's mask (rows, columns) without its components of fewer than `min_size` pixels.

    Pixels touch across edges, corners and the seam.
    """
    if min_size <= 1 or not mask.any():
        return mask
    label, count = ndimage.label(mask, np.ones((3, 3)))
    left, right = label[:, 0], np.pad(label[:, -1], 1)
    seam = [(left, right[1 + shift : 1 + shift + len(left)]) for shift in (-1, 0, 1)]
    a, b = (np.concatenate(side) for side in zip(*seam, strict=True))
    joined = (a > 0) & (b > 0)
    links = sparse.coo_array(
        (np.ones(joined.sum()), (a[joined], b[joined])), shape=(count + 1, count + 1)
    )
    # of each label; the background is one of its own
    component = connected_components(links, directed=False)[1]
    large = np.bincount(component, np.bincount(label.ravel()))[component] >= min_size
    large[0] = False
    return large[label]
