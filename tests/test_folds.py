"""Folds by group."""

from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from src.artifacts import hdf5, lineage
from src.competitions import PatchSplit
from src.competitions.formats.masks import PackedMasks, pack
from src.recipe import Folds
from src.scoring import folds
from src.terminal.errors import UserError
from src.wells import preparation
from tests import tiny


def random_wells(rng: np.random.Generator, wells: int) -> tuple[np.ndarray, np.ndarray]:
    """Group and corrosion of the patches of wells of very uneven sizes and shares, shuffled."""
    sizes = np.ceil(rng.lognormal(3, 1.5, wells)).astype(int)
    group = np.repeat(rng.choice(1000, wells, replace=False), sizes)
    corroded = rng.random(len(group)) < np.repeat(rng.random(wells), sizes)
    order = rng.permutation(len(group))
    return group[order], corroded[order]


def unevenness(
    group: np.ndarray, corroded: np.ndarray, fold_of: dict[int, int], count: int
) -> float:
    """Sum over folds of the squared shares of patches and of corroded patches."""
    fold = np.array([fold_of[name] for name in group])
    patches = [(fold == f).mean() for f in range(count)]
    sick = [(corroded & (fold == f)).sum() / max(corroded.sum(), 1) for f in range(count)]
    return sum(share**2 for share in patches + sick)


@pytest.mark.parametrize("seed", range(25))
def test_balanced_folds_hold_every_group_once_and_none_is_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    group, corroded = random_wells(rng, wells=int(rng.integers(count, 20)))
    fold_of = folds.balance(group, corroded, count)
    assert sorted(fold_of) == np.unique(group).tolist()
    assert set(fold_of.values()) == set(range(count))
    assert folds.balance(group, corroded, count) == fold_of


@pytest.mark.parametrize("seed", range(12))
def test_balance_comes_near_the_best_of_all_divisions(seed: int) -> None:
    group, corroded = random_wells(np.random.default_rng(seed), wells=7)
    names = np.unique(group).tolist()
    divisions = (
        dict(zip(names, division, strict=True))
        for division in product(range(3), repeat=7)
        if len(set(division)) == 3
    )
    load = {
        name: np.array(
            [(group == name).mean(), corroded[group == name].sum() / max(corroded.sum(), 1)]
        )
        for name in names
    }
    best = min(
        sum(
            float((sum(load[name] for name in names if division[name] == f) ** 2).sum())
            for f in range(3)
        )
        for division in divisions
    )
    assert unevenness(group, corroded, folds.balance(group, corroded, 3), 3) <= 1.005 * best


def test_balance_minds_corroded_patches_too() -> None:
    """Four equal wells, two of them corroded: whichever they are, one of these goes into each
    fold.
    """
    group = np.repeat([1, 2, 3, 4], 10)
    for sick in ([1, 2], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]):
        fold_of = folds.balance(group, np.isin(group, sick), 2)
        assert {fold_of[name] for name in sick} == {0, 1}
        assert sorted(fold_of.values()) == [0, 0, 1, 1]


def test_balance_mends_what_dealing_the_largest_first_gets_wrong() -> None:
    """Sizes 3, 3, 2, 2, 2: dealt largest first they come to 7 and 5; 6 and 6 is possible."""
    group = np.repeat([1, 2, 3, 4, 5], [3, 3, 2, 2, 2])
    fold_of = folds.balance(group, np.ones(12, bool), 2)
    assert fold_of[1] == fold_of[2] != fold_of[3] == fold_of[4] == fold_of[5]


def test_no_corroded_patch_at_all_is_no_obstacle() -> None:
    assert set(folds.balance(np.array([1, 2, 3]), np.zeros(3, bool), 3).values()) == {0, 1, 2}


def test_too_few_groups_for_the_folds_is_an_error() -> None:
    with pytest.raises(
        UserError,
        match=r"3 folds need at least 3 groups, but there are "
        r"2.*folds\.count",
    ):
        folds.balance(np.array([1, 1, 2]), np.ones(3, bool), 3)


def test_explicit_folds_are_taken_as_listed() -> None:
    assert folds.explicit(np.array([4, 1, 2, 4]), [[2], [1, 4]]) == {2: 0, 1: 1, 4: 1}


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        pytest.param([[1, 2], [3, 2]], "group 2 is listed twice", id="twice"),
        pytest.param([[1], [2]], "group 3 stands in no fold", id="missing"),
        pytest.param([[1, 2, 3], []], r"fold 1 \(\[\]\) has no patches", id="empty fold"),
        pytest.param(
            [[1, 2, 3], [9]],
            r"fold 1 \(\[9\]\) has no patches.*\[1, 2, 3\]",
            id="fold of absent groups",
        ),
    ],
)
def test_wrong_explicit_folds_are_refused(listed: list[list[int]], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        folds.explicit(np.array([1, 2, 3]), listed)


def patches_of(group: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(group), np.ones((len(group), 2, 2), np.uint8), np.ones((len(group), 2, 2), bool)


def assign(
    group: np.ndarray, mask: np.ndarray, valid: np.ndarray, settings: Folds
) -> tuple[np.ndarray, np.ndarray]:
    """As `src.wells.preparation.write_train` assigns folds, of patches as they are cleaned."""
    raw = PatchSplit(
        np.arange(len(group)).astype(str).astype(object),
        lambda rows: np.where(valid, 0, -999.25).astype(np.float32)[rows],
        group.astype(np.int32),
        np.arange(len(group), dtype=np.int32),
        PackedMasks(pack(mask), mask.shape[1:]),
    )
    chosen = tiny.tiny().model_copy(update={"folds": settings})
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "prepared", lambda run, split: {})
        run = tiny.run_of(Path(folder), chosen)
        preparation.write_train(run, raw)
        found = hdf5.read(run.prepared("train"), "fold", "excluded")
    return found["fold"], found["excluded"]


@pytest.mark.parametrize(
    "settings", [Folds(groups=[[1], [2, 3]]), Folds(count=2)], ids=["listed", "balanced"]
)
def test_a_patch_without_a_valid_pixel_is_excluded_with_its_reason(settings: Folds) -> None:
    group, mask, valid = patches_of([1, 1, 2, 3, 3])
    valid[1], valid[3, 0] = False, False  # one wholly corrupt, one by half
    fold, excluded = assign(group, mask, valid, settings)
    assert fold.dtype == np.int8
    assert fold[1] == -1
    assert (fold[[0, 2, 3, 4]] >= 0).all()
    assert fold[3] == fold[4]
    assert excluded.tolist() == ["", "no valid pixel", "", "", ""]


def test_a_group_of_excluded_patches_only_does_not_count_as_a_group() -> None:
    group, mask, valid = patches_of([1, 2, 3])
    valid[2] = False
    assert assign(group, mask, valid, Folds(count=2))[0].tolist()[2] == -1
    with pytest.raises(UserError, match="need at least 3 groups, but there are 2"):
        assign(group, mask, valid, Folds(count=3))


def test_a_listed_fold_of_excluded_patches_only_is_refused() -> None:
    group, mask, valid = patches_of([1, 1, 2])
    valid[2] = False
    with pytest.raises(UserError, match="fold 1 has no patch with a valid pixel"):
        assign(group, mask, valid, Folds(groups=[[1], [2]]))


def test_corroded_means_any_pixel_of_the_mask() -> None:
    group, mask, valid = patches_of([1, 2, 3, 4])
    mask[:] = 0
    mask[0, 1, 1] = mask[2, 0, 1] = 1
    fold, _ = assign(group, mask, valid, Folds(count=2))
    assert fold[0] != fold[2]


def test_random_folds_split_wells_evenly_and_always_alike() -> None:
    group, mask, valid = patches_of([1] * 30 + [2] * 20)
    settings = Folds(scheme="random", count=5)
    fold, _ = assign(group, mask, valid, settings)
    assert np.bincount(fold).tolist() == [10] * 5
    assert all(set(fold[group == well]) == set(range(5)) for well in (1, 2))
    np.testing.assert_array_equal(fold, assign(group, mask, valid, settings)[0])


@pytest.mark.parametrize("seed", range(30))
def test_blocks_are_stretches_of_the_video_alike_in_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    frame = rng.integers(0, 90, int(rng.integers(20, 80)))  # in no order, some positions twice
    if len(np.unique(frame)) < count:
        return
    block = folds.blocks(frame, count)
    for number in range(count):
        own = frame[block == number]
        assert not (
            (frame[block != number] >= own.min()) & (frame[block != number] <= own.max())
        ).any()
    positions = [len(np.unique(frame[block == number])) for number in range(count)]
    assert max(positions) - min(positions) <= 1
    assert (np.diff(block[np.argsort(frame, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("seed", range(30))
def test_frames_near_a_border_are_left_out_so_that_folds_are_apart(seed: int) -> None:
    """A border is midway between the last frame of a block and the first of the next; positions
    have holes.
    """
    rng = np.random.default_rng(seed)
    count, gap = int(rng.integers(2, 5)), int(rng.integers(0, 9))
    frame = rng.permutation(rng.choice(200, 80, replace=False))
    block = folds.blocks(frame, count)
    order = sorted(range(80), key=lambda row: frame[row])
    borders = [(frame[i] + frame[j]) / 2 for i, j in pairwise(order) if block[i] != block[j]]
    assert len(borders) == count - 1
    near = folds.near_border(frame, block, gap)
    assert near.tolist() == [
        any(abs(frame[row] - border) <= gap for border in borders) for row in range(80)
    ]
    kept = np.flatnonzero(~near)
    assert (
        min(abs(int(frame[i]) - int(frame[j])) for i in kept for j in kept if block[i] != block[j])
        > 2 * gap
    )


def test_blocks_of_frames_are_folds_and_the_gap_is_excluded_with_its_reason() -> None:
    frame, ones = np.array([8, 0, 2, 4, 6, 10]), np.ones(6, bool)
    usable = np.array([True, False, True, False, True, True])
    fold, excluded = folds.assign(
        np.zeros(6, int), ones, usable, Folds(scheme="blocks", count=2, gap=2), frame
    )
    assert fold.dtype == np.int8
    assert fold.tolist() == [1, -1, 0, -1, -1, 1]
    near = "at most 2 frames from a border between folds"
    assert excluded.tolist() == ["", "no valid pixel", "", "no valid pixel", near, ""]


@pytest.mark.parametrize("scheme", ["group", "random"])
def test_a_split_of_80_10_10_leaves_a_tenth_for_evaluation(scheme) -> None:
    group, ones = np.arange(200), np.ones(200, bool)
    settings = Folds(scheme=scheme, count=10, run=[0], evaluation=1)
    fold, excluded = folds.assign(group, ones, ones, settings)
    usual, _ = folds.assign(group, ones, ones, Folds(scheme=scheme, count=10))
    assert fold.tolist() == [-1 if own == 1 else own for own in usual]
    assert excluded.tolist() == ["held out for evaluation" if own == 1 else "" for own in usual]
    assert [(fold == 0).sum(), (excluded != "").sum(), (fold > 1).sum()] == [20, 20, 160]


def test_blocks_that_cannot_be_are_refused() -> None:
    frame, ones = np.arange(12), np.ones(12, bool)
    with pytest.raises(UserError, match=r"folds\.gap = 2 leaves none of the 4 frames of fold 1"):
        folds.assign(np.zeros(12, int), ones, ones, Folds(scheme="blocks", count=3, gap=2), frame)
    with pytest.raises(UserError, match="5 folds need at least 5 frames, but there are 4"):
        folds.blocks(np.array([1, 1, 2, 3, 4, 4]), 5)
    with pytest.raises(UserError, match="is for frames of a video"):
        folds.assign(np.zeros(12, int), ones, ones, Folds(scheme="blocks"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheme": "random", "gap": 1},
        {"gap": 1},
        {"scheme": "blocks", "groups": [[1], [2]]},
        {"gap": -1},
        {"evaluation": 1},
        {"run": [0, 1], "evaluation": 1},
        {"count": 3, "run": [0], "evaluation": 3},
    ],
)
def test_settings_without_meaning_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"has no meaning|greater than or equal|is no fold"):
        Folds(**wrong)
