"""Refine probabilities into masks on whole strips, with the ring closed: no patch edge and no seam shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from skimage import segmentation

from src.artifacts import Arrays
from src.metrics import Score
from src.pipe import Strip, strips
from src.recipe import Postprocess


@dataclass(frozen=True)
class Refinement:
    """Threshold the probability or, with `beta`, what a random walker makes of it at one half; then drop small components."""

    threshold: float
    beta: float | None = None
    min_size: int = 0

    @property
    def plain(self) -> bool:
        return self.beta is None and self.min_size == 0


def candidates(settings: Postprocess, threshold: float) -> list[Refinement]:
    """What 04_postprocess.py chooses from; the plain threshold comes first and so wins a tie."""
    betas = [None, *(settings.betas if settings.random_walker else [])]
    sizes = sorted({0, *settings.min_sizes})
    return [Refinement(threshold if beta is None else 0.5, beta, size) for beta in betas for size in sizes]


@dataclass(frozen=True)
class Chosen:
    """The refinement to apply, with the out-of-fold scores (N,) that it and the plain threshold honestly earned."""

    refinement: Refinement
    score: np.ndarray
    plain_score: np.ndarray
    table: dict[Refinement, float]


def choose(train: Arrays, probability: np.ndarray, thresholds: dict[str, Any], settings: Postprocess, score: Score) -> Chosen:
    """Choose among `candidates` by the out-of-fold score; the plain threshold stays unless refinement raises it.

    Each fold is scored under the candidate that is best on the other folds, at the threshold that was chosen on the other folds.

    Args:
        train: the scored patches: `image`, `valid`, `group`, `depth`, `phase`, `mask`, `fold`.
        probability: (N, H, W) out of fold.
        thresholds: as `src.ensemble.describe_thresholds` gives them.
    """
    without = {fold: thresholds["threshold_without_fold"][str(fold)] for fold in np.unique(train["fold"]).tolist()}
    usual = settings.apply == "if_better"
    final = candidates(settings, thresholds["threshold"])
    wanted = dict.fromkeys(c for threshold in [thresholds["threshold"], *without.values()] for c in candidates(settings, threshold))
    scores = {c: score(mask, train["mask"]) for c, mask in refine(train, probability, list(wanted), settings).items()}

    nested, plain = np.empty(len(probability)), np.empty(len(probability))
    for fold, threshold in without.items():
        own = train["fold"] == fold
        allowed = [c for c in candidates(settings, threshold) if usual or not c.plain]
        best = max(allowed, key=lambda c: scores[c][~own].mean())
        nested[own], plain[own] = scores[best][own], scores[Refinement(threshold)][own]
    best = max([c for c in final if usual or not c.plain], key=lambda c: scores[c].mean())
    if usual and (best.plain or nested.mean() <= plain.mean()):
        best, nested = Refinement(thresholds["threshold"]), plain
    return Chosen(best, nested, plain, {c: float(scores[c].mean()) for c in final})


def refine(arrays: Arrays, probability: np.ndarray, refinements: list[Refinement], settings: Postprocess) -> dict[Refinement, np.ndarray]:
    """Masks (N, H, W) uint8 of a split under each of several refinements.

    Args:
        arrays: `image`, `valid`, `group`, `depth`, `phase` of the split; a patch without a valid pixel gets an empty mask.
        probability: (N, H, W).
    """
    measured = arrays["valid"].any((1, 2))
    probability = probability * measured[:, None, None]  # what was not measured is no seed of corrosion for its neighbours
    masks = {refinement: np.zeros(probability.shape, np.uint8) for refinement in refinements}
    for strip in strips(arrays["group"], arrays["depth"], arrays["phase"]):
        for beta in {refinement.beta for refinement in refinements}:
            walked = _walk(strip, arrays["image"], probability, beta, settings)
            for refinement in refinements:
                if refinement.beta == beta:
                    mask = walked > (refinement.threshold if beta is None else 0.5)
                    strip.unstack(remove_small(mask, refinement.min_size), masks[refinement])
    for mask in masks.values():
        mask[~measured] = 0
    return masks


def _walk(strip: Strip, image: np.ndarray, probability: np.ndarray, beta: float | None, settings: Postprocess) -> np.ndarray:
    """What a random walker makes of a strip's probability; without `beta`, the probability itself."""
    limits = settings.seed_above, settings.seed_below
    if beta is not None and settings.walk_on == "patches":
        walked = np.zeros(probability.shape)
        for row in strip.index[strip.index >= 0]:
            walked[row] = random_walker_on_patch(image[row], probability[row].astype(np.float64), beta, *limits)
        return strip.stack(walked)
    p = strip.stack(probability.astype(np.float64))
    return p if beta is None else random_walker(strip.stack(image), p, beta, *limits)


def random_walker(image: np.ndarray, probability: np.ndarray, beta: float, above: float, below: float) -> np.ndarray:
    """The chance that a walker from each pixel meets a corroded seed before a clean one (Grady 2006, equation 8).

    Seeds are the pixels with a probability beyond `above` (corroded) or under `below` (clean). Steps between neighbours are weighted
    exp(-beta d^2 / (10 sigma)) with d the difference of the two pixels and sigma the standard deviation of the image, as in
    scikit-image; unlike there, the first and the last column are neighbours. Without any seed the probability is returned as it is.

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
    half = sparse.coo_array((-weight[inside], (place[a[inside]], place[b[inside]])), shape=(count, count))
    laplacian = half + half.T + sparse.diags_array(degree)
    result[free.reshape(result.shape)] = spsolve(sparse.csc_array(laplacian), pull).clip(0, 1)
    return result


def _neighbours(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of every edge between pixels of a strip: around the ring, and downwards."""
    number = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.concatenate([number.ravel(), number[:-1].ravel()]), np.concatenate([np.roll(number, -1, 1).ravel(), number[1:].ravel()])


def random_walker_on_patch(image: np.ndarray, probability: np.ndarray, beta: float, above: float, below: float) -> np.ndarray:
    """`random_walker` as the CorroSeg paper has it, by scikit-image: one patch, an open seam, intensities stretched to 0..255."""
    seeds = np.where(probability > above, 2, np.where(probability < below, 1, 0))
    if len(np.unique(seeds)) < 3:  # nothing free, or seeds of one kind only, to which every walker comes
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
    links = sparse.coo_array((np.ones(joined.sum()), (a[joined], b[joined])), shape=(count + 1, count + 1))
    component = connected_components(links, directed=False)[1][label]
    size = np.bincount(component[mask])
    return mask & (size[np.where(mask, component, component[mask][0])] >= min_size)
