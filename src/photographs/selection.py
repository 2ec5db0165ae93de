"""What turns probabilities of photographs into masks, selected out of fold: for each class a
threshold and a smallest component, and the threshold of the image classifier, where there is one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from pydantic import TypeAdapter

from src.artifacts import hdf5, lineage
from src.artifacts.hdf5 import Packed
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions.metrics import Metric
from src.photographs.dataset import PhotoDataset
from src.photographs.decoding import HALF, THRESHOLDS, mask_of, overlaps
from src.scoring import averaging
from src.scoring.averaging import Average
from src.scoring.calibration import tally
from src.scoring.processes import in_order
from src.scoring.selection import Choice, Nested, select

# a photograph is rejected, called clean, where its probability of any defect is lower; 0: never
REJECTING = np.arange(100) / 100
# ways to select: with the classifier or without, at selected thresholds and sizes or at one half
WAYS = ("selected", "unrejected", "half", "half_unrejected")


@dataclass(frozen=True)
class Counted:
    """What candidates are scored by: pixels shared and predicted (2, T, S, N, K), true pixels (N,
    K), the folds (F,) and each photograph's place among them, and its probability of any defect
    (N,), where there is an image classifier; and the tallies (N, K, 3, BINS) of
    `src.scoring.calibration`.
    """

    pixels: np.ndarray
    true: np.ndarray
    folds: np.ndarray
    place: np.ndarray
    verdict: np.ndarray | None
    tally: np.ndarray | None = None

    def way(self, name: str) -> "Counted":
        """What one of the `WAYS` selects on."""
        pixels = self.pixels[:, HALF : HALF + 1, :1] if name.startswith("half") else self.pixels
        verdict = None if name.endswith("unrejected") else self.verdict
        return Counted(pixels, self.true, self.folds, self.place, verdict)

    def scores(self, metric: Metric) -> np.ndarray:
        """(T S, N, K) of every candidate."""
        of_all = metric.of(*self.pixels, self.true)
        return of_all.reshape(-1, *of_all.shape[2:])

    def select(self, metric: Metric) -> Nested:
        """The candidates of each class and the classifier's threshold, nested over folds."""
        scores, default = self.scores(metric), min(HALF, self.pixels.shape[1] - 1)
        empty = metric.of(*np.zeros((2, *self.true.shape), np.int64), self.true)
        sums = [self._sums(scores, empty, self.place == fold) for fold in range(len(self.folds))]
        return select(np.stack(sums, axis=3), default * self.pixels.shape[2])

    def _sums(self, scores: np.ndarray, empty: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(G, C, K) over the photographs of a fold at each threshold of the classifier."""
        if self.verdict is None:
            return scores[:, own].sum(1)[None]
        rows = np.flatnonzero(own)
        rows = rows[np.argsort(-self.verdict[rows], kind="stable")]  # the surest first
        accepted = np.searchsorted(-self.verdict[rows], -REJECTING, side="right")
        kept = np.pad(scores[:, rows].cumsum(1), ((0, 0), (1, 0), (0, 0)))
        lost = np.pad(empty[rows].cumsum(0), ((1, 0), (0, 0)))
        return kept[:, accepted].swapaxes(0, 1) + (lost[-1] - lost[accepted])[:, None]

    def under(self, nested: Nested) -> tuple[np.ndarray, np.ndarray]:
        """Pixels shared, predicted and true (3, N, K), each fold's under what is selected on the
        others; and which photographs (N,) are rejected.
        """
        sizes = self.pixels.shape[2]
        result, rejected = np.zeros((3, *self.true.shape), np.int64), np.zeros(len(self.true), bool)
        result[2] = self.true
        for fold, choice in enumerate(nested.without):
            own = np.flatnonzero(self.place == fold)
            for k, candidate in enumerate(choice.candidates):
                result[:2, own, k] = self.pixels[:, candidate // sizes, candidate % sizes, own, k]
            if self.verdict is not None:
                rejected[own] = self.verdict[own] < REJECTING[choice.setting]
        result[:2, rejected] = 0
        return result, rejected


@dataclass(frozen=True)
class Decisions:
    """For each class a threshold, a smallest component and whether its mask is that of the highest
    expected Dice; and the classifier's threshold.
    """

    threshold: list[float]
    min_size: list[int]
    classifier: float
    expected_dice: list[bool] = field(default_factory=list)  # all False

    @staticmethod
    def of(choice: Choice, sizes: list[int]) -> "Decisions":
        places = [divmod(candidate, len(sizes)) for candidate in choice.candidates]
        decoded = [divmod(place, len(THRESHOLDS)) for place, _ in places]
        return Decisions(
            [float(THRESHOLDS[threshold]) for _, threshold in decoded],
            [sizes[size] for _, size in places],
            float(REJECTING[choice.setting]),
            [expected > 0 for expected, _ in decoded],
        )

    def mask(self, probability: np.ndarray) -> np.ndarray:
        return mask_of(probability, self.threshold, self.min_size, self.expected_dice)


def sizes_of(run: Run) -> list[int]:
    return sorted({0, *run.recipe.postprocess.min_sizes})


def count(run: Run) -> tuple[Counted, PhotoDataset, np.ndarray]:
    """What a run's out-of-fold averages are worth, on all cores; with the training photographs and
    the rows (N,) of those that count.
    """
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    rows = averaging.rows_by_name(train.name, average.names, str(train.path), subset=True)
    how = sizes_of(run), run.recipe.postprocess.expected_dice
    counted = list(in_order(partial(_count, train, average, *how), rows.tolist()))
    pixels, true, tallies = zip(*counted, strict=True)
    verdict = None
    if run.tasks("classify"):
        own = averaging.oof(run, "classify")
        verdict = np.array([own.of(train.name[row])[0, 0, 0] for row in rows])
    folds, place = np.unique(train.fold[rows], return_inverse=True)
    own = np.stack(pixels, 3), np.array(true), folds, place, verdict, np.array(tallies)
    return Counted(*own), train, rows


def _count(
    train: PhotoDataset, average: Average, sizes: list[int], expected_dice: bool, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `overlaps` of one photograph, its true pixels (K,) and its tallies (K, 3, BINS)."""
    truth, likely = train.mask(row), average.half(train.name[row])
    pixels = overlaps(likely, truth, sizes, expected_dice)
    tallies = [tally(*own) for own in zip(likely, truth > 0, strict=True)]
    return pixels, truth.sum((1, 2), dtype=np.int64), np.array(tallies)


def write(run: Run) -> str:
    """Select, and write what is selected; returns a line about it.

    The file holds for every photograph that counts `name`, `shows` (N, K), `rejected` (N,),
    `classifier` (N,), its probability of any defect, and `tally` (N, K, 3, BINS), as
    `src.scoring.calibration` has it; for each of the `WAYS` the pixels shared,
    predicted and true (3, N, K), each fold's as selected on the others; and
    `score_at_thresholds` (T, S, K), the mean over all at each of `decoding.THRESHOLDS`. Its
    metadata are the decisions for the test set and, by fold, those for the photographs of each.
    """
    inputs, metric, sizes = lineage.selection(run), run.competition.metric, sizes_of(run)
    counted, train, rows = count(run)
    nested = {name: counted.way(name).select(metric) for name in WAYS}
    pixels = {name: counted.way(name).under(own) for name, own in nested.items()}
    final = Decisions.of(nested["selected"].final, sizes)
    without = {
        str(fold): vars(Decisions.of(choice, sizes))
        for fold, choice in zip(counted.folds.tolist(), nested["selected"].without, strict=True)
    }
    verdict = np.ones(len(rows)) if counted.verdict is None else counted.verdict
    arrays = {"name": train.name[rows], "shows": train.shows[rows], "classifier": verdict}
    arrays |= {
        "tally": counted.tally,
        "rejected": pixels["selected"][1],
        **{name: own for name, (own, _) in pixels.items()},
    }
    plain = counted.pixels[:, : len(THRESHOLDS)]
    arrays["score_at_thresholds"] = metric.of(*plain, counted.true).mean(2)
    hdf5.write(run.selection, arrays, inputs, final=vars(final), without=without)
    score = metric.of(*pixels["selected"][0]).mean()
    rejecting = f", classifier {final.classifier}" if run.tasks("classify") else ""
    decoding = f", expected Dice {final.expected_dice}" if any(final.expected_dice) else ""
    return (
        f"thresholds {final.threshold}, smallest components {final.min_size}{decoding}{rejecting}; "
        f"out-of-fold score {score:.4f}, each fold under what is best on the others"
    )


def read(run: Run) -> tuple[Decisions, dict[int, Decisions]]:
    """What is selected at the end, and for each fold on the others."""
    without = hdf5.metadata(run.selection)["without"]
    return final_of(run), {int(fold): Decisions(**own) for fold, own in without.items()}


def final_of(run: Run) -> Decisions:
    """What is selected at the end, for the test set."""
    final = TypeAdapter(Decisions).validate_python(run.decisions())
    if not len(final.threshold) == len(final.min_size) == len(run.training()["classes"]):
        raise ValueError("decisions for another number of classes")
    return final


def arrays_of(run: Run) -> Arrays:
    """The arrays that `write` wrote."""
    names = ("name", "shows", "rejected", "classifier", "tally", "score_at_thresholds")
    return hdf5.read(run.selection, *names, *WAYS)


def all_empty(metric: Metric, selected: Arrays) -> np.ndarray:
    """The score (N, K) of empty masks."""
    true = selected["selected"][2]
    nothing = np.zeros_like(true)
    return metric.of(nothing, nothing, true)


def accepted(run: Run) -> np.ndarray:
    """The rows of the test photographs that no image classifier rejects."""
    names = hdf5.read(run.prepared("test"), "name")["name"]
    if not run.tasks("classify"):
        return np.arange(len(names))
    final = final_of(run)
    verdict = averaging.test(run, "classify")
    sure = [verdict.of(name)[0, 0, 0] >= final.classifier for name in names]
    return np.flatnonzero(sure)


def masks_of(run: Run, part: str) -> Iterator[Packed]:
    """Masks of the photographs of the ensemble's part, "oof" or "test"."""
    average = averaging.of_ensemble(run, part)
    if part == "test":
        final = final_of(run)
        yield from in_order(partial(_masks, average), [(name, final) for name in average.names])
        return
    _, without = read(run)
    own = hdf5.read(run.selection, "name", "rejected")
    rejected = dict(zip(own["name"], own["rejected"], strict=True))
    known = hdf5.read(run.prepared("train"), "name", "fold")
    fold = dict(zip(known["name"], known["fold"].tolist(), strict=True))
    of_each = [(name, None if rejected[name] else without[fold[name]]) for name in average.names]
    yield from in_order(partial(_masks, average), of_each)


def _masks(average: Average, one: tuple[str, Decisions | None]) -> Packed:
    """(1, K, h, w) of a photograph by its name and its decisions; without these it is rejected."""
    name, decisions = one
    probability = average.half(name)
    mask = decisions.mask(probability) if decisions else np.zeros(probability.shape, np.uint8)
    return hdf5.pack(mask[None], average.shape)
