"""What turns probabilities of photographs into masks, chosen out of fold: thresholds, smallest
components, and the gate's threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from scipy import ndimage

from src import artifacts
from src.artifacts import CreatedFrom, Paths, content_digest, digest, made_from, up_to_date
from src.photographs.averaging import Average, oof_average, tasks_of, test_average
from src.photographs.dataset import Gallery
from src.recipe import Recipe, Task
from src.terminal.errors import UserError
from src.wells.prediction import predictions_from

# The last marks nothing: where a class is hopeless, empty masks score best.
THRESHOLDS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
HALF = 5  # the place of one half among them
# a photograph whose gate probability is lower is called clean; 0 calls none so
GATES = np.arange(100) / 100
CHUNK = 64  # photographs scored by one process at a time


def overlaps(probability: np.ndarray, truth: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Dice (T, S, K) of one photograph (K, H, W) at each of `THRESHOLDS` and without components of
    fewer than each of `sizes` pixels.

    Pixels touch across edges and corners. Dice is 1 where mask and truth are empty.
    """
    result = np.empty((len(THRESHOLDS), len(sizes), len(truth)))
    for k, (p, y) in enumerate(zip(probability, truth, strict=True)):
        true = int(y.sum())
        for t, threshold in enumerate(THRESHOLDS):
            box = _box(p > threshold)
            p, y = p[box], y[box]  # what lies outside is below every further threshold too
            label, count = (
                ndimage.label(p > threshold, np.ones((3, 3)))
                if p.size
                else (np.zeros(p.shape, int), 0)
            )
            area = np.bincount(label.ravel(), minlength=count + 1)[1:]
            hit = np.bincount(label[y > 0], minlength=count + 1)[1:]
            for s, size in enumerate(sizes):
                marked, common = area[area >= size].sum(), hit[area >= size].sum()
                result[t, s, k] = 2 * common / (marked + true) if marked + true else 1.0
    return result


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest box that holds all of a mask (H, W), an empty one for an empty mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (
        (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        if len(rows)
        else (slice(0), slice(0))
    )


def mask_of(
    probability: np.ndarray, threshold: Sequence[float], min_size: Sequence[int]
) -> np.ndarray:
    """Masks (K, H, W) uint8 of one photograph: a threshold and a smallest component for each
    class.
    """
    masks = np.zeros(probability.shape, np.uint8)
    for k, p in enumerate(probability):
        label, _ = ndimage.label(p > threshold[k], np.ones((3, 3)))
        large = np.bincount(label.ravel()) >= min_size[k]
        large[0] = False
        masks[k] = large[label]
    return masks


@dataclass(frozen=True)
class Rule:
    """For each class an index of `THRESHOLDS` and one of the sizes; and one of `GATES`."""

    threshold: tuple[int, ...]
    size: tuple[int, ...]
    gate: int


def best_rule(dice: np.ndarray, shows: np.ndarray, gate: np.ndarray | None) -> Rule:
    """The rule with the highest mean Dice.

    Args:
        dice: (T, S, N, K) as `overlaps` gives it.
        shows: (N, K), which classes a photograph truly shows: an empty mask scores 1 where it does
            not.
        gate: (N,) probability of any defect, or None without a gate.
    """
    t, s, n, k = dice.shape
    flat = dice.reshape(t * s, n, k)
    best, chosen, opened = -1.0, flat.mean(1).argmax(0), 0
    for number, level in enumerate(GATES if gate is not None else GATES[:1]):
        closed = np.zeros(n, bool) if gate is None else gate < level
        mean = (flat[:, ~closed].sum(1) + (~shows[closed]).sum(0)) / n
        if mean.max(0).mean() > best:
            best, chosen, opened = mean.max(0).mean(), mean.argmax(0), number
    return Rule(tuple((chosen // s).tolist()), tuple((chosen % s).tolist()), opened)


def apply_rule(
    rule: Rule, dice: np.ndarray, shows: np.ndarray, gate: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Dice (N, K) under a rule, and which photographs (N,) the gate closes."""
    own = np.stack(
        [dice[rule.threshold[k], rule.size[k], :, k] for k in range(dice.shape[3])], axis=1
    )
    closed = np.zeros(len(own), bool) if gate is None else gate < GATES[rule.gate]
    return np.where(closed[:, None], ~shows, own), closed


def rule_without(
    number: int, dice: np.ndarray, shows: np.ndarray, gate: np.ndarray | None, fold: np.ndarray
) -> Rule:
    """The best rule on all folds but one; the plain threshold of one half where there is no
    other to choose on.
    """
    others = fold != number
    if not others.any():
        return Rule((min(HALF, len(dice) - 1),) * dice.shape[3], (0,) * dice.shape[3], 0)
    return best_rule(dice[:, :, others], shows[others], None if gate is None else gate[others])


def nested(
    dice: np.ndarray, shows: np.ndarray, gate: np.ndarray | None, fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`apply_rule`, each fold under the rule that is best on the others."""
    score, closed = np.empty((len(fold), dice.shape[3])), np.empty(len(fold), bool)
    for number in np.unique(fold):
        own, rule = fold == number, rule_without(number, dice, shows, gate, fold)
        score[own], closed[own] = apply_rule(
            rule, dice[:, :, own], shows[own], None if gate is None else gate[own]
        )
    return score, closed


def created_from(recipe: Recipe, paths: Paths, prepared: str) -> CreatedFrom:
    """What a choice is made from.

    Raises:
        UserError: out-of-fold predictions are missing, or of other weights or settings than
            today's.
    """
    files = []
    for task in recipe.tasks():
        file = paths.oof(recipe, task)
        if not made_from(file, predictions_from(recipe, task, paths, prepared)):
            raise UserError(
                f"{file} is missing or of other weights or settings: run "
                "01_train_folds.py with the same arguments first"
            )
        files.append(file)
    predictions = digest(*map(content_digest, files))
    return {
        "prepared": prepared,
        "predictions": predictions,
        "sizes": str(sizes_of(recipe)),
        "roles": digest(*recipe.members),
    }


def sizes_of(recipe: Recipe) -> list[int]:
    return sorted({0, *recipe.postprocess.min_sizes})


def make(recipe: Recipe, paths: Paths, prepared: str) -> dict[str, Any]:
    """Choose, unless what was chosen is up to date; returns its notes.

    The file holds for every training photograph that counts `name`, `dice` (N, K) and `closed`
    (N,), each fold under the rule that is best on the others, `ungated` (N, K), the same without a
    gate, `half` and `half_ungated` (N, K), the same at a threshold of one half with nothing
    removed, `shows` (N, K) and `gate` (N,), its probability of any defect; `curve` (T, S, K) is the
    mean Dice of all of them at each of `THRESHOLDS` and of the sizes. Its notes are the rule for
    the test set.
    """
    target, inputs = paths.choice(recipe), created_from(recipe, paths, prepared)
    if not up_to_date(target, inputs):
        train = Gallery.open(paths, recipe, "train")
        average = oof_average(recipe, paths, "segment")
        rows = np.array([row for row, name in enumerate(train.name) if name in average.names])
        sizes = sizes_of(recipe)
        dice, shows, gate = score_rows(train, average, rows, sizes), train.shows[rows], None
        if tasks_of(recipe, "gate"):
            told = oof_average(recipe, paths, "gate")
            gate = np.array([told.of(train.name[row])[0, 0, 0] for row in rows])
        score, closed = nested(dice, shows, gate, train.fold[rows])
        arrays = {"name": train.name[rows], "dice": score, "closed": closed, "shows": shows}
        arrays |= {
            "ungated": nested(dice, shows, None, train.fold[rows])[0],
            "gate": np.ones(len(rows)) if gate is None else gate,
        }
        arrays["curve"] = dice.mean(2)
        halved = dice[HALF : HALF + 1, :1]
        arrays |= {
            "half": nested(halved, shows, gate, train.fold[rows])[0],
            "half_ungated": nested(halved, shows, None, train.fold[rows])[0],
        }
        rule = best_rule(dice, shows, gate)
        threshold, size = (
            [float(THRESHOLDS[t]) for t in rule.threshold],
            [sizes[s] for s in rule.size],
        )
        artifacts.write_arrays(
            target, arrays, inputs, threshold=threshold, min_size=size, gate=float(GATES[rule.gate])
        )
    return artifacts.read_notes(target)


def score_rows(train: Gallery, average: Average, rows: np.ndarray, sizes: list[int]) -> np.ndarray:
    """`overlaps` (T, S, N, K) of training photographs, on all cores."""
    chunks = [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
    # a process takes seconds to start, a small set takes less to score
    jobs = min(joblib.cpu_count(), len(chunks))
    parts = joblib.Parallel(n_jobs=jobs)(
        joblib.delayed(_score)(train, average, chunk, sizes) for chunk in chunks
    )
    return np.concatenate(parts, axis=2)


def _score(train: Gallery, average: Average, rows: np.ndarray, sizes: list[int]) -> np.ndarray:
    return np.stack(
        [overlaps(average.of(train.name[row]), train.mask(row), sizes) for row in rows], axis=2
    )


def open_rows(recipe: Recipe, task: Task, paths: Paths, prepared: str) -> np.ndarray:
    """The test photographs that a task predicts, by row: a gate all of them, the others those
    that no gate calls clean.
    """
    test = Gallery.open(paths, recipe, "test")
    if recipe.member(task.member).role == "gate" or not tasks_of(recipe, "gate"):
        return np.arange(len(test.name))
    level, told = make(recipe, paths, prepared)["gate"], test_average(recipe, paths, "gate")
    return np.array(
        [row for row, name in enumerate(test.name) if told.of(name)[0, 0, 0] >= level], np.int64
    )
