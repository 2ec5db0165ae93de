"""Refine probabilities into masks on whole strips, with the ring closed: no patch edge and no seam shows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from skimage import segmentation

from src import ensemble
from src.artifacts import Arrays
from src.metrics import Score
from src.pipe import Strip, interleaved, strips
from src.recipe import Postprocess, Track
from src.track import follow

Sources = dict[Track | None, np.ndarray]


@dataclass(frozen=True)
class Refinement:
    """How a probability becomes a mask: perhaps follow grooves along depth (`src.track`), then a threshold; or, with `beta`, a random
    walker at one half; then drop small components and, last, empty patches with few marked pixels.
    """

    threshold: float
    beta: float | None = None
    min_size: int = 0
    track: Track | None = None
    min_in_patch: int = 0

    @property
    def plain(self) -> bool:
        return self.beta is None and self.min_size == 0 and self.track is None and self.min_in_patch == 0


def candidates(settings: Postprocess, thresholds: dict[Track | None, float]) -> list[Refinement]:
    """What 04_postprocess.py chooses from; the plain threshold comes first and so wins a tie.

    Args:
        thresholds: one for the probability as it is (None), and one for what each track makes of it.
    """
    sizes = list(product(sorted({0, *settings.min_in_patch}), sorted({0, *settings.min_sizes})))
    result = [Refinement(thresholds[track], None, size, track, few) for track in (None, *settings.tracks) for few, size in sizes]
    betas = settings.betas if settings.random_walker else []
    return result + [Refinement(0.5, beta, size, None, few) for beta in betas for few, size in sizes]


@dataclass(frozen=True)
class Chosen:
    """The refinement to apply, with the out-of-fold scores (N,) that it and the plain threshold honestly earned.

    `for_interleaved` is another refinement for interleaved wells, where there is one. `table` holds every candidate's mean score on the
    wells that it was chosen on (without the interleaved ones where these have their own).
    """

    refinement: Refinement
    score: np.ndarray
    plain_score: np.ndarray
    table: dict[Refinement, float]
    for_interleaved: Refinement | None = None


def choose(train: Arrays, probability: np.ndarray, thresholds: dict[str, Any], settings: Postprocess, score: Score) -> Chosen:
    """Choose among `candidates` by the out-of-fold score; the plain threshold stays unless refinement raises it.

    Each fold is scored under the candidate that is best on the other folds, at the threshold that was chosen on the other folds. With
    `settings.by_scan` interleaved wells and the others, if either fill two folds, choose by themselves, thresholds too.

    Args:
        train: the scored patches: `image`, `valid`, `group`, `depth`, `phase`, `mask`, `fold`.
        probability: (N, H, W) out of fold.
        thresholds: as `src.ensemble.describe_thresholds` gives them.
    """
    sources = _sources(train, probability, settings.tracks)
    together = _choose(train, sources, thresholds, settings, score)
    kind = interleaved(train["group"], train["phase"])
    if not settings.by_scan or min(len(np.unique(train["fold"][kind == k])) for k in (False, True)) < 2:
        return together
    nested, parts = np.empty(len(probability)), {}
    for k in (False, True):
        own = {name: array[kind == k] for name, array in train.items()}
        of_kind = {track: source[kind == k] for track, source in sources.items()}
        parts[k] = _choose(own, of_kind, _thresholds(own, of_kind[None], score), settings, score)
        nested[kind == k] = parts[k].score
    if nested.mean() <= together.score.mean():
        return together
    return Chosen(parts[False].refinement, nested, together.plain_score, parts[False].table, parts[True].refinement)


def _choose(train: Arrays, sources: Sources, thresholds: dict[str, Any], settings: Postprocess, score: Score) -> Chosen:
    """`choose` for wells of all kinds together."""
    usual, folds = settings.apply == "if_better", np.unique(train["fold"]).tolist()
    by_source = {None: thresholds} | {track: _thresholds(train, sources[track], score) for track in settings.tracks}
    final = candidates(settings, {source: own["threshold"] for source, own in by_source.items()})
    without = {
        fold: candidates(settings, {source: own["threshold_without_fold"][str(fold)] for source, own in by_source.items()})
        for fold in folds
    }
    scores = {c: np.empty(len(train["mask"])) for some in (final, *without.values()) for c in some}
    for c, rows, masks in _refined(train, sources, list(scores), settings):
        scores[c][rows] = score(masks, train["mask"][rows])

    nested, plain = np.empty(len(train["mask"])), np.empty(len(train["mask"]))
    for fold, allowed in without.items():
        own = train["fold"] == fold
        best = max([c for c in allowed if usual or not c.plain], key=lambda c: scores[c][~own].mean())
        nested[own], plain[own] = scores[best][own], scores[allowed[0]][own]
    best = max([c for c in final if usual or not c.plain], key=lambda c: scores[c].mean())
    if usual and (best.plain or nested.mean() <= plain.mean()):
        best, nested = final[0], plain
    return Chosen(best, nested, plain, {c: float(scores[c].mean()) for c in final})


def _thresholds(train: Arrays, probability: np.ndarray, score: Score) -> dict[str, Any]:
    scores = ensemble.threshold_scores(probability[:, None], train["mask"], score)
    return ensemble.describe_thresholds(ensemble.choose(scores, train["fold"]))


def apply(arrays: Arrays, probability: np.ndarray, chosen: Chosen, settings: Postprocess) -> np.ndarray:
    """The masks (N, H, W) uint8 of a split, each well refined as was chosen for its kind."""
    wanted = [chosen.refinement, chosen.for_interleaved or chosen.refinement]
    masks = refine(arrays, probability, wanted, settings)
    other = interleaved(arrays["group"], arrays["phase"])
    return np.where(other[:, None, None], masks[wanted[1]], masks[wanted[0]])


def refine(arrays: Arrays, probability: np.ndarray, refinements: list[Refinement], settings: Postprocess) -> dict[Refinement, np.ndarray]:
    """Masks (N, H, W) uint8 of a split under each of several refinements.

    Args:
        arrays: `image`, `valid`, `group`, `depth`, `phase` of the split; a patch without a valid pixel gets an empty mask.
        probability: (N, H, W).
    """
    masks = {refinement: np.zeros(probability.shape, np.uint8) for refinement in refinements}
    sources = _sources(arrays, probability, [refinement.track for refinement in refinements if refinement.track])
    for refinement, rows, own in _refined(arrays, sources, refinements, settings):
        masks[refinement][rows] = own
    return masks


def _sources(arrays: Arrays, probability: np.ndarray, tracks: Iterable[Track]) -> Sources:
    """The probabilities (N, H, W) as they are, and what each track makes of them."""
    return {None: probability} | {track: followed(arrays, probability, track) for track in dict.fromkeys(tracks)}


def _refined(
    arrays: Arrays, sources: Sources, refinements: list[Refinement], settings: Postprocess
) -> Iterator[tuple[Refinement, np.ndarray, np.ndarray]]:
    """For each refinement and strip the rows (n,) of its patches and their masks (n, H, W): nothing is held for all strips at once."""
    measured = arrays["valid"].any((1, 2))
    wells = strips(arrays["group"], arrays["depth"], arrays["phase"])
    for beta, track in dict.fromkeys((refinement.beta, refinement.track) for refinement in refinements):
        own = [refinement for refinement in refinements if (refinement.beta, refinement.track) == (beta, track)]
        for strip in wells:
            present = strip.index >= 0
            rows = strip.index[present]
            walked = _walk(strip, arrays["image"], sources[track], measured, beta, settings)
            for refinement in own:
                mask = remove_small(walked > refinement.threshold, refinement.min_size)
                patches = mask.reshape(len(present), -1, mask.shape[1])[present]
                patches[~measured[rows] | (patches.sum((1, 2)) < refinement.min_in_patch)] = 0
                yield refinement, rows, patches


def followed(arrays: Arrays, probability: np.ndarray, track: Track) -> np.ndarray:
    """The probabilities (N, H, W) float32 of a split after grooves were followed along depth."""
    measured, result = arrays["valid"].any((1, 2)), np.zeros(probability.shape, np.float32)
    wells = strips(arrays["group"], arrays["depth"], arrays["phase"])
    for strip, own in zip(wells, follow([_logits(strip, probability, measured) for strip in wells], track), strict=True):
        strip.unstack(1 / (1 + np.exp(-own)), result)
    return result


def _logits(strip: Strip, probability: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(rows, W) float64 of a strip; zero in missing patches, which say nothing."""
    present = strip.index >= 0
    rows = strip.index[present]
    p = np.clip(probability[rows].astype(np.float64) * measured[rows, None, None], 0.005, 0.995)
    logits = np.zeros((len(present), *p.shape[1:]))
    logits[present] = np.log(p / (1 - p))
    return logits.reshape(-1, p.shape[2])


def _walk(
    strip: Strip, image: np.ndarray, probability: np.ndarray, measured: np.ndarray, beta: float | None, settings: Postprocess
) -> np.ndarray:
    """What a random walker makes of a strip's probability; without `beta`, the probability itself."""
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
