"""Folds by group: a well is never split, so that the held-out score is one on wells that nobody
has seen; a video, by stretches.
"""

from itertools import pairwise

import numpy as np

from src.recipe import Folds
from src.terminal.errors import UserError

EVALUATION = "held out for evaluation"  # why the photographs of `folds.evaluation` are excluded
# groups; with more of them, none of which can be large, the greedy deal is even already
SWAPS_UP_TO = 60


def balance(group: np.ndarray, label: np.ndarray, count: int) -> dict[int, int]:
    """Deal groups into `count` folds, even in patches and in each label.

    The largest group goes first, each into the fold where it leaves the least imbalance; then,
    where they are few, groups are moved and swapped while that improves the balance. Imbalance is
    the sum over folds of the squared shares of patches and of each label's.

    Args:
        group: (N,) group of each patch or photograph.
        label: (N,) or (N, L) bool, such as whether its mask has any corrosion, or which classes of
            defects it shows.
        count: number of folds.

    Returns:
        The fold of each group.

    Raises:
        UserError: fewer groups than folds.
    """
    names, place = np.unique(group, return_inverse=True)
    if len(names) < count:
        raise UserError(
            f"{count} folds need at least {count} groups, but there are {len(names)}: "
            "lower folds.count in the recipe"
        )
    columns = label.reshape(len(label), -1).T
    load = np.stack(
        [np.bincount(place), *(np.bincount(place, weights=column) for column in columns)], axis=1
    )
    load = load / np.maximum(load.sum(0), 1)

    fold = np.full(len(names), -1)
    for item in np.lexsort((-load.sum(1), -load[:, 0])):  # of equal size, the rarest labels first
        totals = _totals(load, fold, count)
        cost = [_imbalance(totals + load[item] * np.eye(count)[f][:, None]) for f in range(count)]
        fold[item] = int(np.argmin(cost))
    if len(names) <= SWAPS_UP_TO:
        fold = _improve(load, fold, count)
    return {int(name): int(f) for name, f in zip(names, fold, strict=True)}


def explicit(group: np.ndarray, groups: list[list[int]]) -> dict[int, int]:
    """The fold of each group as listed in a recipe.

    Raises:
        UserError: a group listed twice or not at all, or a fold without patches.
    """
    present = set(np.unique(group).tolist())
    listed = [name for fold in groups for name in fold]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    missing = sorted(present - set(listed))
    if twice or missing:
        problem = (
            f"group {twice[0]} is listed twice"
            if twice
            else (f"group {missing[0]} stands in no fold")
        )
        raise UserError(f"folds.groups in the recipe: {problem}; list every group once")
    for number, fold in enumerate(groups):
        if not present & set(fold):
            raise UserError(
                f"folds.groups in the recipe: fold {number} ({fold}) has no patches; "
                f"the data has groups {sorted(present)}"
            )
    return {name: number for number, fold in enumerate(groups) for name in fold if name in present}


def at_random(patches: int, count: int) -> np.ndarray:
    """A random fold (N,) int8 for each patch, all folds alike in size and always the same: what
    leaks half-pixel neighbours and near-duplicates.
    """
    return (np.random.default_rng(0).permutation(patches) % count).astype(np.int8)


def blocks(frame: np.ndarray, count: int) -> np.ndarray:
    """The block (N,) int32 of each frame of a video: `count` stretches of consecutive frames, alike
    in number.

    Args:
        frame: (N,) int, position along the video, in any order; photographs of one position share a
            block.

    Raises:
        UserError: fewer positions than blocks.
    """
    positions, place = np.unique(frame, return_inverse=True)
    if len(positions) < count:
        raise UserError(
            f"{count} folds need at least {count} frames, but there are "
            f"{len(positions)}: lower folds.count in the recipe"
        )
    return (place * count // len(positions)).astype(np.int32)


def near_border(frame: np.ndarray, block: np.ndarray, gap: int) -> np.ndarray:
    """Whether each frame (N,) is at most `gap` positions from a border, which lies midway between
    two blocks.

    Such frames are left out, so that none that is trained on shows what the held-out ones show:
    those that stay are more than twice `gap` from any that stay of another block.

    Args:
        frame, block: (N,) int, position along the video, and its block by `blocks`.

    Raises:
        UserError: nothing is left of a block.
    """
    ends = [
        (frame[block == number].min(), frame[block == number].max()) for number in np.unique(block)
    ]
    borders = np.array([(last + first) / 2 for (_, last), (first, _) in pairwise(ends)])
    near = (np.abs(frame[:, None] - borders) <= gap).any(1)
    for number in np.unique(block):
        if near[block == number].all():
            advice = "lower folds.gap or folds.count in the recipe"
            raise UserError(
                f"folds.gap = {gap} leaves none of the {(block == number).sum()} "
                f"frames of fold {number}: {advice}"
            )
    return near


def _totals(load: np.ndarray, fold: np.ndarray, count: int) -> np.ndarray:
    return np.stack([load[fold == f].sum(0) for f in range(count)])


def _imbalance(totals: np.ndarray) -> float:
    return float((totals**2).sum())


def _improve(load: np.ndarray, fold: np.ndarray, count: int) -> np.ndarray:
    """Take the best move of one group or swap of two, until none helps."""
    best, cost = fold, _imbalance(_totals(load, fold, count))
    while True:
        neighbours = []
        for item in range(len(fold)):
            for other in range(count):
                neighbours.append(np.where(np.arange(len(fold)) == item, other, best))
            for other in range(item):
                swapped = best.copy()
                swapped[[item, other]] = best[[other, item]]
                neighbours.append(swapped)
        costs = [_imbalance(_totals(load, neighbour, count)) for neighbour in neighbours]
        if min(costs) >= cost - 1e-12:
            return best
        best, cost = neighbours[int(np.argmin(costs))], min(costs)


def assign(
    group: np.ndarray,
    label: np.ndarray,
    usable: np.ndarray,
    settings: Folds,
    frame: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The held-out fold (N,) int8 of each patch, -1 where it is excluded, and the reason (N,) str
    why, empty where it is not.

    A patch without a valid pixel, which is not `usable`, is excluded from training and from
    scoring, and so are a frame of a video near the border of its fold and the evaluation fold.
    `label` is that of `balance`, `frame` that of `blocks`.

    Raises:
        UserError: there cannot be such folds.
    """
    excluded = np.where(usable, "", "no valid pixel").astype(object)
    if settings.scheme == "random":
        fold = at_random(len(group), settings.number)
    elif settings.scheme == "blocks":
        if frame is None:
            raise UserError(
                'folds.scheme = "blocks" is for frames of a video, and these are '
                'none: choose "group" or "random"'
            )
        fold = blocks(frame, settings.number).astype(np.int8)
        near = near_border(frame, fold, settings.gap)
        excluded[usable & near] = f"at most {settings.gap} frames from a border between folds"
    else:
        fold_of = (
            explicit(group, settings.groups)
            if settings.groups
            else balance(group[usable], label[usable], settings.number)
        )
        fold = np.array([fold_of.get(int(name), -1) for name in group], np.int8)
    kept = excluded == ""
    for number in range(settings.number):
        if not (kept & (fold == number)).any():
            raise UserError(
                f"fold {number} has no patch with a valid pixel: give it other groups "
                "in folds.groups of the recipe"
            )
    excluded[kept & (fold == settings.evaluation)] = EVALUATION
    return np.where(excluded == "", fold, np.int8(-1)), excluded
