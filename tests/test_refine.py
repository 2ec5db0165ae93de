"""Refinement of probabilities into masks."""

import numpy as np
import pytest
from skimage.segmentation import random_walker

from src.recipe import Postprocess, Track
from src.scoring import metrics
from src.wells import refinement as wells_refinement
from src.wells import selection
from src.wells.geometry import strips
from src.wells.refinement import Refinement

ABOVE, BELOW = 0.9, 0.1


def seeded_strip(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image, and a probability with seeds of both kinds, free pixels, and first and last
    columns that are seeded throughout.
    """
    rng = np.random.default_rng(seed)
    image, probability = rng.normal(size=(30, 12)), rng.random((30, 12))
    probability[:, [0, -1]] = np.where(probability[:, [0, -1]] > 0.5, 0.95, 0.05)
    return image, probability


def by_scikit_image(image: np.ndarray, probability: np.ndarray, beta: float) -> np.ndarray:
    labels = np.where(probability > ABOVE, 1, np.where(probability < BELOW, 2, 0))
    return random_walker(image, labels, beta=beta, mode="bf", return_full_prob=True)[0]


@pytest.mark.parametrize("beta", [0, 0.1, 10, 300])
@pytest.mark.parametrize("seed", range(3))
def test_walker_agrees_with_scikit_image_where_the_seam_has_no_say(seed: int, beta: float) -> None:
    image, probability = seeded_strip(seed)
    result = wells_refinement.random_walker(image, probability, beta, ABOVE, BELOW)
    np.testing.assert_allclose(result, by_scikit_image(image, probability, beta), atol=1e-6)
    assert result[(probability <= ABOVE) & (probability >= BELOW)].std() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_walker_closes_the_ring(seed: int) -> None:
    image, probability = seeded_strip(seed)
    whole = wells_refinement.random_walker(image, probability, 1.0, ABOVE, BELOW)
    for shift in (1, 5, 11):
        rolled_image, rolled = np.roll(image, shift, 1), np.roll(probability, shift, 1)
        result = wells_refinement.random_walker(rolled_image, rolled, 1.0, ABOVE, BELOW)
        np.testing.assert_allclose(result, np.roll(whole, shift, 1), atol=1e-8)
        if shift == 5:
            assert np.abs(by_scikit_image(rolled_image, rolled, 1.0) - result).max() > 0.01


def test_walker_on_a_flat_ring_is_the_gamblers_ruin() -> None:
    """Equal steps around a single row: the chance falls evenly from the corroded to the clean
    seed, on both ways.
    """
    probability = np.full((1, 10), 0.5)
    probability[0, 2], probability[0, 6] = 0.95, 0.05
    result = wells_refinement.random_walker(np.zeros((1, 10)), probability, 1.0, ABOVE, BELOW)
    np.testing.assert_allclose(
        result[0], [4 / 6, 5 / 6, 1, 3 / 4, 2 / 4, 1 / 4, 0, 1 / 6, 2 / 6, 3 / 6], atol=1e-8
    )


def test_walker_without_seeds_changes_nothing() -> None:
    probability = np.random.default_rng(0).uniform(BELOW, ABOVE, (5, 6))
    np.testing.assert_array_equal(
        wells_refinement.random_walker(np.zeros((5, 6)), probability, 1.0, ABOVE, BELOW),
        probability,
    )


@pytest.mark.parametrize(("seed", "chance"), [(0.95, 1), (0.05, 0)])
def test_walker_with_one_kind_of_seed_ends_there(seed: float, chance: float) -> None:
    rng = np.random.default_rng(0)
    probability = np.full((8, 6), 0.5)
    probability[3, 4] = seed
    np.testing.assert_allclose(
        wells_refinement.random_walker(rng.normal(size=(8, 6)), probability, 10.0, ABOVE, BELOW),
        chance,
        atol=1e-6,
    )


def test_walker_with_seeds_everywhere_only_labels_them() -> None:
    probability = np.where(np.random.default_rng(0).random((8, 6)) > 0.5, 0.95, 0.05)
    np.testing.assert_array_equal(
        wells_refinement.random_walker(np.zeros((8, 6)), probability, 1.0, ABOVE, BELOW),
        probability > 0.5,
    )


def flood(mask: np.ndarray, row: int, column: int) -> set[tuple[int, int]]:
    """The component of a pixel: across edges, corners and the seam."""
    rows, columns = mask.shape
    found, border = {(row, column)}, [(row, column)]
    while border:
        r, c = border.pop()
        around = [(r + down, (c + right) % columns) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        fresh = {(i, j) for i, j in around if 0 <= i < rows and mask[i, j]} - found
        found |= fresh
        border += fresh
    return found


@pytest.mark.parametrize("min_size", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_small_components_are_those_that_a_flood_fill_finds(seed: int, min_size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((25, 9)) < rng.uniform(0.1, 0.3)
    expected = mask.copy()
    for row, column in zip(*np.nonzero(mask), strict=True):
        expected[row, column] = len(flood(mask, row, column)) >= min_size
    np.testing.assert_array_equal(wells_refinement.remove_small(mask, min_size), expected)


@pytest.mark.parametrize("second", [(4, 5), (3, 5), (5, 5), (3, 1), (5, 0)])
def test_two_pixels_that_touch_are_one_component(second: tuple[int, int]) -> None:
    mask = np.zeros((9, 6), bool)
    mask[4, 0] = mask[second] = True
    np.testing.assert_array_equal(wells_refinement.remove_small(mask, 2), mask)
    assert not wells_refinement.remove_small(mask, 3).any()


def split_of(
    masks: list[np.ndarray], truths: list[np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One patch a fold and well: its arrays, and the probability 0.6 where it is marked."""
    count = len(masks)
    arrays = {
        "image": np.zeros((count, 10, 10), np.float32),
        "valid": np.ones((count, 10, 10), bool),
        "group": np.arange(count),
        "depth": np.zeros(count, int),
        "phase": np.zeros(count, int),
        "fold": np.arange(count, dtype=np.int8),
        "mask": np.array(truths).astype(np.uint8),
    }
    return arrays, np.where(masks, 0.6, 0.2).astype(np.float16)


def draw(*parts: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles (row, column, height, width) on a 10 x 10 patch."""
    mask = np.zeros((10, 10), bool)
    for row, column, height, width in parts:
        mask[row : row + height, column : column + width] = True
    return mask


def thresholds(folds: int, threshold: float = 0.5, **others: float) -> dict:
    return {
        "threshold": threshold,
        "threshold_without_fold": {str(fold): threshold for fold in range(folds)} | others,
    }


def choose(
    train: dict, probability: np.ndarray, thresholds: dict, settings: Postprocess
) -> tuple[wells_refinement.Chosen, np.ndarray, np.ndarray]:
    """What is chosen, and the scores that it and the plain threshold earn; the same whether all
    wells are at hand or one at a time.
    """
    whole = train | {"probability": probability}
    wells = [
        {name: array[train["group"] == well] for name, array in whole.items()}
        for well in np.unique(train["group"])
    ]
    chosen, by_well = (
        wells_refinement.choose(blocks, thresholds, settings, metrics.patch_iou)
        for blocks in ([whole], wells)
    )
    assert (by_well.refinement, by_well.for_interleaved, by_well.honest) == (
        chosen.refinement,
        chosen.for_interleaved,
        chosen.honest,
    )
    assert by_well.table == pytest.approx(chosen.table)
    np.testing.assert_allclose(by_well.at_thresholds, chosen.at_thresholds)
    return chosen, *wells_refinement.assess(whole, chosen, settings, metrics.patch_iou)


SMALL, LARGE, TRIPLE, SINGLE = (1, 1, 2, 2), (1, 1, 4, 4), (7, 1, 1, 3), (7, 7, 1, 1)
SIZES = Postprocess(random_walker=False, min_sizes=[0, 2, 4])


def test_each_fold_is_scored_under_the_refinement_that_is_best_on_the_others() -> None:
    """Singles are always wrong; the triple is wrong on fold 0 only, but so clearly that it
    decides over all folds.
    """
    masks = [draw(SMALL, TRIPLE, SINGLE), draw(LARGE, TRIPLE, SINGLE), draw(LARGE, SINGLE)]
    train, probability = split_of(masks, [draw(SMALL), draw(LARGE, TRIPLE), draw(LARGE)])
    chosen, earned, plainly = choose(train, probability, thresholds(3), SIZES)
    plain, no_singles, no_triples = (
        Refinement(0.5),
        Refinement(0.5, None, 2),
        Refinement(0.5, None, 4),
    )
    assert chosen.table == {
        plain: pytest.approx((4 / 8 + 19 / 20 + 16 / 17) / 3),
        no_singles: pytest.approx((4 / 7 + 1 + 1) / 3),
        no_triples: pytest.approx((1 + 16 / 19 + 1) / 3),
    }
    assert chosen.refinement == no_triples
    assert earned.tolist() == pytest.approx([4 / 7, 16 / 19, 1])  # without fold 0, triples stay
    assert plainly.tolist() == pytest.approx([4 / 8, 19 / 20, 16 / 17])


def test_the_mean_score_at_each_threshold_is_told_for_each_fold_and_for_all() -> None:
    train, probability = split_of(
        [draw(LARGE), draw(SMALL), draw(TRIPLE)], [draw(LARGE), draw(LARGE), draw()]
    )
    train["fold"] = np.array([0, 0, 1], np.int8)
    chosen, *_ = choose(
        train, probability, thresholds(2), Postprocess(random_walker=False, min_sizes=[0])
    )
    low, middle, high = (
        chosen.at_thresholds[:, np.flatnonzero(np.isclose(selection.THRESHOLDS, t))[0]].tolist()
        for t in (0.1, 0.5, 0.9)
    )
    # all marked: 16 of 100 pixels twice, none of 100
    assert low == pytest.approx([0.16, 0, 0.32 / 3])
    assert middle == pytest.approx([(1 + 1 / 4) / 2, 0, 1.25 / 3])
    assert high == pytest.approx([0, 1, 1 / 3])  # nothing marked


def test_a_folds_own_truth_does_not_influence_what_is_chosen_for_it() -> None:
    masks = [draw(SMALL, TRIPLE, SINGLE), draw(LARGE, TRIPLE, SINGLE), draw(LARGE, SINGLE)]
    truths = [draw(SMALL), draw(LARGE, TRIPLE), draw(LARGE)]
    for truth, score in ((draw(SMALL), 4 / 7), (draw(SMALL, TRIPLE), 1), (draw(TRIPLE), 3 / 7)):
        train, probability = split_of(masks, [truth, *truths[1:]])
        _, earned, _ = choose(train, probability, thresholds(3), SIZES)
        assert earned[0] == pytest.approx(score)  # singles dropped, triple kept, whatever the truth


def test_a_refinement_that_is_best_in_sample_only_is_not_applied() -> None:
    noisy, clean = draw(SMALL, SINGLE), draw(SMALL)
    train, probability = split_of([noisy] * 3, [clean, clean, noisy])
    settings = Postprocess(random_walker=False, min_sizes=[0, 4])
    chosen, earned, _ = choose(train, probability, thresholds(3), settings)
    assert chosen.table[Refinement(0.5, None, 4)] > chosen.table[Refinement(0.5)]
    assert chosen.refinement == Refinement(0.5)
    assert earned.tolist() == pytest.approx([0.8, 0.8, 1])


def test_a_refinement_that_raises_the_score_out_of_fold_is_applied() -> None:
    noisy, clean = draw(SMALL, SINGLE), draw(SMALL)
    train, probability = split_of([noisy] * 4, [clean, clean, clean, noisy])
    settings = Postprocess(random_walker=False, min_sizes=[0, 4])
    chosen, earned, _ = choose(train, probability, thresholds(4), settings)
    assert chosen.refinement == Refinement(0.5, None, 4)
    assert earned.tolist() == pytest.approx([1, 1, 1, 0.8])


def test_without_a_candidate_that_does_better_the_plain_threshold_stays() -> None:
    train, probability = split_of([draw(LARGE)] * 2, [draw(LARGE)] * 2)
    chosen, earned, _ = choose(train, probability, thresholds(2), Postprocess())
    assert chosen.refinement.plain
    assert earned.tolist() == [1, 1]


def test_each_fold_is_cut_at_the_threshold_that_was_chosen_without_it() -> None:
    train, probability = split_of([draw(LARGE)] * 2, [draw(LARGE)] * 2)
    settings = Postprocess(random_walker=False, min_sizes=[0])
    chosen, earned, _ = choose(train, probability, thresholds(2, 0.5, **{"1": 0.7}), settings)
    assert chosen.refinement == Refinement(0.5)
    assert earned.tolist() == [1, 0]


def test_a_patch_without_a_valid_pixel_gets_an_empty_mask() -> None:
    arrays, probability = split_of([draw(LARGE)] * 3, [draw(LARGE)] * 3)
    arrays["group"], arrays["depth"] = np.zeros(3, int), np.array([2, 0, 1])
    arrays["valid"][0] = False
    arrays["valid"][1, 0] = False
    refinements = [Refinement(0.5), Refinement(0.5, 1.0), Refinement(0.5, None, 4)]
    for mask in wells_refinement.refine(
        arrays, probability, refinements, Postprocess(seed_above=0.55, seed_below=0.45)
    ).values():
        assert mask.dtype == np.uint8
        assert mask.sum((1, 2)).tolist() == [0, 16, 16]


def test_components_are_measured_across_patches_of_a_strip_and_not_across_strips() -> None:
    """A pixel at the bottom of one patch and one at the top of the next are a pair."""
    bottom, top = draw((9, 4, 1, 1)), draw((0, 4, 1, 1))
    arrays, probability = split_of([top, bottom, bottom, top], [top] * 4)
    arrays["group"], arrays["depth"] = np.array([1, 1, 2, 3]), np.array([1, 0, 0, 1])
    pair = Refinement(0.5, None, 2)
    mask = wells_refinement.refine(arrays, probability, [pair], Postprocess())[pair]
    assert mask.sum((1, 2)).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("few", "left"),
    [
        (0, [5, 16, 2]),
        (2, [5, 16, 2]),
        (3, [5, 16, 0]),
        (5, [5, 16, 0]),
        (6, [0, 16, 0]),
        (17, [0, 0, 0]),
    ],
)
def test_a_patch_with_few_marked_pixels_is_emptied_whatever_its_strip_holds(
    few: int, left: list[int]
) -> None:
    """The middle one of three patches is full enough, and its neighbours hang on to it; a single
    pixel goes as a component before.
    """
    above, middle, below = (
        draw((9, 1, 1, 5), SINGLE),
        draw((0, 1, 4, 1), (0, 2, 10, 1), (9, 1, 1, 1), (9, 3, 1, 1)),
        draw((0, 2, 2, 1)),
    )
    arrays, probability = split_of([above, middle, below], [above] * 3)
    arrays["group"], arrays["depth"] = np.zeros(3, int), np.arange(3)
    refinement = Refinement(0.5, None, 2, None, few)
    mask = wells_refinement.refine(arrays, probability, [refinement], Postprocess())[refinement]
    assert mask.sum((1, 2)).tolist() == left
    for kept, own in zip(mask, (draw((9, 1, 1, 5)), middle, below), strict=True):
        assert not kept.any() or np.array_equal(kept, own)


def test_emptying_patches_is_chosen_where_it_raises_the_score_out_of_fold() -> None:
    truths = [draw(), draw(LARGE), draw(), draw(LARGE)]
    train, probability = split_of([draw(TRIPLE), draw(LARGE)] * 2, truths)
    # emptying all of them is as good as emptying none
    for few, score in (([], 0.5), ([0, 4], 1), ([17], 0.5)):
        settings = Postprocess(random_walker=False, min_sizes=[0], min_in_patch=few)
        chosen, earned, _ = choose(train, probability, thresholds(4), settings)
        assert chosen.refinement == Refinement(0.5, min_in_patch=4 if score == 1 else 0)
        assert earned.mean() == score
        assert (
            wells_refinement.apply(train, probability, chosen, settings).any((1, 2)).tolist()
            == [score < 1, True] * 2
        )


def test_the_walker_crosses_from_patch_to_patch() -> None:
    """Seeds in the first patch of a strip decide over a second patch that has none."""
    arrays, _ = split_of([draw()] * 3, [draw()] * 3)
    arrays["group"], arrays["depth"] = np.array([1, 2, 1]), np.array([1, 0, 0])
    probability = np.full((3, 10, 10), 0.4)
    probability[2, 0] = 0.95
    walked = Refinement(0.5, 1.0)
    mask = wells_refinement.refine(arrays, probability, [walked], Postprocess())[walked]
    assert mask.sum((1, 2)).tolist() == [100, 0, 100]


def test_candidates_begin_with_the_plain_threshold_and_hold_each_once() -> None:
    settings = Postprocess(betas=[0.5, 2], min_sizes=[8, 0, 8, 4])
    expected = [Refinement(0.3, None, size) for size in (0, 4, 8)]
    expected += [Refinement(0.5, beta, size) for beta in (0.5, 2) for size in (0, 4, 8)]
    assert wells_refinement.candidates(settings, {None: 0.3}) == expected
    assert wells_refinement.candidates(
        Postprocess(random_walker=False, min_sizes=[]), {None: 0.3}
    ) == [Refinement(0.3)]
    settings = Postprocess(random_walker=False, min_sizes=[4], min_in_patch=[9])
    assert wells_refinement.candidates(settings, {None: 0.3}) == [
        Refinement(0.3, None, size, None, few) for few in (0, 9) for size in (0, 4)
    ]


def test_a_refinement_can_be_applied_whether_it_helps_or_not() -> None:
    noisy, clean = draw(SMALL, SINGLE), draw(SMALL)
    train, probability = split_of([noisy] * 3, [clean, clean, noisy])
    settings = Postprocess(random_walker=False, min_sizes=[0, 4], apply="always")
    chosen, earned, _ = choose(train, probability, thresholds(3), settings)
    assert chosen.refinement == Refinement(0.5, None, 4)
    assert earned.tolist() == pytest.approx([1, 1, 0.8])
    with pytest.raises(ValueError, match="needs a track"):
        Postprocess(random_walker=False, min_sizes=[0], apply="always")


def test_on_patches_the_walker_is_scikit_images_on_stretched_intensities() -> None:
    image, probability = seeded_strip(1)
    image, probability = image[:36, :36] * 7 + 3, probability[:36, :36]
    stretched = (image - image.min()) / (image.max() - image.min()) * 255
    expected = by_scikit_image(stretched, probability, 1.0)
    np.testing.assert_allclose(
        wells_refinement.random_walker_on_patch(image, probability, 1.0, ABOVE, BELOW),
        expected,
        atol=5e-3,
    )


@pytest.mark.parametrize(("seed", "chance"), [(0.95, 1.0), (0.05, 0.0), (0.5, 0.5)])
def test_on_patches_one_kind_of_seed_or_none_decides_alone(seed: float, chance: float) -> None:
    probability = np.full((4, 4), 0.5)
    probability[0, 0] = seed
    image = np.arange(16.0).reshape(4, 4)
    assert (
        wells_refinement.random_walker_on_patch(image, probability, 1.0, ABOVE, BELOW) == chance
    ).all()


def test_a_walk_on_patches_stops_at_their_edges() -> None:
    train, _ = split_of([draw(), draw()], [draw(), draw()])
    probability = np.full(train["image"].shape, 0.5)
    probability[0, 0, 0], probability[1, 0, 0] = 0.95, 0.05
    settings = Postprocess(walk_on="patches", betas=[1.0], min_sizes=[0])
    walk = Refinement(0.5, 1.0)
    masks = wells_refinement.refine(train, probability, [walk], settings)[walk]
    assert masks[0].all() and not masks[1].any()


TRACK = Track(rows=2, floor=-2.5, width=0, strength=1.0)


def split_with_a_faint_groove(folds: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Strips of three patches, one a fold: a groove of one column that is plain in the outer
    patches and faint in the middle one.
    """
    truth = np.zeros((3 * folds, 10, 10), bool)
    truth[:, :, 4] = True
    arrays, _ = split_of(list(truth), list(truth))
    arrays["group"], arrays["depth"] = np.repeat(np.arange(folds), 3), np.tile(np.arange(3), folds)
    arrays["fold"] = arrays["group"].astype(np.int8)
    probability = np.where(truth, 0.9, 0.05)
    probability[1::3] = np.where(truth[1::3], 0.4, 0.05)
    probability[1::3, ::3, 8] = 0.45  # brighter than the faint groove, but nothing lines up with it
    return arrays, probability


def test_a_groove_is_followed_through_a_faint_patch() -> None:
    train, probability = split_with_a_faint_groove(3)
    settings = Postprocess(random_walker=False, min_sizes=[0], track=[TRACK])
    chosen, earned, plainly = choose(train, probability, thresholds(3), settings)
    assert chosen.refinement.track == TRACK
    assert earned.tolist() == [1] * 9 and plainly.tolist() == [1, 0, 1] * 3
    np.testing.assert_array_equal(
        wells_refinement.apply(train, probability, chosen, settings), train["mask"]
    )


def test_a_groove_is_followed_on_strips_and_not_across_them() -> None:
    train, probability = split_with_a_faint_groove(2)
    whole = wells_refinement.followed(train, probability, TRACK)
    alone = train | {"group": np.arange(6), "depth": np.zeros(6, int)}
    assert (
        whole[1, :, 4].min()
        > 2 * wells_refinement.followed(alone, probability, TRACK)[1, :, 4].max()
    )
    order = np.random.default_rng(0).permutation(6)
    shuffled = {name: array[order] for name, array in train.items()}
    np.testing.assert_allclose(
        wells_refinement.followed(shuffled, probability[order], TRACK), whole[order], atol=1e-6
    )


def split_of_two_kinds(folds: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two wells a fold; in the second half of them, the interleaved ones, only the surer half of
    what is marked is corroded.
    """
    truth = np.zeros((2 * folds, 10, 10), bool)
    truth[:, :, 2:4] = True
    arrays, _ = split_of([draw()] * 2 * folds, list(truth))
    arrays["fold"] = np.tile(np.arange(folds, dtype=np.int8), 2)
    arrays["mask"][folds:, :, 3] = 0
    arrays["phase"][folds:] = 1
    probability = np.full((2 * folds, 10, 10), 0.05)
    probability[:, :, 2], probability[:, :, 3] = 0.8, 0.4
    return arrays, probability


def test_wells_of_each_kind_of_scan_get_thresholds_of_their_own_on_request() -> None:
    train, probability = split_of_two_kinds()
    for by_scan, scores in ((True, [1] * 6), (False, [1, 1, 1, 0.5, 0.5, 0.5])):
        settings = Postprocess(random_walker=False, min_sizes=[0], by_scan=by_scan)
        chosen, earned, _ = choose(train, probability, thresholds(3, 0.2), settings)
        assert earned.tolist() == scores
        masks = wells_refinement.apply(train, probability, chosen, settings)
        assert metrics.patch_iou(masks, train["mask"]).tolist() == scores
    assert chosen.for_interleaved is None


def test_a_kind_of_scan_in_a_single_fold_cannot_choose_by_itself() -> None:
    train, probability = split_of_two_kinds()
    train["fold"] = np.array([0, 1, 2, 2, 2, 2], np.int8)
    settings = Postprocess(random_walker=False, min_sizes=[0], by_scan=True)
    chosen, earned, _ = choose(train, probability, thresholds(3, 0.2), settings)
    assert chosen.for_interleaved is None and earned.tolist() == [1, 1, 1, 0.5, 0.5, 0.5]


def test_the_held_out_truth_has_no_say_in_its_own_threshold_by_scan() -> None:
    train, probability = split_of_two_kinds(4)
    settings = Postprocess(random_walker=False, min_sizes=[0], by_scan=True)
    # fold 0 of the interleaved wells wants what the contiguous ones want
    train["mask"][4, :, 3] = 1
    _, earned, _ = choose(train, probability, thresholds(4, 0.2), settings)
    # and does not get it: the other three decide
    assert earned.tolist() == [1, 1, 1, 1, 0.5, 1, 1, 1]


@pytest.mark.parametrize("walk_on", ["strips", "patches"])
def test_masks_of_a_strip_are_those_of_the_whole_split_at_once(walk_on: str) -> None:
    """Missing patches, wells of both kinds of scan, patches without a place and one without a
    valid pixel.
    """
    rng = np.random.default_rng(0)
    group, depth = np.array([1, 1, 1, 2, 2, 2, 2, 3]), np.array([0, 1, 4, 0, 0, 1, 1, -1])
    phase = np.array([0, 0, 0, 0, 1, 0, 1, 0])
    valid = np.ones((8, 6, 6), bool)
    valid[1] = False
    arrays = {
        "image": rng.normal(size=(8, 6, 6)).astype(np.float32),
        "valid": valid,
        "group": group,
        "depth": depth,
        "phase": phase,
    }
    probability = rng.random((8, 6, 6)).astype(np.float16)
    settings = Postprocess(walk_on=walk_on, seed_above=0.6, seed_below=0.3)
    wanted = [
        wells_refinement.Refinement(0.5, None, 3),
        wells_refinement.Refinement(0.5, 1.0, 0),
        wells_refinement.Refinement(0.4, None, 0, TRACK),
    ]
    masks = wells_refinement.refine(arrays, probability, wanted, settings)
    assert not any(mask[1].any() for mask in masks.values())
    p = probability.astype(np.float64) * valid.any((1, 2))[:, None, None]
    for strip in strips(group, depth, phase):
        rows, stacked = strip.index[strip.index >= 0], strip.stack(p)
        small = wells_refinement.remove_small(stacked > 0.5, 3).reshape(-1, 6, 6)[strip.index >= 0]
        np.testing.assert_array_equal(masks[wanted[0]][rows], small * valid[rows])
        if walk_on == "strips":
            walked = wells_refinement.random_walker(
                strip.stack(arrays["image"]), stacked, 1.0, 0.6, 0.3
            ).reshape(-1, 6, 6)[strip.index >= 0]
        else:
            walked = np.array(
                [
                    wells_refinement.random_walker_on_patch(
                        arrays["image"][row], p[row], 1.0, 0.6, 0.3
                    )
                    for row in rows
                ]
            )
        np.testing.assert_array_equal(masks[wanted[1]][rows], (walked > 0.5) * valid[rows])
    cut = wells_refinement.followed(arrays, probability, TRACK) > 0.4
    np.testing.assert_array_equal(masks[wanted[2]], cut * valid)
