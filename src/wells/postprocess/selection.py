"""What turns probabilities of wells into masks, selected out of fold: thresholds and refinement.

Two passes over the wells: the score at each threshold, of the probabilities as they are and of what
HMM smoothing makes of them; then the score of every candidate at these thresholds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from src.artifacts import hdf5, lineage
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.recipe import HMM, Postprocess
from src.scoring import averaging
from src.scoring.averaging import Average, rows_by_name
from src.scoring.metrics import Score, scorer
from src.scoring.selection import Nested, fold_sums, select
from src.wells import blocks
from src.wells.blocks import Blocks
from src.wells.geometry import interleaved
from src.wells.postprocess.refinement import Refinement, refine, refined, smoothed
from src.wells.postprocess.selected import SCANS, Selection, as_json, final_of, of_json

# Finer towards 0 and 1, where HMM smoothing leaves whole wells.
_TAIL = [0.005, 0.01, 0.015, 0.02, 0.03, 0.04]
THRESHOLDS = np.array([*_TAIL, *np.arange(5, 96) / 100, *(1 - p for p in reversed(_TAIL))])
HALF = int(np.flatnonzero(THRESHOLDS == 0.5)[0])
Sums = dict[Refinement, np.ndarray]  # of scores, (2, F) for each kind of scan and fold


def predicted(run: Run, split: str, average: Average, *large: str) -> Blocks:
    """A split in blocks of whole wells, with the average's `probability` (n, H, W)."""
    wells = blocks.prepared(run, split, *large)
    rows = rows_by_name(average.names, wells.index["name"], "the predictions")
    return wells.joined("probability", lambda place: average.mean(rows[place])[:, 0])


def write(run: Run) -> str:
    """Select, and write what is selected; returns a line about it."""
    inputs = lineage.selection(run)
    train = predicted(run, "train", averaging.oof(run), "image", "valid", "mask")
    own = of_wells(train, run.recipe.postprocess, scorer(run.competition.metric))
    with hdf5.writing(run.selection, inputs) as file:
        file.metadata.update(as_json(own))
        file.put("thresholds", THRESHOLDS)
        file.put("score_at_thresholds", own.at_thresholds)
    how = "each fold as is best on the others"
    if run.recipe.postprocess.threshold == "one_half":
        how = "at one half, as the recipe says"
    elif len(own.plain) == 1:
        how = "at one half, for there is no other fold"
    return f"{own}; out-of-fold score {own.score:.4f}, {how}"


def read(run: Run) -> Selection:
    """What `write` wrote."""
    curves = hdf5.read(run.selection, "score_at_thresholds")["score_at_thresholds"]
    return of_json(hdf5.metadata(run.selection), curves)


def of_wells(wells: Iterable[Arrays], settings: Postprocess, score: Score) -> Selection:
    """Select among `candidates` by the out-of-fold score; the plain threshold stays unless
    refinement raises it.

    Each fold is scored under the candidate that is best on the other folds, at the threshold that
    was selected on the other folds. With `settings.by_scan` interleaved wells and the others, if
    either fill two folds, select by themselves, thresholds too, if that raises the score.

    Args:
        wells: the scored patches in blocks of whole wells, gone through twice: `image`, `valid`,
            `group`, `depth`, `parity`, `mask`, `fold`, and `probability` (n, H, W) out of fold.
    """
    wells = list(wells) if isinstance(wells, Iterator) else wells
    folds = sorted({fold for block in wells for fold in block["fold"].tolist()})
    at, patches = at_thresholds(wells, folds, settings.hmms, score)
    parts = [Part((False, True), at, patches, folds, settings)]
    if settings.by_scan and (patches > 0).sum(1).min() >= 2:
        parts += [Part((scan,), at, patches, folds, settings) for scan in SCANS]
    sums = candidate_sums(wells, folds, parts, settings, score)
    together, *apart = (part.select(sums) for part in parts)
    best, named = [together, together], parts[0]
    if apart and sum(own.earned for own in apart).sum() > together.earned.sum():
        best, named = apart, parts[1]
    without = {
        (scan, fold): own.without[fold]
        for scan, own in zip(SCANS, best, strict=True)
        for fold in own.without
    }
    earned = sum(own.earned for own in best) if best is apart else together.earned
    whole = at[None].sum(1)
    curves = np.concatenate(
        [whole / patches.sum(0), whole.sum(1, keepdims=True) / patches.sum()], 1
    )
    return Selection(
        final={scan: own.final for scan, own in zip(SCANS, best, strict=True)},
        without=without,
        plain={fold: own[0].threshold for fold, own in parts[0].without.items()},
        threshold=parts[0].final[0].threshold,
        table=named.table(sums),
        score=float(earned.sum() / patches.sum()),
        unrefined=float(together.plainly.sum() / patches.sum()),
        at_thresholds=curves.T,
    )


def candidates(settings: Postprocess, thresholds: dict[HMM | None, float]) -> list[Refinement]:
    """What is selected from; the plain threshold comes first and so wins a tie.

    Args:
        thresholds: one for the probability as it is (None), and one for each HMM smoothing.
    """
    sizes = list(product(sorted({0, *settings.min_in_patch}), sorted({0, *settings.min_sizes})))
    result = [
        Refinement(thresholds[smoothing], None, size, smoothing, few)
        for smoothing in (None, *settings.hmms)
        for few, size in sizes
    ]
    betas = settings.betas if settings.random_walker else []
    return result + [
        Refinement(0.5, beta, size, None, few) for beta in betas for few, size in sizes
    ]


def at_thresholds(
    wells: Iterable[Arrays], folds: list[int], hmms: list[HMM], score: Score
) -> tuple[dict[HMM | None, np.ndarray], np.ndarray]:
    """For the probability as it is and under each HMM smoothing the sums (T, 2, F) of scores at
    each threshold; and the patches (2, F).
    """
    cells = 2 * len(folds)
    at = {smoothing: np.zeros((len(THRESHOLDS), cells)) for smoothing in (None, *hmms)}
    patches = np.zeros(cells, int)
    for block in wells:
        scan = interleaved(block["group"], block["parity"])
        own = scan * len(folds) + np.searchsorted(folds, block["fold"])
        patches += np.bincount(own, minlength=cells)
        for smoothing, source in smoothed(block, hmms).items():
            scores = threshold_scores(source, block["mask"], score)
            at[smoothing] += fold_sums(scores, own, cells)
    return (
        {smoothing: sums.reshape(-1, 2, len(folds)) for smoothing, sums in at.items()},
        patches.reshape(2, len(folds)),
    )


def threshold_scores(probability: np.ndarray, truth: np.ndarray, score: Score) -> np.ndarray:
    """(T, N) score of each patch at each of `THRESHOLDS`, of probabilities and masks (N, H, W)."""
    # Comparing small integers a hundred times is cheaper than comparing probabilities: how many
    # thresholds lie below each.
    below = np.searchsorted(THRESHOLDS, probability.astype(np.float32)).astype(np.uint8)
    return np.array([score(below > number, truth) for number in range(len(THRESHOLDS))])


def candidate_sums(
    wells: Iterable[Arrays],
    folds: list[int],
    parts: list["Part"],
    settings: Postprocess,
    score: Score,
) -> Sums:
    """For each candidate of any part the sums of its scores on the wells that it is for."""
    wanted = {
        scan: list(
            dict.fromkeys(c for part in parts if scan in part.scans for c in part.candidates)
        )
        for scan in SCANS
    }
    sums = {own: np.zeros((2, len(folds))) for scan in SCANS for own in wanted[scan]}
    for block in wells:
        sources, scan_of = (
            smoothed(block, settings.hmms),
            interleaved(block["group"], block["parity"]),
        )
        for scan in SCANS:
            there = scan_of == scan
            own = {name: array[there] for name, array in block.items()}
            of_scan = {smoothing: source[there] for smoothing, source in sources.items()}
            scores = {candidate: np.zeros(there.sum()) for candidate in wanted[scan]}
            for candidate, rows, masks in refined(own, of_scan, wanted[scan], settings):
                scores[candidate][rows] = score(masks, own["mask"][rows])
            fold = np.searchsorted(folds, own["fold"])
            for candidate in wanted[scan]:
                sums[candidate][int(scan)] += np.bincount(fold, scores[candidate], len(folds))
    return sums


@dataclass(frozen=True)
class Selected:
    """The refinement of a part at the end and for each fold, the sums (2, F) that these earned, and
    those that plain thresholds did.
    """

    final: Refinement
    without: dict[int, Refinement]
    earned: np.ndarray
    plainly: np.ndarray


class Part:
    """Wells of some kinds of scan that select together, and their candidates."""

    def __init__(
        self,
        scans: tuple[bool, ...],
        at: dict[HMM | None, np.ndarray],
        patches: np.ndarray,
        folds: list[int],
        settings: Postprocess,
    ) -> None:
        self.scans, self.rows, self.settings = scans, [int(scan) for scan in scans], settings
        self.patches = patches[self.rows].sum(0)
        self.there = np.flatnonzero(self.patches)  # places of the folds with such wells
        self.folds = [folds[place] for place in self.there]
        fixed = [[HALF]] * (len(self.folds) + 1) if settings.threshold == "one_half" else None
        best = {
            smoothing: select(sums[:, self.rows].sum(1)[:, self.there], HALF, fixed)
            for smoothing, sums in at.items()
        }
        self.final = self._candidates(best, None)
        self.without = {fold: self._candidates(best, n) for n, fold in enumerate(self.folds)}
        lists = (self.final, *self.without.values())
        self.candidates = list(dict.fromkeys(own for some in lists for own in some))

    def _candidates(self, best: dict[HMM | None, Nested], fold: int | None) -> list[Refinement]:
        """Those for the end, or for a fold by its place."""
        chosen = {s: n.final if fold is None else n.without[fold] for s, n in best.items()}
        levels = {smoothing: float(THRESHOLDS[own.candidate]) for smoothing, own in chosen.items()}
        return candidates(self.settings, levels)

    def select(self, sums: Sums) -> Selected:
        """The best of the candidates: at the end, and for each fold on the others."""
        usual = self.settings.apply == "if_better"
        table = np.array([sums[own][self.rows].sum(0)[self.there] for own in self.candidates])
        place = {own: number for number, own in enumerate(self.candidates)}
        lists = [*self.without.values(), self.final]
        allowed = [[place[own] for own in some if usual or not own.plain] for some in lists]
        nested = select(table, place[lists[0][0]], allowed)
        final = self.candidates[nested.final.candidate]
        without = {
            fold: self.candidates[own.candidate]
            for fold, own in zip(self.folds, nested.without, strict=True)
        }
        plain = {fold: own[0] for fold, own in self.without.items()}
        earned, plainly = (self._earned(sums, own) for own in (without, plain))
        if usual and (final.plain or earned.sum() <= plainly.sum()):
            return Selected(self.final[0], plain, plainly, plainly)
        return Selected(final, without, earned, plainly)

    def _earned(self, sums: Sums, without: dict[int, Refinement]) -> np.ndarray:
        """(2, F) what a refinement for each fold earns there."""
        earned = np.zeros_like(next(iter(sums.values())))
        for place, own in zip(self.there, without.values(), strict=True):
            earned[self.rows, place] = sums[own][self.rows, place]
        return earned

    def table(self, sums: Sums) -> dict[str, float]:
        """The mean score of every candidate for the end."""
        return {
            str(own): float(sums[own][self.rows].sum() / self.patches.sum()) for own in self.final
        }


def masks(
    block: Arrays,
    final: dict[bool, Refinement],
    without: dict[tuple[bool, int], Refinement],
    settings: Postprocess,
) -> np.ndarray:
    """Masks (n, H, W) uint8 of whole wells: each fold's as selected `without` it, and where there
    is no `fold`, as selected at the end.
    """
    scan = interleaved(block["group"], block["parity"]).tolist()
    if "fold" in block:
        wanted = [without[key] for key in zip(scan, block["fold"].tolist(), strict=True)]
    else:
        wanted = [final[own] for own in scan]
    distinct = list(dict.fromkeys(wanted))
    made = refine(block, block["probability"], distinct, settings)
    which = np.array([distinct.index(own) for own in wanted])
    return np.stack([made[own] for own in distinct])[which, np.arange(len(which))]


def masks_of(run: Run, part: str) -> Iterator[np.ndarray]:
    """Masks (n, 1, H, W) of the ensemble's part, "oof" or "test", a few wells at a time."""
    split = "train" if part == "oof" else "test"
    without = read(run).without if part == "oof" else {}
    final = final_of(run.decisions())
    for block in predicted(run, split, averaging.of_ensemble(run, part), "image", "valid"):
        yield masks(block, final, without, run.recipe.postprocess)[:, None]
