"""Thresholds and refinement of wells, selected out of fold."""

import json
from pathlib import Path

import numpy as np
import pytest

from src.recipe import HMM, Postprocess
from src.wells.postprocess import selection
from src.wells.postprocess.refinement import Refinement
from src.wells.postprocess.selection import THRESHOLDS, Selection
from tests.drawn_wells import (
    LARGE,
    SINGLE,
    SMALL,
    SMOOTHING,
    TRIPLE,
    draw,
    split_of,
    split_with_a_faint_groove,
)
from tests.tiny import Arrays, patch_iou


@pytest.fixture
def at_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to select but the refinement."""
    only(monkeypatch, 0.5)


def only(monkeypatch: pytest.MonkeyPatch, *levels: float) -> None:
    monkeypatch.setattr(selection, "THRESHOLDS", np.array(levels))
    monkeypatch.setattr(selection, "HALF", 0)


def select(
    train: Arrays, probability: np.ndarray, settings: Postprocess
) -> tuple[Selection, np.ndarray, np.ndarray]:
    """What is selected, and the scores that it and the plain threshold earn on patches without
    gaps; the same whether all wells are at hand or one at a time.
    """
    whole = train | {"probability": probability}
    wells = [
        {name: array[train["group"] == well] for name, array in whole.items()}
        for well in np.unique(train["group"])
    ]
    own, by_well = (selection.of_wells(some, settings, patch_iou) for some in ([whole], wells))
    assert (by_well.final, by_well.without) == (own.final, own.without)
    assert by_well.plain == own.plain and by_well.threshold == own.threshold
    assert by_well.table == pytest.approx(own.table)
    np.testing.assert_allclose(by_well.at_thresholds, own.at_thresholds)
    levels = np.array([own.plain[fold] for fold in train["fold"]])
    earned = patch_iou(selection.masks(whole, own.final, own.without, settings), train["mask"])
    plainly = patch_iou(probability > levels[:, None, None], train["mask"])
    assert (own.score, own.unrefined) == pytest.approx((earned.mean(), plainly.mean()))
    return own, earned, plainly


def final_masks(
    train: Arrays, probability: np.ndarray, own: Selection, settings: Postprocess
) -> np.ndarray:
    """Those of a test set, which has no folds."""
    test = {name: array for name, array in train.items() if name != "fold"}
    block = test | {"probability": probability}
    return selection.masks(block, own.final, own.without, settings)


def the_refinement(own: Selection) -> Refinement:
    """The one for wells of both kinds of scan."""
    assert own.final[True] == own.final[False]
    return own.final[False]


SIZES = Postprocess(random_walker=False, min_sizes=[0, 2, 4])
NOISY, CLEAN = draw(SMALL, SINGLE), draw(SMALL)


@pytest.mark.usefixtures("at_one_half")
def test_each_fold_is_scored_under_the_refinement_that_is_best_on_the_others() -> None:
    """Singles are always wrong; the triple is wrong on fold 0 only, but so clearly that it
    decides over all folds.
    """
    masks = [draw(SMALL, TRIPLE, SINGLE), draw(LARGE, TRIPLE, SINGLE), draw(LARGE, SINGLE)]
    train, probability = split_of(masks, [draw(SMALL), draw(LARGE, TRIPLE), draw(LARGE)])
    own, earned, plainly = select(train, probability, SIZES)
    plain, no_singles, no_triples = (Refinement(0.5, None, size) for size in (0, 2, 4))
    assert own.table == {
        str(plain): pytest.approx((4 / 8 + 19 / 20 + 16 / 17) / 3),
        str(no_singles): pytest.approx((4 / 7 + 1 + 1) / 3),
        str(no_triples): pytest.approx((1 + 16 / 19 + 1) / 3),
    }
    assert the_refinement(own) == no_triples and own.refined
    assert earned.tolist() == pytest.approx([4 / 7, 16 / 19, 1])  # without fold 0, triples stay
    assert plainly.tolist() == pytest.approx([4 / 8, 19 / 20, 16 / 17])


def test_the_mean_score_at_each_threshold_is_told_for_each_fold_and_for_all() -> None:
    train, probability = split_of(
        [draw(LARGE), draw(SMALL), draw(TRIPLE)], [draw(LARGE), draw(LARGE), draw()]
    )
    train["fold"] = np.array([0, 0, 1], np.int8)
    own, *_ = select(train, probability, Postprocess(random_walker=False, min_sizes=[0]))
    low, middle, high = (
        own.at_thresholds[:, np.flatnonzero(np.isclose(THRESHOLDS, level))[0]].tolist()
        for level in (0.1, 0.5, 0.9)
    )
    # all marked: 16 of 100 pixels twice, none of 100
    assert low == pytest.approx([0.16, 0, 0.32 / 3])
    assert middle == pytest.approx([(1 + 1 / 4) / 2, 0, 1.25 / 3])
    assert high == pytest.approx([0, 1, 1 / 3])  # nothing marked


def test_the_threshold_is_one_half_everywhere_where_the_recipe_says_so() -> None:
    """Marked with 0.6, which a threshold above that would rightly leave empty in every fold."""
    train, probability = split_of([draw(SMALL)] * 3, [draw()] * 3)
    own, earned, _ = select(train, probability, Postprocess(random_walker=False, min_sizes=[0]))
    assert earned.tolist() == [1, 1, 1] and own.threshold > 0.6
    fixed = Postprocess(threshold="one_half", random_walker=False, min_sizes=[0])
    own, earned, _ = select(train, probability, fixed)
    assert earned.tolist() == [0, 0, 0] and own.threshold == 0.5
    assert set(own.plain.values()) == {0.5} and the_refinement(own) == Refinement(0.5)


@pytest.mark.usefixtures("at_one_half")
@pytest.mark.parametrize(
    ("truth", "score"), [(draw(SMALL), 4 / 7), (draw(SMALL, TRIPLE), 1), (draw(TRIPLE), 3 / 7)]
)
def test_a_folds_own_truth_does_not_influence_what_is_selected_for_it(
    truth: np.ndarray, score: float
) -> None:
    masks = [draw(SMALL, TRIPLE, SINGLE), draw(LARGE, TRIPLE, SINGLE), draw(LARGE, SINGLE)]
    train, probability = split_of(masks, [truth, draw(LARGE, TRIPLE), draw(LARGE)])
    _, earned, _ = select(train, probability, SIZES)
    assert earned[0] == pytest.approx(score)  # singles dropped, triple kept, whatever the truth


@pytest.mark.usefixtures("at_one_half")
def test_a_refinement_that_is_best_in_sample_only_is_not_applied() -> None:
    train, probability = split_of([NOISY] * 3, [CLEAN, CLEAN, NOISY])
    settings = Postprocess(random_walker=False, min_sizes=[0, 4])
    own, earned, _ = select(train, probability, settings)
    assert own.table[str(Refinement(0.5, None, 4))] > own.table[str(Refinement(0.5))]
    assert the_refinement(own) == Refinement(0.5) and not own.refined
    assert earned.tolist() == pytest.approx([0.8, 0.8, 1])


@pytest.mark.usefixtures("at_one_half")
def test_a_refinement_that_raises_the_score_out_of_fold_is_applied() -> None:
    train, probability = split_of([NOISY] * 4, [CLEAN, CLEAN, CLEAN, NOISY])
    settings = Postprocess(random_walker=False, min_sizes=[0, 4])
    own, earned, _ = select(train, probability, settings)
    assert the_refinement(own) == Refinement(0.5, None, 4)
    assert earned.tolist() == pytest.approx([1, 1, 1, 0.8])


@pytest.mark.usefixtures("at_one_half")
def test_a_refinement_can_be_applied_whether_it_helps_or_not() -> None:
    train, probability = split_of([NOISY] * 3, [CLEAN, CLEAN, NOISY])
    settings = Postprocess(random_walker=False, min_sizes=[0, 4], apply="always")
    own, earned, _ = select(train, probability, settings)
    assert the_refinement(own) == Refinement(0.5, None, 4)
    assert earned.tolist() == pytest.approx([1, 1, 0.8])
    with pytest.raises(ValueError, match="needs an hmm"):
        Postprocess(random_walker=False, min_sizes=[0], apply="always")


def test_without_a_candidate_that_does_better_the_plain_threshold_stays() -> None:
    train, probability = split_of([draw(LARGE)] * 2, [draw(LARGE)] * 2)
    own, earned, _ = select(train, probability, Postprocess())
    assert the_refinement(own).plain
    assert earned.tolist() == [1, 1]


def test_each_fold_is_cut_at_the_threshold_that_was_selected_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is marked at one half is all right on one fold, and all wrong on the other."""
    only(monkeypatch, 0.5, 0.7)
    train, probability = split_of([draw(LARGE)] * 2, [draw(LARGE), draw()])
    own, earned, _ = select(train, probability, Postprocess(random_walker=False, min_sizes=[0]))
    assert own.plain == {0: 0.7, 1: 0.5} and own.threshold == 0.5
    assert own.without == {
        (scan, fold): Refinement(level)
        for scan in (False, True)
        for fold, level in ((0, 0.7), (1, 0.5))
    }
    assert earned.tolist() == [0, 0]


def test_a_fold_that_is_alone_is_cut_at_one_half_and_the_test_set_at_what_is_best() -> None:
    train, _ = split_of([draw(LARGE)] * 2, [draw(LARGE)] * 2)
    train["fold"][:] = 3
    probability = np.where(train["mask"], 0.4, 0.2)
    own, earned, _ = select(train, probability, Postprocess(random_walker=False, min_sizes=[0]))
    assert own.plain == {3: 0.5} and earned.tolist() == [0, 0]
    # the lowest above what is not corroded, a little more than 0.2 in single precision
    assert own.threshold == 0.21 and own.final[False] == Refinement(own.threshold)


def random_wells(seed: int) -> tuple[Arrays, np.ndarray]:
    """Thirty wells of a patch each in three folds that are not in order; those that show no
    corrosion have a few pixels that look like it.
    """
    rng = np.random.default_rng(seed)
    train, _ = split_of([draw()] * 30, [draw()] * 30)
    share = rng.choice([0, 0.2, 0.3], (30, 1, 1))
    train["mask"] = (rng.random((30, 10, 10)) < share).astype(np.uint8)
    train["fold"] = rng.permutation(np.repeat([0, 2, 1], 10)).astype(np.int8)
    probability = 0.4 * train["mask"] + 0.5 * rng.random((30, 10, 10))
    for row in np.flatnonzero(~train["mask"].any((1, 2))):
        probability[row].ravel()[rng.choice(100, rng.integers(1, 16), replace=False)] = 0.95
    return train, probability.astype(np.float16)


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_the_best_of_all_out_of_fold(seed: int) -> None:
    """Of wells that a network is more sure of and less."""
    train, probability = random_wells(seed)
    sure = np.random.default_rng(seed).uniform(0.4, 1, (30, 1, 1))
    probability = (probability * sure).astype(np.float16)
    own, earned, _ = select(train, probability, Postprocess(random_walker=False, min_sizes=[0]))
    scores = np.array([patch_iou(probability > level, train["mask"]) for level in THRESHOLDS])
    for fold in range(3):
        others = scores[:, train["fold"] != fold].mean(1)
        assert own.plain[fold] == THRESHOLDS[np.argmax(others)]
        np.testing.assert_array_equal(
            earned[train["fold"] == fold], scores[np.argmax(others), train["fold"] == fold]
        )
    assert len(set(own.plain.values())) > 1
    assert own.threshold == THRESHOLDS[np.argmax(scores.mean(1))]
    np.testing.assert_allclose(own.at_thresholds[-1], scores.mean(1))


@pytest.mark.parametrize("seed", range(3))
def test_the_refinement_is_the_best_of_all_candidates_out_of_fold(seed: int) -> None:
    """Each fold's candidates are cut at its own threshold; the best of them is tried on every
    other fold by hand.
    """
    train, probability = random_wells(seed)
    settings = Postprocess(random_walker=False, min_sizes=[0], min_in_patch=[0, 5, 11, 25])
    own, earned, plainly = select(train, probability, settings)

    def cut(level: float, few: int) -> np.ndarray:
        masks = probability.astype(np.float64) > level
        return patch_iou(masks & (masks.sum((1, 2)) >= few)[:, None, None], train["mask"])

    by_hand = np.zeros(30)
    for fold in range(3):
        here, level = train["fold"] == fold, own.plain[fold]
        tried = {few: cut(level, few)[~here].sum() for few in (0, 5, 11, 25)}
        best = max(tried, key=tried.get)
        by_hand[here] = cut(level, best)[here]
    np.testing.assert_array_equal(earned, by_hand)
    assert own.refined and by_hand.mean() > plainly.mean()


@pytest.mark.usefixtures("at_one_half")
@pytest.mark.parametrize(("few", "score"), [([], 0.5), ([0, 4], 1), ([17], 0.5)])
def test_emptying_patches_is_selected_where_it_raises_the_score_out_of_fold(
    few: list[int], score: float
) -> None:
    """Emptying all of them is as good as emptying none."""
    truths = [draw(), draw(LARGE), draw(), draw(LARGE)]
    train, probability = split_of([draw(TRIPLE), draw(LARGE)] * 2, truths)
    settings = Postprocess(random_walker=False, min_sizes=[0], min_in_patch=few)
    own, earned, _ = select(train, probability, settings)
    assert the_refinement(own) == Refinement(0.5, min_in_patch=4 if score == 1 else 0)
    assert earned.mean() == score
    masks = final_masks(train, probability, own, settings)
    assert masks.any((1, 2)).tolist() == [score < 1, True] * 2


def test_candidates_begin_with_the_plain_threshold_and_hold_each_once() -> None:
    settings = Postprocess(betas=[0.5, 2], min_sizes=[8, 0, 8, 4])
    expected = [Refinement(0.3, None, size) for size in (0, 4, 8)]
    expected += [Refinement(0.5, beta, size) for beta in (0.5, 2) for size in (0, 4, 8)]
    assert selection.candidates(settings, {None: 0.3}) == expected
    settings = Postprocess(random_walker=False, min_sizes=[])
    assert selection.candidates(settings, {None: 0.3}) == [Refinement(0.3)]
    settings = Postprocess(random_walker=False, min_sizes=[4], min_in_patch=[9], hmm=[SMOOTHING])
    assert selection.candidates(settings, {None: 0.3, SMOOTHING: 0.6}) == [
        Refinement(level, None, size, smoothing, few)
        for smoothing, level in ((None, 0.3), (SMOOTHING, 0.6))
        for few in (0, 9)
        for size in (0, 4)
    ]


def test_a_groove_is_found_through_a_faint_patch_by_smoothing() -> None:
    train, probability = split_with_a_faint_groove(3)
    settings = Postprocess(random_walker=False, min_sizes=[0], hmm=[SMOOTHING])
    own, earned, plainly = select(train, probability, settings)
    assert the_refinement(own).hmm == SMOOTHING
    assert earned.tolist() == [1] * 9 and plainly.tolist() == [1, 10 / 14, 1] * 3
    masks = final_masks(train, probability, own, settings)
    np.testing.assert_array_equal(masks, train["mask"])


def split_of_two_kinds(folds: int = 3) -> tuple[Arrays, np.ndarray]:
    """Two wells a fold; in the second half of them, the interleaved ones, only the surer half of
    what is marked is corroded.
    """
    truth = np.zeros((2 * folds, 10, 10), bool)
    truth[:, :, 2:4] = True
    arrays, _ = split_of([draw()] * 2 * folds, list(truth))
    arrays["fold"] = np.tile(np.arange(folds, dtype=np.int8), 2)
    arrays["mask"][folds:, :, 3] = 0
    arrays["parity"][folds:] = 1
    probability = np.full((2 * folds, 10, 10), 0.05)
    probability[:, :, 2], probability[:, :, 3] = 0.8, 0.4
    return arrays, probability


@pytest.mark.parametrize(
    ("by_scan", "scores"), [(True, [1] * 6), (False, [1, 1, 1, 0.5, 0.5, 0.5])]
)
def test_wells_of_each_kind_of_scan_get_thresholds_of_their_own_on_request(
    by_scan: bool, scores: list[float]
) -> None:
    train, probability = split_of_two_kinds()
    settings = Postprocess(random_walker=False, min_sizes=[0], by_scan=by_scan)
    own, earned, plainly = select(train, probability, settings)
    assert earned.tolist() == scores and plainly.tolist() == [1, 1, 1, 0.5, 0.5, 0.5]
    masks = final_masks(train, probability, own, settings)
    assert patch_iou(masks, train["mask"]).tolist() == scores
    assert (own.final[True] == own.final[False]) == (not by_scan)
    assert ("; interleaved wells by threshold 0.41" in str(own)) == by_scan


def test_a_kind_of_scan_in_a_single_fold_cannot_select_by_itself() -> None:
    """Folds 0 and 1 follow the three interleaved wells among four of fold 2."""
    train, probability = split_of_two_kinds()
    train["fold"] = np.array([0, 1, 2, 2, 2, 2], np.int8)
    selected = [
        select(train, probability, Postprocess(random_walker=False, min_sizes=[0], by_scan=by_scan))
        for by_scan in (True, False)
    ]
    assert selected[0][0].final == selected[1][0].final
    for _, earned, _ in selected:
        assert earned.tolist() == [0.5, 0.5, 1, 0.5, 0.5, 0.5]


def test_the_held_out_truth_has_no_say_in_its_own_threshold_by_scan() -> None:
    train, probability = split_of_two_kinds(4)
    settings = Postprocess(random_walker=False, min_sizes=[0], by_scan=True)
    # fold 0 of the interleaved wells wants what the contiguous ones want
    train["mask"][4, :, 3] = 1
    _, earned, _ = select(train, probability, settings)
    # and does not get it: the other three decide
    assert earned.tolist() == [1, 1, 1, 1, 0.5, 1, 1, 1]


def test_thresholds_are_tried_one_by_one_on_probabilities_above_them() -> None:
    probability = np.array([[[0.25, 0.5, 0.75]]], np.float16)
    truth = np.array([[[0, 0, 1]]])
    scores = selection.threshold_scores(probability, truth, patch_iou)
    assert scores.shape == (len(THRESHOLDS), 1)
    by_threshold = {
        round(float(threshold), 2): score
        for threshold, score in zip(THRESHOLDS, scores[:, 0], strict=True)
    }
    assert by_threshold[0.05] == by_threshold[0.24] == pytest.approx(1 / 3)
    assert by_threshold[0.25] == by_threshold[0.49] == 1 / 2
    assert by_threshold[0.5] == by_threshold[0.74] == 1
    assert by_threshold[0.75] == by_threshold[0.95] == 0


def test_scores_at_all_thresholds_are_those_of_masks_cut_one_by_one() -> None:
    """Also where a probability is a threshold itself, in float16 or float32."""
    rng = np.random.default_rng(0)
    probability = rng.choice([*THRESHOLDS, *rng.random(200)], size=(20, 6, 6))
    truth = rng.random((20, 6, 6)) < 0.3
    for stored in (probability.astype(np.float16), probability.astype(np.float32)):
        scores = selection.threshold_scores(stored, truth, patch_iou)
        for number, threshold in enumerate(THRESHOLDS):
            mask = stored.astype(np.float64) > threshold
            union = (mask | truth).sum((1, 2))
            expected = np.where(union, (mask & truth).sum((1, 2)) / np.maximum(union, 1), 1)
            np.testing.assert_array_equal(scores[number], expected)


def test_thresholds_rise_and_lie_alike_about_one_half() -> None:
    assert (np.diff(THRESHOLDS) > 0).all() and THRESHOLDS[selection.HALF] == 0.5
    np.testing.assert_allclose(1 - THRESHOLDS[::-1], THRESHOLDS)


def test_a_selection_reads_back_as_it_was_written(tmp_path: Path) -> None:
    train, probability = split_of_two_kinds()
    settings = Postprocess(betas=[1.0], min_sizes=[0, 3], by_scan=True, hmm=[HMM(rows=5)])
    own, *_ = select(train, probability, settings)
    smoothed = Refinement(0.3, None, 2, HMM(rows=7), 5)
    own.final[True], own.without[True, 1] = smoothed, Refinement(0.5, 0.1)
    content = json.loads(json.dumps(selection.as_json(own)))
    back = selection.of_json(content, own.at_thresholds)
    assert back.at_thresholds is own.at_thresholds
    for name in ("final", "without", "plain", "threshold", "table", "score", "unrefined"):
        assert getattr(back, name) == getattr(own, name), name
    assert set(content["final"]) == {"contiguous", "interleaved"}
