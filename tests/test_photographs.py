"""Photographs: how they are grouped, drawn, augmented, and turned into masks."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import rotate

from src.competitions import PhotoSplit, Raw
from src.competitions.metrics import MEAN_DICE, Metric
from src.photographs import batches, decoding, duplicates, prediction, preparation, selection
from src.photographs.augmentation import Views, draw_views
from src.photographs.batches import Crops, Sample
from src.photographs.selection import Counted
from src.recipe import Photograph
from src.scoring.selection import Choice
from src.terminal.errors import UserError
from tests.oracles import dice


def views(count: int, **own: list[float]) -> Views:
    """Views that leave everything as it is, but for what is given."""
    still = {
        "flip_rows": [0],
        "flip_columns": [0],
        "angle": [0],
        "shift_rows": [0],
        "shift_columns": [0],
        "brightness": [1],
        "contrast": [1],
        "scale": [1],
    }
    return Views(
        **{
            name: torch.tensor(own.get(name, value * count), dtype=torch.float32)
            for name, value in still.items()
        }
    )


class Shelf:
    """A dataset in memory."""

    def __init__(self, images: list[np.ndarray], masks: list[np.ndarray]) -> None:
        self.images, self.masks, self.white = images, masks, 255.0
        self.size = np.array([image.shape[:2] for image in images])
        self.shows = np.array([mask.any((1, 2)) for mask in masks])

    def image(self, row: int) -> np.ndarray:
        return self.images[row]

    def mask(self, row: int) -> np.ndarray:
        return self.masks[row]


def shelf(shows: list[list[int]], size: tuple[int, int] = (20, 60)) -> Shelf:
    """Photographs with a pixel of each class that they show, at a random place."""
    rng, masks = np.random.default_rng(0), []
    for own in shows:
        masks.append(np.zeros((3, *size), np.uint8))
        for k in own:
            masks[-1][k, rng.integers(size[0]), rng.integers(size[1])] = 1
    return Shelf([rng.integers(60, 255, (*size, 1)).astype(np.uint8) for _ in shows], masks)


def test_an_enlarged_photograph_shows_its_middle_and_a_shrunken_one_has_no_weight_around():
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    mask, weight = (image % 3 == 0).float(), torch.ones(1, 1, 8, 8)
    _, twice, whole = views(1, scale=[2.0]).apply(image, mask, weight)
    assert torch.equal(
        twice[0, 0], mask[0, 0, 2:6, 2:6].repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    assert whole.all()
    half, _, seen = views(1, scale=[0.5]).apply(image, mask, weight)
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(seen[0, 0], expected)
    # each pixel lies in the middle of four, between which it interpolates
    means = image[0, 0].reshape(4, 2, 4, 2).mean((1, 3))
    torch.testing.assert_close(half[0, 0, 2:6, 2:6], means)


def test_scales_are_drawn_last_and_only_where_they_are_asked_for():
    def drawn(**settings: float) -> tuple[Views, int]:
        generator = torch.Generator().manual_seed(0)
        own = draw_views(Photograph(rotate=10.0, contrast=0.3, **settings), [None] * 500, generator)
        return own, int(torch.randint(1 << 30, (1,), generator=generator))

    (plain, after), (scaled, later) = drawn(), drawn(scale=0.5)
    assert after != later and (plain.scale == 1).all()
    assert torch.equal(plain.angle, scaled.angle) and torch.equal(plain.contrast, scaled.contrast)
    assert 0.5 <= scaled.scale.min() < 0.52 and 1.48 < scaled.scale.max() <= 1.5


def test_photographs_that_look_alike_share_a_group_and_others_do_not():
    rng = np.random.default_rng(0)
    scenes = [ndimage.gaussian_filter(rng.normal(0, 1, (64, 256)), 6) for _ in range(6)]
    again = [3 * scenes[4] + 1, scenes[1] + rng.normal(0, 0.005, (64, 256))]  # brighter; noisier
    thumbnails = np.array(
        [
            duplicates.thumbnail((400 + 500 * scene)[:, :, None].astype(np.float32))
            for scene in scenes + again
        ]
    )
    assert duplicates.groups(thumbnails).tolist() == [0, 1, 2, 3, 4, 5, 4, 1]


def test_links_of_likeness_are_followed_and_blocks_do_not_matter(monkeypatch):
    angle = np.linspace(0, 1, 12)  # each is like its neighbours, the first is not like the last
    thumbnails = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    assert thumbnails[0] @ thumbnails[-1] < duplicates.ALIKE < thumbnails[0] @ thumbnails[1]
    whole = duplicates.groups(np.concatenate([thumbnails, -thumbnails]))
    monkeypatch.setattr(duplicates, "BLOCK", 5)
    blocks = duplicates.groups(np.concatenate([thumbnails, -thumbnails]))
    assert whole.tolist() == blocks.tolist() == [0] * 12 + [1] * 12


def test_photographs_scaled_as_a_whole_are_read_once_and_come_the_same_again():
    dataset, read = shelf([[0], [1], []]), []
    image = dataset.image
    dataset.image = lambda row: read.append(row) or image(row)
    whole = [Sample(row, 0, None) for row in (2, 0, 2, 1)]
    kept = Crops(dataset, whole, (10, 30), {})
    first, second = ([kept[number] for number in range(4)] for _ in range(2))
    assert read == [2, 0, 1]
    for number, anew in enumerate(Crops(dataset, whole, (10, 30))):
        for one, other, tensor in zip(first[number], second[number], anew, strict=True):
            assert torch.equal(one, tensor) and torch.equal(other, tensor)
        if number == 3:
            break
    crops = Crops(dataset, [Sample(0, seed, (8, 8)) for seed in (1, 2)], (10, 30), {})
    assert not torch.equal(crops[0][0], crops[1][0])


def test_a_balanced_epoch_holds_every_kind_equally_often_in_every_batch():
    dataset = shelf([[0]] * 10 + [[1]] + [[0, 2]] * 2 + [[]] * 17)
    rows = np.arange(30)
    drawn = batches.plan(
        dataset, rows, Photograph(crops=[[8, 8]], balanced=True), 0, np.random.default_rng(1)
    )
    assert len(drawn) == 30
    for first in range(0, 28, 4):
        batch = drawn[first : first + 4]
        assert sorted((sample.wanted is None, sample.wanted) for sample in batch) == [
            (False, 0),
            (False, 1),
            (False, 2),
            (True, None),
        ]
    for sample in drawn:
        assert (
            not dataset.shows[sample.row].any()
            if sample.wanted is None
            else dataset.shows[sample.row, sample.wanted]
        )


def test_a_plain_epoch_holds_every_photograph_once_and_sizes_alternate():
    dataset, settings = shelf([[0]] * 9), Photograph(crops=[[8, 8], [8, 16]])
    for epoch, size in enumerate([(8, 8), (8, 16), (8, 8)]):
        drawn = batches.plan(
            dataset, np.arange(1, 9), settings, epoch, np.random.default_rng(epoch)
        )
        assert sorted(sample.row for sample in drawn) == list(range(1, 9))
        assert {sample.size for sample in drawn} == {size}


def test_a_crop_shows_the_wanted_class_wherever_its_pixel_lies():
    dataset = shelf([[1]] * 40)
    for row in range(40):
        for size in ((8, 12), (20, 60), (30, 12)):  # the last is taller than the photograph
            image, mask, weight = Crops(dataset, [Sample(row, row, size, 1)], None)[0]
            assert image.shape[1:] == mask.shape[1:] == weight.shape[1:] == size
            assert mask[1].sum() == 1 and weight.sum() == min(size[0], 20) * size[1]


def test_wanted_crops_are_not_always_centred_and_reach_the_edges():
    mask = np.zeros((1, 20, 60), np.uint8)
    mask[0, 10, 30] = 1
    lefts = {
        batches.place(np.ones((20, 60, 1)), mask, Sample(0, seed, (20, 10), 0), 0)[1]
        for seed in range(200)
    }
    assert lefts == set(range(21, 31))
    mask[0, 10, 30], mask[0, 10, 59] = 0, 1
    assert {
        batches.place(np.ones((20, 60, 1)), mask, Sample(0, seed, (20, 10), 0), 0)[1]
        for seed in range(50)
    } == {50}


def test_dark_crops_are_avoided():
    image = np.full((20, 100, 1), 200, np.uint8)
    image[:, 50:] = 3
    lefts = [
        batches.place(image, np.zeros((1, 20, 100)), Sample(0, seed, (20, 10)), 16)[1]
        for seed in range(100)
    ]
    assert max(lefts) < 50 and len(set(lefts)) > 20
    # nothing but dark: still a crop
    assert batches.place(np.zeros((20, 100, 1)), np.zeros((1, 20, 100)), Sample(0, 0, (20, 10)), 16)


def test_weighted_augmentation_happens_as_often_as_one_minus_the_share_of_the_rarest_class():
    """Of 100 defects 80 are of class 0, 20 of class 1: augmented with probability .2 and .8;
    kinds in proportion 1 : 3.
    """
    shows = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], [70, 10, 10, 50], axis=0).astype(bool)
    many = [
        batches.weighted_kinds(shows, {"crop": 1.0, "rotation": 3.0}, np.random.default_rng(seed))
        for seed in range(300)
    ]
    kinds = np.array([[kind or "" for kind in some] for some in many])
    share = [
        (kinds[:, own] != "").mean()
        for own in (slice(0, 70), slice(70, 80), slice(80, 90), slice(90, None))
    ]
    np.testing.assert_allclose(share, [0.2, 0.8, 0.8, 0], atol=0.03)
    assert (kinds == "rotation").sum() / (kinds != "").sum() == pytest.approx(0.75, abs=0.02)


def test_flips_are_numpys_flips_of_image_mask_and_weight():
    rng = np.random.default_rng(0)
    tensors = tuple(
        torch.from_numpy(rng.random((4, c, 7, 11)).astype(np.float32)) for c in (1, 2, 1)
    )
    moved = views(4, flip_rows=[0, 1, 0, 1], flip_columns=[0, 0, 1, 1]).apply(*tensors)
    for before, after in zip(tensors, moved, strict=True):
        for number, axes in enumerate([(), (1,), (2,), (1, 2)]):
            np.testing.assert_allclose(
                after[number], np.flip(before[number].numpy(), axes), atol=1e-5
            )


@pytest.mark.parametrize("angle", [90, 30, -17])
def test_a_rotation_is_scikit_images_rotation_also_where_the_photograph_is_wide(angle):
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 90)), 3).astype(np.float32)
    x = torch.from_numpy(image)[None, None]
    moved, _, weight = views(1, angle=[math.radians(angle)]).apply(
        x, torch.zeros_like(x), torch.ones_like(x)
    )
    wanted = rotate(image, angle, order=1, cval=np.nan)
    known = ndimage.binary_erosion(np.isfinite(wanted), iterations=2) & (weight[0, 0].numpy() > 0)
    assert known.mean() > 0.25
    np.testing.assert_allclose(moved[0, 0].numpy()[known], wanted[known], atol=2e-3)
    assert weight.mean() < 0.95  # what came from beyond the edge does not count


def test_a_shift_by_whole_pixels_moves_image_and_mask_together():
    x = torch.arange(40.0).reshape(1, 1, 4, 10)
    image, mask, weight = views(1, shift_columns=[2 * 3 / 10]).apply(
        x, (x % 3 == 0).float(), torch.ones_like(x)
    )
    np.testing.assert_allclose(image[0, 0, :, :7], x[0, 0, :, 3:], atol=1e-4)
    assert torch.equal(mask[0, 0, :, :7], (x[0, 0, :, 3:] % 3 == 0).float())
    assert weight[0, 0].tolist() == [[1.0] * 7 + [0.0] * 3] * 4


def test_brightness_and_contrast_are_factors_on_the_value_and_on_the_distance_from_the_mean():
    x = torch.tensor([[[[0.2, 0.4], [0.6, 0.8]]]])
    bright, _, _ = views(1, brightness=[1.1], contrast=[0.5]).apply(x, x, torch.ones_like(x))
    np.testing.assert_allclose(
        bright[0, 0], 1.1 * np.array([[0.35, 0.45], [0.55, 0.65]]), rtol=1e-6
    )


def test_photographs_of_several_sizes_make_a_batch_with_weight_on_their_own_pixels():
    items = [
        (torch.ones(1, h, w), torch.ones(2, h, w), torch.ones(1, h, w)) for h, w in ((3, 5), (4, 2))
    ]
    image, mask, weight = batches.collate(items)
    assert image.shape == (2, 1, 4, 5) and mask.shape == (2, 2, 4, 5)
    assert weight.sum((1, 2, 3)).tolist() == [15, 8] and torch.equal(image, weight)


def random_photograph(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    truth = (ndimage.gaussian_filter(rng.normal(0, 1, (2, 24, 40)), (0, 2, 2)) > 0.15).astype(
        np.uint8
    )
    truth[1] *= rng.random() < 0.5
    return np.clip(
        0.6 * truth + ndimage.gaussian_filter(rng.normal(0.2, 1, truth.shape), (0, 1, 1)), 0, 1
    ).astype(np.float32), truth


def test_overlaps_are_the_pixels_of_the_masks_that_would_be_made():
    rng = np.random.default_rng(0)
    for _ in range(5):
        probability, truth = random_photograph(rng)
        shared, predicted = decoding.overlaps(probability, truth, [0, 5, 40])
        for t, threshold in enumerate(decoding.THRESHOLDS):
            for s, size in enumerate([0, 5, 40]):
                mask = decoding.mask_of(probability, [threshold] * 2, [size] * 2)
                assert predicted[t, s].tolist() == mask.sum((1, 2)).tolist()
                assert shared[t, s].tolist() == (mask & truth).sum((1, 2)).tolist()


def test_overlaps_of_a_photograph_that_shows_little_at_its_border_or_nothing():
    probability, truth = np.zeros((3, 9, 20), np.float32), np.zeros((3, 9, 20), np.uint8)
    probability[0, -2:, -3:], probability[0, -1, -1], probability[0, 0, 0] = 0.5, 0.9, 0.15
    truth[0, -1], truth[1, 4, 4] = 1, 1
    told = decoding.overlaps(probability, truth, [0, 2])
    at = {
        round(float(threshold), 2): told[:, number, :, 0].T.tolist()
        for number, threshold in enumerate(decoding.THRESHOLDS)
    }  # pixels shared and predicted, with all components and without those of one pixel
    assert at[0.05] == at[0.1] == [[3, 7], [3, 6]]
    assert at[0.2] == at[0.4] == [[3, 6], [3, 6]]
    assert at[0.5] == [[1, 1], [0, 0]] and at[0.9] == at[1.0] == [[0, 0], [0, 0]]
    assert not told[..., 1:].any()


def test_masks_lose_exactly_the_components_that_are_too_small():
    probability = np.zeros((1, 6, 12), np.float32)
    probability[0, 0, 0] = probability[0, 1, 1] = 0.9  # two pixels that touch at a corner
    probability[0, 3:5, 5:8] = 0.9
    assert decoding.mask_of(probability, [0.5], [2])[0].sum() == 8
    assert decoding.mask_of(probability, [0.5], [3])[0].sum() == 6
    assert decoding.mask_of(probability, [0.5], [7])[0].sum() == 0
    assert decoding.mask_of(probability, [0.95], [0])[0].sum() == 0


SMALLEST = [0, 5, 40]
# five times as much for a pixel that is missed as for a false alarm, from the three counts
F2 = Metric(
    "F2, 1 where both are empty",
    lambda shared, predicted, true: np.where(
        predicted + true > 0, 5 * shared / np.maximum(4 * true + predicted, 1), 1.0
    ),
)


def f2(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F2 (K,) by its definition from hits, misses and false alarms."""
    scores = []
    for own, true in zip(mask > 0, truth > 0, strict=True):
        hits, misses, alarms = (own & true).sum(), (~own & true).sum(), (own & ~true).sum()
        whole = 5 * hits + 4 * misses + alarms
        scores.append(5 * hits / whole if whole else 1.0)
    return np.array(scores)


def seen(photographs: int, folds: int, seed: int, classified: bool = True):
    """Small photographs' probabilities and truth, and what is counted of them; the classifier is
    right more often than not.
    """
    rng = np.random.default_rng(seed)
    pairs = [random_photograph(rng) for _ in range(photographs)]
    for number, (probability, truth) in enumerate(pairs):
        truth[:] *= number % 3 > 0  # every third is clean, whatever the network says
        probability[:] = (probability * decoding.STEPS).round() / decoding.STEPS  # as stored
    true = np.array([truth.sum((1, 2), dtype=np.int64) for _, truth in pairs])
    pixels = np.stack([decoding.overlaps(*pair, SMALLEST) for pair in pairs], 3)
    likely = 0.35 * true.any(1) + 0.65 * rng.random(photographs)
    verdict = (30 + likely.argsort().argsort()) / 100  # each is a level of the next one's rejection
    place = rng.permutation(photographs) % folds
    counted = Counted(pixels, true, np.arange(folds), place, verdict if classified else None)
    return pairs, counted


def brute_force(pairs, verdict, rows, score) -> float:
    """The best sum of scores of some photographs over every level of the classifier and, for each
    class, every threshold and size, of masks that are made one by one.
    """
    kept, empty = {}, {row: score(np.zeros_like(pairs[row][1]), pairs[row][1]) for row in rows}
    for t in decoding.THRESHOLDS:
        for size in SMALLEST:
            for row in rows:
                probability, truth = pairs[row]
                mask = decoding.mask_of(probability, [t] * 2, [size] * 2)
                kept[t, size, row] = score(mask, truth)
    best = 0.0
    for level in selection.REJECTING if verdict is not None else [0.0]:
        total = 0.0
        for k in range(2):
            total += max(
                sum(
                    empty[row][k]
                    if verdict is not None and verdict[row] < level
                    else kept[t, size, row][k]
                    for row in rows
                )
                for t in decoding.THRESHOLDS
                for size in SMALLEST
            )
        best = max(best, total)
    return best


def score_under(choice: Choice, pairs, verdict, rows, score) -> np.ndarray:
    """(n, K) of photographs whose masks are made as a choice says."""
    decisions = selection.Decisions.of(choice, SMALLEST)
    scores = []
    for row in rows:
        mask = decisions.mask(pairs[row][0])
        if verdict is not None and verdict[row] < decisions.classifier:
            mask[:] = 0
        scores.append(score(mask, pairs[row][1]))
    return np.array(scores)


@pytest.mark.parametrize("classified", [True, False])
@pytest.mark.parametrize(("metric", "score"), [(MEAN_DICE, dice), (F2, f2)])
def test_nested_selection_is_what_brute_force_finds(metric, score, classified):
    """Over every threshold, size and level of the classifier, on the other folds and, at the end,
    on all; by any metric of three counts.
    """
    pairs, counted = seen(14, 3, seed=3, classified=classified)
    nested, everyone = counted.select(metric), np.arange(14)
    best = brute_force(pairs, counted.verdict, everyone, score)
    assert score_under(nested.final, pairs, counted.verdict, everyone, score).sum() == (
        pytest.approx(best)
    )
    pixels, rejected = counted.under(nested)
    for fold, choice in enumerate(nested.without):
        others, own = np.flatnonzero(counted.place != fold), np.flatnonzero(counted.place == fold)
        reached = score_under(choice, pairs, counted.verdict, others, score).sum()
        assert reached == pytest.approx(brute_force(pairs, counted.verdict, others, score))
        np.testing.assert_allclose(
            metric.of(*pixels[:, own]), score_under(choice, pairs, counted.verdict, own, score)
        )
        if classified:
            closed = counted.verdict[own] < selection.REJECTING[choice.setting]
            assert rejected[own].tolist() == closed.tolist()
    assert rejected.any() == classified and not pixels[:2, rejected].any()


def test_the_metric_decides_what_is_selected():
    """F2 forgives false alarms: it takes lower thresholds than Dice."""
    _, counted = seen(20, 2, seed=6, classified=False)
    dice_picks, f2_picks = (
        selection.Decisions.of(counted.select(metric).final, SMALLEST).threshold
        for metric in (MEAN_DICE, F2)
    )
    assert sum(f2_picks) < sum(dice_picks)


def test_a_fold_has_no_say_in_what_it_is_scored_by():
    _, counted = seen(16, 4, seed=4)
    other = copy.deepcopy(counted)
    own = counted.place == 2
    other.pixels[:, :, :, own] = 0
    other.true[own], other.verdict[own] = 7, 0.99
    before, after = (some.select(MEAN_DICE) for some in (counted, other))
    assert before.without[2] == after.without[2]
    assert before.without != after.without


@pytest.mark.parametrize("way", selection.WAYS)
def test_a_single_fold_is_scored_plainly_because_there_is_none_to_select_on(way):
    pairs, counted = seen(9, 1, seed=5)
    some = counted.way(way)
    pixels, rejected = some.under(some.select(MEAN_DICE))
    plainly = [dice(probability > 0.5, truth) for probability, truth in pairs]
    np.testing.assert_allclose(MEAN_DICE.of(*pixels), plainly)
    assert not rejected.any()


def test_at_one_half_the_classifier_alone_is_selected():
    pairs, counted = seen(14, 3, seed=3)
    some = counted.way("half")
    nested = some.select(MEAN_DICE)
    pixels, rejected = some.under(nested)
    for fold, choice in enumerate(nested.without):

        def total(level: float, fold: int = fold) -> float:
            return sum(
                dice((probability > 0.5) * (verdict >= level), truth).sum()
                for (probability, truth), verdict, place in zip(
                    pairs, counted.verdict, counted.place, strict=True
                )
                if place != fold
            )

        level = selection.REJECTING[choice.setting]
        assert total(level) == pytest.approx(max(map(total, selection.REJECTING)))
        for row in np.flatnonzero(counted.place == fold):
            made = (pairs[row][0] > 0.5) * (counted.verdict[row] >= level)
            np.testing.assert_allclose(MEAN_DICE.of(*pixels[:, row]), dice(made, pairs[row][1]))
    assert rejected.any() and not counted.way("half_unrejected").select(MEAN_DICE).final.setting


@pytest.mark.parametrize("size", [(9, 64), (40, 40), (41, 97), (63, 33)])
def test_a_large_photograph_is_predicted_in_tiles_as_if_it_were_predicted_whole(size, monkeypatch):
    """Two 3x3 convolutions see two pixels around; tiles overlap by more."""
    monkeypatch.setattr(prediction, "TILE", 32)
    monkeypatch.setattr(prediction, "MARGIN", 4)
    monkeypatch.setattr(prediction, "WHOLE", 100)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3, padding=1)
    )
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    x = torch.randn(2, 1, *size)
    with torch.inference_mode():
        torch.testing.assert_close(prediction.in_tiles(network, x), network(x))
    assert len(seen) > 2 and max(max(shape) for shape in seen[:-1]) <= 32


# The prepared file


def photographs_of(sizes: list[tuple[int, int]], classes: int) -> Raw:
    names = np.array([f"{number}.png" for number in range(len(sizes))], object)
    split = PhotoSplit(names, np.array(sizes, np.int32), lambda index: None, lambda index: None)
    return Raw(split, split, [], [str(k) for k in range(classes)], 3, np.uint16)


def test_room_that_memory_cannot_hold_is_refused_with_who_asks_for_it() -> None:
    # 6 bytes a pixel, of the image and of the masks
    fits = photographs_of([(4096, 9), (9, 10_922)], 6)
    preparation._check_place(fits.train, fits, Path("raw"))
    for raw in (
        photographs_of([(4096, 9), (9, 10_923)], 6),
        photographs_of([(4096, 9), (9, 10_922)], 7),
    ):
        with pytest.raises(
            UserError,
            match=r"raw: with the height of 0\.png \(4096\) and the width of 1\.png .* "
            r"cut photographs into pieces",
        ):
            preparation._check_place(raw.train, raw, Path("raw"))


def test_moments_taken_in_blocks_are_those_of_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3), np.uint8)
    monkeypatch.setattr(preparation, "BLOCK", 300)
    np.testing.assert_allclose(
        preparation._moments(pixels, 255.0),
        [(pixels / 255).mean(0), ((pixels / 255) ** 2).mean(0)],
        rtol=1e-6,
    )
