"""Refine probabilities into masks on whole strips, with the ring closed: no patch edge and no
seam shows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from skimage import segmentation

from src.artifacts import Arrays
from src.recipe import Postprocess, Track
from src.scoring.metrics import Score
from src.wells import selection
from src.wells.geometry import Strip, interleaved, strips
from src.wells.hmm import follow

Sources = dict[Track | None, np.ndarray]


@dataclass(frozen=True)
class Refinement:
    """How a probability becomes a mask: perhaps follow grooves along depth (`src.wells.hmm`), then
    a threshold; or, with `beta`, a random walker at one half; then drop small components and, last,
    empty patches with few marked pixels.
    """

    threshold: float
    beta: float | None = None
    min_size: int = 0
    track: Track | None = None
    min_in_patch: int = 0

    @property
    def plain(self) -> bool:
        return (
            self.beta is None
            and self.min_size == 0
            and self.track is None
            and self.min_in_patch == 0
        )


def candidates(settings: Postprocess, thresholds: dict[Track | None, float]) -> list[Refinement]:
    """What 04_postprocess.py chooses from; the plain threshold comes first and so wins a tie.

    Args:
        thresholds: one for the probability as it is (None), and one for what each track makes of
            it.
    """
    sizes = list(product(sorted({0, *settings.min_in_patch}), sorted({0, *settings.min_sizes})))
    result = [
        Refinement(thresholds[track], None, size, track, few)
        for track in (None, *settings.tracks)
        for few, size in sizes
    ]
    betas = settings.betas if settings.random_walker else []
    return result + [
        Refinement(0.5, beta, size, None, few) for beta in betas for few, size in sizes
    ]


@dataclass(frozen=True)
class Chosen:
    """The refinement to apply, and what scores each fold honestly.

    `for_interleaved` is another refinement for interleaved wells, where there is one. `honest`
    holds what was chosen without a fold, for its wells that are interleaved (True) or not; `plain`
    the plain threshold that was. `table` holds every candidate's mean score on the wells that it
    was chosen on (without the interleaved ones where these have their own). `at_thresholds` (F + 1,
    T) is the mean score of each fold, and last of all patches, at each of
    `src.wells.selection.THRESHOLDS` without refinement.
    """

    refinement: Refinement
    honest: dict[tuple[bool, int], Refinement]
    plain: dict[int, Refinement]
    table: dict[Refinement, float]
    at_thresholds: np.ndarray
    for_interleaved: Refinement | None = None


KINDS = (False, True)  # of wells: interleaved or not


@dataclass(frozen=True)
class Part:
    """Wells of some kinds that choose together: the candidates for the end, and those that may
    score each fold.
    """

    kinds: list[bool]
    final: list[Refinement]
    without: dict[int, list[Refinement]]


@dataclass(frozen=True)
class Selected:
    """What `_select` chose for a part: the refinement at the end, what scores each fold, and the
    sums (2, F) of what each earned.
    """

    best: Refinement
    honest: dict[int, Refinement]
    earned: np.ndarray


def choose(
    wells: Iterable[Arrays], thresholds: dict[str, Any], settings: Postprocess, score: Score
) -> Chosen:
    """Choose among `candidates` by the out-of-fold score; the plain threshold stays unless
    refinement raises it.

    Each fold is scored under the candidate that is best on the other folds, at the threshold that
    was chosen on the other folds. With `settings.by_scan` interleaved wells and the others, if
    either fill two folds, choose by themselves, thresholds too.

    Args:
        wells: the scored patches in blocks of whole wells, gone through twice: `image`, `valid`,
            `group`, `depth`, `phase`, `mask`, `fold`, and `probability` (n, H, W) out of fold.
        thresholds: as `src.wells.selection.describe_thresholds` gives them.
    """
    folds = [int(fold) for fold in thresholds["threshold_without_fold"]]
    at, patches = _at_thresholds(wells, folds, settings.tracks, score)
    parts = [Part([*KINDS], *_candidates(at, patches, folds, settings, thresholds))]
    if settings.by_scan and (patches > 0).sum(1).min() >= 2:
        for kind in KINDS:
            alone = patches * (np.array(KINDS) == kind)[:, None]
            parts.append(Part([kind], *_candidates(at, alone, folds, settings)))
    sums = _sums(wells, folds, parts, settings, score)
    together, *by_kind = (_select(part, sums, patches, folds, settings) for part in parts)
    plain = {fold: own[0] for fold, own in parts[0].without.items()}
    curves = np.concatenate(
        [at[None].sum(1) / patches.sum(0), at[None].sum((1, 2))[:, None] / patches.sum()], axis=1
    ).T
    if by_kind and sum(own.earned for own in by_kind).sum() > together.earned.sum():
        honest = {
            (kind, fold): best
            for kind, own in zip(KINDS, by_kind, strict=True)
            for fold, best in own.honest.items()
        }
        table = _table(parts[1], sums, patches)
        return Chosen(by_kind[0].best, honest, plain, table, curves, by_kind[1].best)
    honest = {(kind, fold): best for kind in KINDS for fold, best in together.honest.items()}
    return Chosen(together.best, honest, plain, _table(parts[0], sums, patches), curves)


def _cells(block: Arrays, folds: list[int]) -> np.ndarray:
    """For each patch (n,) its place in an array (2, F), flat, of kinds of wells and folds."""
    return interleaved(block["group"], block["phase"]) * len(folds) + np.searchsorted(
        folds, block["fold"]
    )


def _at_thresholds(
    wells: Iterable[Arrays], folds: list[int], tracks: list[Track], score: Score
) -> tuple[dict[Track | None, np.ndarray], np.ndarray]:
    """For the probability and what each track makes of it the sums (T, 2, F) of scores at each
    threshold; and the patches (2, F).
    """
    cells = 2 * len(folds)
    at = {track: np.zeros((len(selection.THRESHOLDS), cells)) for track in (None, *tracks)}
    patches = np.zeros(cells, int)
    for block in wells:
        own = _cells(block, folds)
        patches += np.bincount(own, minlength=cells)
        for track, source in _sources(block, tracks).items():
            at[track] += selection.sums(
                selection.threshold_scores(source, block["mask"], score), own, cells
            )
    return {
        track: scores.reshape(-1, 2, len(folds)) for track, scores in at.items()
    }, patches.reshape(2, len(folds))


def _candidates(
    at: dict[Track | None, np.ndarray],
    patches: np.ndarray,
    folds: list[int],
    settings: Postprocess,
    thresholds: dict[str, Any] | None = None,
) -> tuple[list[Refinement], dict[int, list[Refinement]]]:
    """The candidates for the end and those for each fold, at the thresholds that are best on the
    patches counted in (2, F).
    """
    there = [place for place in range(len(folds)) if patches[:, place].any()]
    kinds, those = patches.any(1), [folds[place] for place in there]
    by_source = {
        track: selection.describe_thresholds(
            selection.choose(scores[:, kinds].sum(1)[:, there], patches.sum(0)[there]), those
        )
        for track, scores in at.items()
    }
    by_source[None] = thresholds or by_source[None]
    final = candidates(settings, {source: own["threshold"] for source, own in by_source.items()})
    without = {
        fold: candidates(
            settings,
            {source: own["threshold_without_fold"][str(fold)] for source, own in by_source.items()},
        )
        for fold in those
    }
    return final, without


def _sums(
    wells: Iterable[Arrays],
    folds: list[int],
    parts: list[Part],
    settings: Postprocess,
    score: Score,
) -> dict[Refinement, np.ndarray]:
    """For each candidate of any part the sums (2, F) of its scores, where it is a candidate for
    wells of that kind.
    """
    wanted = {kind: _all(part for part in parts if kind in part.kinds) for kind in KINDS}
    sums = {refinement: np.zeros((2, len(folds))) for kind in KINDS for refinement in wanted[kind]}
    for block in wells:
        sources, kind_of = (
            _sources(block, settings.tracks),
            interleaved(block["group"], block["phase"]),
        )
        for kind in KINDS:
            there = kind_of == kind
            own = {name: array[there] for name, array in block.items()}
            of_kind = {track: source[there] for track, source in sources.items()}
            scores = {refinement: np.zeros(there.sum()) for refinement in wanted[kind]}
            for refinement, rows, masks in _refined(own, of_kind, wanted[kind], settings):
                scores[refinement][rows] = score(masks, own["mask"][rows])
            fold = np.searchsorted(folds, own["fold"])
            for refinement in wanted[kind]:
                sums[refinement][int(kind)] += np.bincount(fold, scores[refinement], len(folds))
    return sums


def _all(parts: Iterable[Part]) -> list[Refinement]:
    return list(
        dict.fromkeys(
            c for part in parts for some in (part.final, *part.without.values()) for c in some
        )
    )


def _select(
    part: Part,
    sums: dict[Refinement, np.ndarray],
    patches: np.ndarray,
    folds: list[int],
    settings: Postprocess,
) -> Selected:
    """The best candidates of a part: at the end, and for each fold on the others."""
    usual, kinds = settings.apply == "if_better", [int(kind) for kind in part.kinds]
    honest, earned, plainly = {}, np.zeros(patches.shape), np.zeros(patches.shape)
    for fold, allowed in part.without.items():
        place = folds.index(fold)
        others = [other for other in range(len(folds)) if other != place]
        honest[fold] = max(
            [c for c in allowed if usual or not c.plain],
            key=lambda c: sums[c][kinds][:, others].sum(),
        )
        earned[kinds, place] = sums[honest[fold]][kinds, place]
        plainly[kinds, place] = sums[allowed[0]][kinds, place]
    best = max([c for c in part.final if usual or not c.plain], key=lambda c: sums[c][kinds].sum())
    if usual and (best.plain or earned.sum() <= plainly.sum()):
        return Selected(
            part.final[0], {fold: allowed[0] for fold, allowed in part.without.items()}, plainly
        )
    return Selected(best, honest, earned)


def _table(
    part: Part, sums: dict[Refinement, np.ndarray], patches: np.ndarray
) -> dict[Refinement, float]:
    kinds = [int(kind) for kind in part.kinds]
    return {c: float(sums[c][kinds].sum() / patches[kinds].sum()) for c in part.final}


def assess(
    block: Arrays, chosen: Chosen, settings: Postprocess, score: Score
) -> tuple[np.ndarray, np.ndarray]:
    """The scores (n,) that what was chosen without their folds, and the plain threshold that
    was, earn on the patches of some wells.
    """
    honest = [
        chosen.honest[key]
        for key in zip(
            interleaved(block["group"], block["phase"]).tolist(),
            block["fold"].tolist(),
            strict=True,
        )
    ]
    plain = [chosen.plain[fold] for fold in block["fold"].tolist()]
    masks = refine(block, block["probability"], list(dict.fromkeys([*honest, *plain])), settings)
    scores = {refinement: score(own, block["mask"]) for refinement, own in masks.items()}
    return tuple(
        np.array([scores[refinement][row] for row, refinement in enumerate(own)])
        for own in (honest, plain)
    )


def apply(
    arrays: Arrays, probability: np.ndarray, chosen: Chosen, settings: Postprocess
) -> np.ndarray:
    """The masks (N, H, W) uint8 of a split, each well refined as was chosen for its kind."""
    wanted = [chosen.refinement, chosen.for_interleaved or chosen.refinement]
    masks = refine(arrays, probability, wanted, settings)
    other = interleaved(arrays["group"], arrays["phase"])
    return np.where(other[:, None, None], masks[wanted[1]], masks[wanted[0]])


def refine(
    arrays: Arrays, probability: np.ndarray, refinements: list[Refinement], settings: Postprocess
) -> dict[Refinement, np.ndarray]:
    """Masks (N, H, W) uint8 of a split under each of several refinements.

    Args:
        arrays: `image`, `valid`, `group`, `depth`, `phase` of the split; a patch without a valid
            pixel gets an empty mask.
        probability: (N, H, W).
    """
    masks = {refinement: np.zeros(probability.shape, np.uint8) for refinement in refinements}
    tracks = [refinement.track for refinement in refinements if refinement.track]
    sources = _sources(arrays | {"probability": probability}, tracks)
    for refinement, rows, own in _refined(arrays, sources, refinements, settings):
        masks[refinement][rows] = own
    return masks


def _sources(arrays: Arrays, tracks: Iterable[Track]) -> Sources:
    """The probabilities (N, H, W) as they are, and what each track makes of them."""
    probability = arrays["probability"]
    return {None: probability} | {
        track: followed(arrays, probability, track) for track in dict.fromkeys(tracks)
    }


def _refined(
    arrays: Arrays, sources: Sources, refinements: list[Refinement], settings: Postprocess
) -> Iterator[tuple[Refinement, np.ndarray, np.ndarray]]:
    """For each refinement and strip the rows (n,) of its patches and their masks (n, H, W):
    nothing is held for all strips at once.
    """
    measured = arrays["valid"].any((1, 2))
    wells = strips(arrays["group"], arrays["depth"], arrays["phase"])
    for beta, track in dict.fromkeys(
        (refinement.beta, refinement.track) for refinement in refinements
    ):
        # those that differ only in what they empty
        alike: dict[tuple[float, int], list[Refinement]] = {}
        for refinement in refinements:
            if (refinement.beta, refinement.track) == (beta, track):
                alike.setdefault((refinement.threshold, refinement.min_size), []).append(refinement)
        for strip in wells:
            present = strip.index >= 0
            rows = strip.index[present]
            walked = _walk(strip, arrays["image"], sources[track], measured, beta, settings)
            for (threshold, min_size), own in alike.items():
                mask = remove_small(walked > threshold, min_size)
                patches = mask.reshape(len(present), -1, mask.shape[1])[present]
                marked = patches.sum((1, 2)) * measured[rows]
                for refinement in own:
                    yield (
                        refinement,
                        rows,
                        patches & (marked >= max(1, refinement.min_in_patch))[:, None, None],
                    )


def followed(arrays: Arrays, probability: np.ndarray, track: Track) -> np.ndarray:
    """The probabilities (N, H, W) float32 of a split after grooves were followed along depth."""
    measured, result = arrays["valid"].any((1, 2)), np.zeros(probability.shape, np.float32)
    wells = strips(arrays["group"], arrays["depth"], arrays["phase"])
    for strip, own in zip(
        wells,
        follow([_logits(strip, probability, measured) for strip in wells], track),
        strict=True,
    ):
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
