"""Training and prediction of one task: what must hold whatever the score."""

import csv

import numpy as np
import pytest
import torch

from src import networks, recipe
from src.artifacts import hdf5
from src.networks.devices import choose_device
from src.networks.scaling import Scaling
from src.recipe import Augment
from src.terminal.errors import UserError
from src.training import checkpoints, loop
from src.training import task as training
from src.wells import augmentation, batches, blocks, geometry, prediction
from src.wells.augmentation import Cuts, Symmetries
from src.wells.batches import WellTrainingSet
from src.wells.windows import Windows, averaged
from tests.tiny import (
    CPU,
    TASK,
    content,
    digest,
    fit,
    held_out,
    history,
    loaded,
    losses,
    only,
    prepare_fit,
    run_of,
    tiny,
    wells,
)

EVERYTHING = {"lean": 0.1, "gain": 0.3, "texture": 0.8, "cutmix": 0.5}
WITH_EVERYTHING = {"augment": EVERYTHING, "ema": 0.7}
WITH_AVERAGES = {
    "augment": EVERYTHING | {"drop_averages": 0.5},
    "network": {"name": "ring_unet", "channels": [4, 8], "inputs": 3},
    "depth_averages": [37, 109],
}


def test_symmetries_are_flips_then_an_exact_roll():
    x = torch.arange(3 * 4 * 6.0).reshape(3, 1, 4, 6)
    drawn = Symmetries(
        torch.tensor([0, 1, 1]),
        torch.tensor([1, 0, 1]),
        torch.tensor([2, 0, 5]),
        torch.tensor([0, 0, 0]),
        torch.zeros(3),
    )
    expected = np.stack(
        [
            np.roll(x[0, 0].numpy()[:, ::-1], 2, 1),
            x[1, 0].numpy()[::-1],
            np.roll(x[2, 0].numpy()[::-1, ::-1], 5, 1),
        ]
    )
    np.testing.assert_array_equal(drawn.apply(x)[:, 0].numpy(), expected)


def test_a_window_that_leans_is_rolled_row_by_row():
    x = torch.arange(2 * 5 * 6.0).reshape(2, 1, 5, 6)
    none = torch.zeros(2, dtype=torch.int64)
    leaning = (
        Symmetries(
            none, torch.tensor([0, 1]), torch.tensor([1, 0]), none, torch.tensor([0.6, -1.0])
        )
        .apply(x)[:, 0]
        .numpy()
    )
    # .6 columns a row, rounded
    first = [
        np.roll(x[0, 0, row].numpy(), 1 + shift) for row, shift in enumerate((-1, -1, 0, 1, 1))
    ]
    second = [
        np.roll(x[1, 0, row].numpy()[::-1], shift) for row, shift in enumerate((2, 1, 0, -1, -2))
    ]
    np.testing.assert_array_equal(leaning, [first, second])


def test_half_of_the_windows_lean_by_the_deviation_asked_for():
    lean = augmentation.draw(Augment(lean=0.1), 4000, 36, 36, torch.Generator().manual_seed(0)).lean
    assert 0.45 < (lean != 0).float().mean() < 0.55
    assert lean[lean != 0].std() == pytest.approx(0.1, rel=0.1)


def two_wells_of_windows(height: int = 36) -> Windows:
    """A well with grooves, and below it on the canvas one without, but for a pixel at its top
    that does not count.
    """
    train = wells(4, 2)
    train["mask"][4:] = 0
    weight = np.ones(train["image"].shape, bool)
    weight[4, 0, 0] = False
    return Windows.of(train, height, CPU, weight)


def test_defect_free_windows_are_those_where_every_pixel_counts_and_none_is_corroded():
    windows = two_wells_of_windows()
    by_hand = [
        row
        for row in range(len(windows.image) - windows.height + 1)
        if (windows.weight[row : row + 36] > 0).all() and not windows.mask[row : row + 36].any()
    ]
    assert windows.defect_free.tolist() == by_hand and len(by_hand) == 4 * 36 - 1 - 36 + 1


def test_texture_is_laid_over_at_its_strength_and_the_spread_stays():
    windows, none = two_wells_of_windows(), torch.zeros(2, dtype=torch.int64)
    start = int(windows.defect_free[5])
    flat = Symmetries(none, none, torch.tensor([3, 0]), none, torch.zeros(2))
    drawn = augmentation.Intensities(
        torch.tensor([2.0, 1.0]), torch.tensor([0.75, 0.0]), torch.tensor([start, start]), flat
    )
    x = torch.randn(2, 1, 36, 36)
    got, texture = drawn.apply(x, windows), windows.image[start : start + 36].roll(3, 1)
    torch.testing.assert_close(got[0, 0], 2 * (x[0, 0] + 0.75 * texture) / 1.25)
    torch.testing.assert_close(got[1], x[1])


def test_intensities_are_drawn_as_asked_for_and_texture_only_from_defect_free_pipe():
    windows, generator = two_wells_of_windows(), torch.Generator().manual_seed(0)
    drawn = augmentation.draw_intensities(
        Augment(gain=0.3, texture=0.8), 4000, windows, windows.defect_free, generator
    )
    assert drawn.gain.log().std() == pytest.approx(0.3, rel=0.1)
    assert 0.45 < (drawn.strength > 0).float().mean() < 0.55 and 0.75 < drawn.strength.max() <= 0.8
    assert set(drawn.source.tolist()) == set(windows.defect_free.tolist())
    nowhere = torch.empty(0, dtype=torch.int64)
    assert not augmentation.draw_intensities(
        Augment(gain=0.3), 50, windows, nowhere, generator
    ).strength.any()
    with pytest.raises(UserError, match="no 36 rows free of corrosion"):
        augmentation.draw_intensities(Augment(texture=0.8), 50, windows, nowhere, generator)


def test_averages_are_dropped_whole_as_often_as_asked_for():
    x = torch.randn(3000, 3, 2, 2)
    got = augmentation.drop_averages(x, 0.3, torch.Generator().manual_seed(0))
    dropped = (got[:, 1:] == 0).all((1, 2, 3))
    assert torch.equal(got[:, 0], x[:, 0]) and torch.equal(got[~dropped], x[~dropped])
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_symmetries_turn_all_channels_alike_and_intensities_scale_them_alike():
    windows, generator = two_wells_of_windows(), torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 36, 36).repeat(1, 3, 1, 1)
    turned = augmentation.draw(Augment(lean=0.1), 8, 36, 36, generator).apply(x)
    assert (
        torch.equal(turned[:, 1], turned[:, 0])
        and torch.equal(turned[:, 2], turned[:, 0])
        and not torch.equal(turned, x)
    )
    drawn = augmentation.draw_intensities(
        Augment(gain=0.3, texture=1.0), 8, windows, windows.defect_free, generator
    )
    torch.testing.assert_close(drawn.apply(x, windows)[:, :1], drawn.apply(x[:, :1], windows))
    factor = drawn.gain / (1 + drawn.strength**2).sqrt()
    torch.testing.assert_close(
        drawn.apply(x, windows)[:, 1:], x[:, 1:] * factor[:, None, None, None]
    )


def test_symmetries_are_drawn_only_where_asked_for():
    generator = torch.Generator().manual_seed(0)
    off = augmentation.draw(
        Augment(flip_azimuth=False, flip_depth=False, roll=False), 50, 36, 36, generator
    )
    assert not off.flip_depth.any() and not off.flip_azimuth.any() and not off.roll.any()
    on = augmentation.draw(Augment(), 500, 36, 36, generator)
    assert set(on.flip_depth.tolist()) == set(on.flip_azimuth.tolist()) == {0, 1}
    assert set(on.roll.tolist()) == set(range(36))


def test_materialised_augmentations_are_the_papers_transforms_in_order():
    names = ["none", "flip_azimuth", "flip_depth", "both_flips", "roll"]
    x = torch.arange(2 * 4 * 6.0).reshape(2, 1, 4, 6)
    drawn = augmentation.materialised(names, 2, 4, 6, torch.Generator().manual_seed(2))
    got = drawn.apply(x.repeat(5, 1, 1, 1)).reshape(5, 2, 1, 4, 6)
    for copy, flip in zip(got, ([], [3], [2], [2, 3]), strict=False):
        assert torch.equal(copy, x.flip(flip))
    for patch, rolled in zip(x, got[4], strict=True):
        assert any(
            torch.equal(rolled, patch.roll((r, c), (1, 2))) for r in range(4) for c in range(6)
        )
    assert drawn.roll[8:].any() and drawn.roll_depth[8:].any()


def test_cutmix_by_hand():
    x = torch.arange(3 * 3 * 4).reshape(3, 1, 3, 4)
    cuts = Cuts(*map(torch.tensor, ([2, 0, 1], [1, 0, 0], [3, 1, 2], [2, 1, 0], [2, 3, 4])))
    got = cuts.apply(x)
    # rows 1 and 2, columns 3 and, around the ring, 0
    assert got[0, 0].tolist() == [[0, 1, 2, 3], [28, 5, 6, 31], [32, 9, 10, 35]]
    # as window 0 was before it was mixed
    assert got[1, 0].tolist() == [[12, 1, 2, 3], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert torch.equal(got[2], x[2])


def test_cutmix_equals_a_loop_over_windows_and_pixels():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, 8, 6, generator=generator)
    cuts = augmentation.draw_cuts(0.8, 9, 8, 6, generator)
    expected = x.clone()
    for window in range(9):
        for row in range(cuts.top[window], cuts.top[window] + cuts.height[window]):
            for column in range(cuts.left[window], cuts.left[window] + cuts.width[window]):
                expected[window, :, row, column % 6] = x[cuts.source[window], :, row, column % 6]
    assert torch.equal(cuts.apply(x), expected)
    assert not torch.equal(expected, x)


def test_cuts_are_drawn_as_cutmix_says():
    cuts = augmentation.draw_cuts(0.5, 20000, 360, 36, torch.Generator().manual_seed(0))
    assert not (cuts.source == torch.arange(20000)).any()
    offset = (cuts.source - torch.arange(20000)) % 20000
    assert (torch.histc(offset.float(), 10, 1, 19999) / 20000 - 0.1).abs().max() < 0.01
    assert (
        (cuts.top >= 0).all() and (cuts.height >= 0).all() and (cuts.top + cuts.height <= 360).all()
    )
    assert (cuts.width <= 36).all() and torch.histc(cuts.left.float(), 36, 0, 36).min() > 400
    assert (cuts.width > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    # The share before it is cut off is uniform: the widths' squares are, up to rounding, and rows
    # have the windows' proportions.
    share = (cuts.width[cuts.width > 0] / 36).square()
    assert [(share < bound).float().mean().item() for bound in (0.25, 0.5, 0.75)] == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.03
    )
    whole = (cuts.top > 0) & (cuts.top + cuts.height < 360) & (cuts.width > 0)
    assert whole.any() and ((cuts.height - 10 * cuts.width).abs()[whole] <= 6).all()


def test_cuts_are_drawn_only_where_asked_for_and_never_in_a_batch_of_one():
    x = torch.randn(1, 1, 36, 36)
    assert torch.equal(
        augmentation.draw_cuts(1.0, 1, 36, 36, torch.Generator().manual_seed(0)).apply(x), x
    )
    assert not augmentation.draw_cuts(
        0.0, 500, 36, 36, torch.Generator().manual_seed(0)
    ).height.any()
    some = augmentation.draw_cuts(1.0, 500, 36, 36, torch.Generator().manual_seed(0))
    assert (some.height > 0).float().mean() > 0.95


def test_cutmix_moves_image_mask_and_weight_together_and_mixes_wells(tmp_path, monkeypatch):
    """Each pixel of the image tells its well and what its mask and its weight are."""
    train = wells(4, 3)
    part = np.random.default_rng(0).integers(0, 4, train["image"].shape)
    train["image"] = (train["group"][:, None, None] + part / 4).astype(np.float32)
    train["mask"] = (part % 2).astype(np.uint8)
    windows, seen = Windows.of(train, 36, CPU, part > 1), []

    class Same(torch.nn.Conv2d):
        def forward(self, x):
            return x + 0 * self.weight

    def loss(logits, mask, weight):
        seen.append([tensor.detach().clone() for tensor in (logits, mask, weight)])
        return logits.sum()

    monkeypatch.setattr(loop, "of_phase", lambda phase, activation: loss)
    monkeypatch.setattr(WellTrainingSet, "network", lambda self: Same(1, 1, 1))
    for cutmix in (0.0, 0.7):
        chosen = tiny(augment={"cutmix": cutmix, "depth_shift": False}, batch_size=6)
        run, unscaled = run_of(tmp_path, chosen, train), Scaling(np.zeros(()), np.ones(()))
        fitting = loop.Fit(run, TASK, WellTrainingSet(run, TASK, windows, unscaled), CPU)
        seen.clear()
        fitting.begin(chosen.members[0].phases[0], resumed=False)
        fitting.epoch(0, lambda share, words: None)
        image, mask, weight = (torch.cat(tensors) for tensors in zip(*seen, strict=True))
        part = (image % 1 * 4).round()
        assert torch.equal(mask, part % 2) and torch.equal(weight, (part > 1).float())
        mixed = [len(window.floor().unique()) > 1 for window in image]
        assert len(mixed) == 12 and any(mixed) == (cutmix > 0)


def test_cutmix_changes_the_weights_and_without_it_nothing_is_drawn_for_it(tmp_path, monkeypatch):
    train = wells(4, 2)
    fit(tiny(), train, tmp_path / "default")
    fit(tiny(augment={"cutmix": 0.5}), train, tmp_path / "on")
    monkeypatch.delattr(augmentation, "draw_cuts")
    fit(tiny(augment={"cutmix": 0.0}), train, tmp_path / "off")
    assert digest(tmp_path / "off") == digest(tmp_path / "default") != digest(tmp_path / "on")


def test_intensities_change_the_weights_and_without_them_nothing_is_drawn_for_them(
    tmp_path, monkeypatch
):
    train = wells(4, 2)
    train["mask"][::2] = 0  # defect-free pipe to take texture from
    fit(tiny(), train, tmp_path / "default")
    for name in ("lean", "gain", "texture"):
        fit(tiny(augment={name: 0.5}), train, tmp_path / name)
    monkeypatch.delattr(augmentation, "draw_intensities")
    fit(tiny(augment={"lean": 0.0, "gain": 0.0, "texture": 0.0}), train, tmp_path / "off")
    assert digest(tmp_path / "off") == digest(tmp_path / "default")
    assert len({digest(tmp_path / name) for name in ("off", "lean", "gain", "texture")}) == 4


def test_candidates_change_the_weights_and_without_them_nothing_is_drawn_for_them(
    tmp_path, monkeypatch
):
    train = wells(4, 2)
    fit(tiny(), train, tmp_path / "default")
    fit(tiny(ema=0.9), train, tmp_path / "ema")
    with_averages = {key: WITH_AVERAGES[key] for key in ("network", "depth_averages")}
    fit(tiny(**with_averages), train, tmp_path / "averages")
    fit(tiny(**with_averages, augment={"drop_averages": 0.5}), train, tmp_path / "dropped")
    monkeypatch.delattr(augmentation, "drop_averages")
    fit(tiny(augment={"drop_averages": 0.0}, ema=0.0), train, tmp_path / "off")
    assert digest(tmp_path / "off") == digest(tmp_path / "default")
    assert len({digest(tmp_path / name) for name in ("off", "ema", "averages", "dropped")}) == 4
    # what is trained is not what is kept
    assert losses(tmp_path / "ema") == losses(tmp_path / "off")


def test_the_average_of_weights_by_hand(tmp_path, monkeypatch):
    """From the weights after every step of a training: the first as it is, then each step a
    quarter.
    """
    steps = []

    class Recording(torch.optim.AdamW):
        def step(self, *rest):
            super().step(*rest)
            steps.append(
                [
                    weights.detach().numpy().copy()
                    for group in self.param_groups
                    for weights in group["params"]
                ]
            )

    monkeypatch.setitem(loop.OPTIMISERS, "adamw", Recording)
    kept = fit(tiny(ema=0.75), wells(4, 2), tmp_path)
    average = steps[0]
    for after in steps[1:]:
        average = [0.75 * old + 0.25 * new for old, new in zip(average, after, strict=True)]
    names = [name for name, _ in networks.create(tiny().members[0].network).named_parameters()]
    assert len(steps) > 1 and len(names) == len(average)
    for name, wanted in zip(names, average, strict=True):
        np.testing.assert_allclose(kept[name], wanted, rtol=1e-4, atol=1e-6)
    assert not np.allclose(wanted, steps[-1][-1], rtol=1e-3)


def test_batch_statistics_are_averaged_like_weights():
    network, state = torch.nn.BatchNorm2d(1), {}
    average = loop._average_of(network, 0.75, state)
    for value in (4.0, 8.0, 0.0):
        network.running_mean.fill_(value)
        average.update_parameters(network)
    assert average.module.running_mean.item() == 3.75
    assert (
        loop._average_of(
            network, 0.75, {"average": average.state_dict()}
        ).module.running_mean.item()
        == 3.75
    )
    assert loop._average_of(network, 0.0, state) is None


def test_the_epoch_is_picked_by_the_average_of_weights(tmp_path):
    phase, train = [{"epochs": 3, "learning_rate": 0.1, "schedule": "constant"}], wells(6, 2)
    chosen = tiny(selection="best_on_held_out", ema=0.9, phase=phase)
    fit(chosen, train, tmp_path / "with")
    fit(tiny(selection="best_on_held_out", phase=phase), train, tmp_path / "without")
    scores = history(tmp_path / "with", "held_out_soft_iou")
    assert scores != history(tmp_path / "without", "held_out_soft_iou")
    network, scaling = loaded(chosen, tmp_path / "with")
    run = run_of(tmp_path / "with", chosen)
    p = held_out(network, scaling, run)[1][:, 0].astype(float)
    y = train["mask"][train["fold"] == 0]
    assert (p * y).sum() / (p + y - p * y).sum() == pytest.approx(max(scores), abs=1e-5)


def test_an_epoch_of_materialised_augmentations_holds_each_window_once_in_each():
    train = wells(patches=5, groups=2)
    windows = Windows.of(train, 36, CPU, np.ones(train["image"].shape, bool))
    settings = Augment(depth_shift=False, materialised=["none", "both_flips", "flip_depth"])
    starts, symmetries = batches._epoch_windows(windows, settings, torch.Generator().manual_seed(0))
    seen = sorted(
        zip(
            starts.tolist(),
            symmetries.flip_depth.tolist(),
            symmetries.flip_azimuth.tolist(),
            strict=True,
        )
    )
    assert seen == sorted(
        (start, *flips) for start in set(starts.tolist()) for flips in ((0, 0), (1, 1), (1, 0))
    )
    assert len(seen) == 30


@pytest.mark.parametrize("shift", [False, True])
def test_an_epoch_sees_every_labelled_row_once_and_no_other(shift):
    train = wells(patches=5, groups=3)
    weight = np.ones(train["image"].shape, bool) & (train["fold"] != 1)[:, None, None]
    windows = Windows.of(train, 72, CPU, weight)
    starts = windows.shuffled(shift, torch.Generator().manual_seed(3))
    seen = torch.zeros(len(windows.image))
    for start in starts:
        seen[start : start + 72] += 1
    labelled = windows.weight[:, 0] > 0
    assert labelled.sum() == 2 * 5 * 36
    assert (seen[labelled] == 1).all()
    elsewhere = torch.from_numpy(
        np.isin(windows.canvas.source // 36, np.flatnonzero(train["fold"] == 1))
    )
    assert not seen[elsewhere].any()


def test_loss_falls(tmp_path):
    fit(tiny(phase=[{"epochs": 30, "learning_rate": 0.02}]), wells(8, 2), tmp_path)
    assert losses(tmp_path)[-1] < 0.6 * losses(tmp_path)[0]


def test_overfits_four_patches(tmp_path):
    train = wells(patches=4, groups=2)
    chosen = tiny(
        batch_size=4, phase=[{"epochs": 150, "learning_rate": 0.02, "schedule": "constant"}]
    )
    fit(chosen, train, tmp_path, fold=1)
    assert losses(tmp_path)[-1] < 0.1


def test_the_papers_network_trains_and_predicts(tmp_path):
    train = wells(patches=4, groups=2)
    chosen = tiny(network={"name": "cat_corroseg"}, phase=[{"epochs": 1}])
    fit(chosen, train, tmp_path)
    network, scaling = loaded(chosen, tmp_path)
    run = run_of(tmp_path, chosen)
    name, probability = held_out(network, scaling, run)
    assert probability.shape == (4, 1, 36, 36) and probability.dtype == np.float16
    assert list(name) == [f"well_1_patch_{number}" for number in range(4)]


@pytest.mark.parametrize("member", [WITH_EVERYTHING, WITH_AVERAGES])
def test_a_held_out_well_has_no_say_in_weights_or_scaling(tmp_path, member):
    clean, poisoned = wells(6, 3), wells(6, 3)
    for train in (clean, poisoned):
        train["mask"][train["depth"] < 2] = 0  # in every well defect-free pipe to take texture from
    poisoned["image"][poisoned["fold"] == 1] *= 1e6
    poisoned["mask"][poisoned["fold"] == 1] ^= 1
    for train, name in ((clean, "clean"), (poisoned, "poisoned")):
        fit(tiny(height=72, **member), train, tmp_path / name, fold=1)
    assert digest(tmp_path / "clean") == digest(tmp_path / "poisoned")


def test_seed_and_fold_change_the_weights(tmp_path):
    train = wells(4, 3)
    for name, fold, seed in (("a", 0, 0), ("b", 0, 1), ("c", 1, 0)):
        fit(tiny(), train, tmp_path / name, fold, seed)
    assert len({digest(tmp_path / name) for name in "abc"}) == 3


PHASES = [
    {"epochs": 2, "learning_rate": 0.01},
    {"epochs": 2, "learning_rate": 0.001, "loss": {"bce": 1.0}, "optimiser": "adam"},
]


@pytest.mark.parametrize(
    ("killed_in_epoch", "member"),
    [
        *((epoch, {}) for epoch in range(4)),
        *((epoch, member) for epoch in (1, 3) for member in (WITH_EVERYTHING, WITH_AVERAGES)),
    ],
)
def test_a_killed_and_resumed_training_gives_the_same_bytes(tmp_path, killed_in_epoch, member):
    train, chosen = wells(4, 2), tiny(phase=PHASES, **member)
    train["mask"][::2] = 0  # defect-free pipe to take texture from

    class Killed(Exception):
        pass

    def kill(share: float) -> None:
        if share >= killed_in_epoch / 4:
            raise Killed

    fit(chosen, train, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        fit(chosen, train, tmp_path / "killed", report=kill)
    assert len(list((tmp_path / "killed").glob("**/checkpoint.pt"))) == min(killed_in_epoch, 1)
    assert killed_in_epoch == 0 or len(losses(tmp_path / "killed")) == killed_in_epoch
    torch.rand(7)  # whatever else drew random numbers in between
    fit(chosen, train, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_a_checkpoint_of_other_inputs_is_not_resumed(tmp_path):
    chosen, old, new = tiny(phase=PHASES), wells(4, 2, seed=1), wells(4, 2)

    def kill(share: float) -> None:
        if share > 0.5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(chosen, old, tmp_path / "changed", report=kill)
    assert only(tmp_path / "changed", "checkpoint.pt").exists()
    fit(chosen, new, tmp_path / "changed")
    fit(chosen, new, tmp_path / "fresh")
    assert content(tmp_path / "changed") == content(tmp_path / "fresh")


@pytest.mark.parametrize("damage", [b"not a checkpoint", b""])
def test_a_damaged_checkpoint_is_not_resumed(tmp_path, capsys, damage):
    train, chosen = wells(4, 2), tiny()
    fit(chosen, train, tmp_path / "fresh")
    checkpoint = run_of(tmp_path / "damaged", chosen).checkpoint(TASK)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(damage)
    fit(chosen, train, tmp_path / "damaged")
    assert content(tmp_path / "damaged") == content(tmp_path / "fresh")
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9999])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, capsys, place):
    network, inputs = torch.nn.Conv2d(1, 1, 3), {"made": "here"}
    checkpoint = tmp_path / "checkpoint.pt"
    state = {"epoch": 0, "history": [], "network": network.state_dict()}
    checkpoints.save(state, inputs, checkpoint)
    assert checkpoints.load(checkpoint, network, inputs, False, CPU)
    damaged = bytearray(checkpoint.read_bytes())
    damaged[int(place * len(damaged))] ^= 4
    checkpoint.write_bytes(damaged)
    assert checkpoints.load(checkpoint, network, inputs, False, CPU) is None
    assert f"{checkpoint} is damaged" in capsys.readouterr().out


def test_frozen_parts_stay_until_the_phase_that_releases_them(tmp_path):
    """Two phases of an encoder's life, looked at after each."""
    train = wells(4, 2)
    network = {"name": "cat_corroseg", "encoder": "resnet18"}
    frozen = [
        ["encoder"],
        ["encoder.features.conv1", "encoder.features.bn1", "encoder.features.layer1"],
        [],
    ]
    phases = [
        {"epochs": 1, "learning_rate": 0.01, "schedule": "constant", "warmup": 0, "frozen": names}
        for names in frozen
    ]
    weights = [
        fit(tiny(network=network, phase=phases[:count]), train, tmp_path / str(count))
        for count in (1, 2, 3)
    ]
    untrained = prepare_fit(tiny(network=network), train, tmp_path / "0").network
    start = {name: tensor.numpy() for name, tensor in untrained.state_dict().items()}

    def moved(before, after, part):
        return [
            not np.array_equal(before[name], after[name])
            for name in before
            if name.startswith(part)
        ]

    assert not any(moved(start, weights[0], "encoder.")) and any(moved(start, weights[0], "steps."))
    assert not any(moved(weights[0], weights[1], "encoder.features.layer1."))
    assert all(moved(weights[0], weights[1], "encoder.features.layer2."))
    assert all(moved(weights[1], weights[2], "encoder.features.layer1."))


def test_a_frozen_part_that_is_not_there_is_refused():
    network = networks.create({"name": "ring_unet", "channels": [4, 8]})
    with pytest.raises(UserError, match="encoder"):
        loop.freeze(network, ["encodr"])
    with pytest.raises(UserError, match="nothing"):
        loop.freeze(network, ["encoder", "decoder", "up", "head"])


def test_training_stops_when_the_held_out_soft_iou_has_not_risen_for_early_stopping(tmp_path):
    train = wells(4, 2)
    # the more it learns of this, the worse it does on the held-out well
    train["mask"][train["fold"] != 0] ^= 1
    chosen = tiny(
        selection="best_on_held_out",
        early_stopping=2,
        phase=[{"epochs": 40, "learning_rate": 0.01, "schedule": "constant"}],
    )
    fit(chosen, train, tmp_path)
    scores = history(tmp_path, "held_out_soft_iou")
    assert len(scores) < 40
    assert len(scores) - 1 - int(np.argmax(scores)) == 2


def test_picking_the_epoch_on_the_held_out_fold_keeps_the_best(tmp_path):
    train = wells(6, 2)
    chosen = tiny(
        selection="best_on_held_out",
        phase=[{"epochs": 6, "learning_rate": 0.1, "schedule": "constant"}],
    )
    fit(chosen, train, tmp_path)
    network, scaling = loaded(chosen, tmp_path)
    run = run_of(tmp_path, chosen)
    name, probability = held_out(network, scaling, run)
    truth = {n: m for n, m in zip(train["name"], train["mask"], strict=True)}
    p, y = probability[:, 0].astype(float), np.stack([truth[n] for n in name])
    scores = history(tmp_path, "held_out_soft_iou")
    assert (p * y).sum() / (p + y - p * y).sum() == pytest.approx(max(scores), abs=1e-5)
    assert len(set(scores)) > 1
    iou = [(a & b).sum() / (a | b).sum() for a, b in zip(p > 0.5, y == 1, strict=True)]
    assert np.mean(iou) == pytest.approx(
        history(tmp_path, "held_out_score")[int(np.argmax(scores))], abs=1e-5
    )


def test_the_last_of_the_held_out_scores_picks_the_epoch(tmp_path, monkeypatch):
    told = iter([(0.1, 0.2), (0.2, 0.3), (0.3, 0.1)])
    monkeypatch.setattr(
        WellTrainingSet,
        "held_out",
        lambda self, network: dict(
            zip(("held_out_score", "held_out_other"), next(told), strict=True)
        ),
    )
    saved, save = [], loop.Fit.keep
    monkeypatch.setattr(
        loop.Fit,
        "keep",
        lambda self, epoch: saved.append(self.state["best_epoch"]) or save(self, epoch),
    )
    fit(tiny(selection="best_on_held_out", phase=[{"epochs": 3}]), wells(3, 2), tmp_path)
    assert saved == [0, 1, 1]


def test_evaluating_the_held_out_fold_records_scores_and_decides_nothing(tmp_path):
    train, phase = wells(3, 2), [{"epochs": 5, "learning_rate": 0.05}]
    fit(tiny(phase=phase), train, tmp_path / "never")
    fit(tiny(phase=phase, eval_every=2), train, tmp_path / "evaluated")
    assert digest(tmp_path / "evaluated") == digest(tmp_path / "never")
    lines = list(csv.DictReader(only(tmp_path / "evaluated", "history.csv").open()))
    assert [line["held_out_soft_iou"] != "" for line in lines] == [False, True, False, True, False]
    fit(tiny(phase=phase, selection="best_on_held_out"), train, tmp_path / "each")
    each = history(tmp_path / "each", "held_out_score")
    assert [float(line["held_out_score"]) for line in lines[1::2]] == each[1::2]


def network_with_random_statistics(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = networks.create({"name": "ring_unet", "channels": [4, 8]})
    network(torch.randn(8, 1, 36, 36))  # gives batch norm something to remember
    return network.eval()


def predict(train, settings: dict | None = None, **member: object) -> np.ndarray:
    chosen = tiny(**member)
    return prediction.predict(
        network_with_random_statistics(),
        train,
        chosen.members[0],
        recipe.Inference(**(settings or {})),
        CPU,
    )


def test_prediction_does_not_depend_on_the_batch_size():
    train = wells(7, 2)
    one, many = (
        predict(train, batch_size=size, height=72, margin=16).astype(np.float32) for size in (1, 64)
    )
    np.testing.assert_allclose(one, many, atol=1e-3)


def test_prediction_does_not_depend_on_the_order_of_patches():
    train = wells(7, 2)
    order = np.random.default_rng(1).permutation(14)
    shuffled = predict(blocks.rows_of(train, order), height=72, margin=16)
    np.testing.assert_allclose(
        shuffled.astype(np.float32),
        predict(train, height=72, margin=16)[order].astype(np.float32),
        atol=1e-3,
    )


def test_without_context_each_patch_is_predicted_by_itself():
    train = wells(3, 2)
    network = network_with_random_statistics()
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(train["image"])[:, None])).numpy()
    np.testing.assert_allclose(
        predict(train, {"flips": False}).astype(np.float32), expected, atol=1e-3
    )


def test_a_window_lets_the_network_see_the_pipe_above_and_below():
    train = wells(3, 1)
    network = network_with_random_statistics()
    strip = train["image"].reshape(1, 1, 108, 36)
    padded = np.pad(strip, ((0, 0), (0, 0), (36, 36), (0, 0)), mode="edge")
    with torch.no_grad():
        expected = (
            torch.sigmoid(network(torch.from_numpy(padded[:, :, 36 : 36 + 108])))
            .numpy()
            .reshape(3, 36, 36)[1]
        )
    got = predict(train, {"flips": False}, height=108, margin=36)[1, 0].astype(np.float32)
    np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("dropped", [0.0, 0.4])
def test_averages_reach_the_network_and_half_of_the_views_leave_dropped_ones_out(dropped):
    train = wells(3, 1)
    torch.manual_seed(0)
    network = networks.create({"name": "ring_unet", "channels": [4, 8], "inputs": 3})
    network(torch.randn(8, 3, 36, 36))
    strip = geometry.strips(train["group"], train["depth"], train["parity"])
    x = torch.from_numpy(
        np.stack(
            [train["image"], *(averaged(train["image"], strip, rows) for rows in (37, 109))], axis=1
        )
    )
    blind = x.clone()
    blind[:, 1:] = 0
    with torch.no_grad():
        seen, unseen = (torch.sigmoid(network.eval()(view)).numpy() for view in (x, blind))
    chosen = tiny(**WITH_AVERAGES | {"augment": {"drop_averages": dropped}}).members[0]
    got = prediction.predict(network, train, chosen, recipe.Inference(flips=False), CPU).astype(
        np.float32
    )
    np.testing.assert_allclose(got, (seen + unseen) / 2 if dropped else seen, atol=1e-3)
    assert np.abs(seen - unseen).max() > 0.01


def test_batch_statistics_of_a_well_are_those_of_what_was_trained_on():
    """The first batch norm's mean, from the first convolution of the images with averages and
    without.
    """
    train = wells(3, 1)
    chosen = tiny(**WITH_AVERAGES).members[0]
    network = networks.create(chosen.network)
    windows = Windows.of(train, 36, CPU, averages=chosen.depth_averages)
    x = windows.inputs(torch.from_numpy(windows.canvas.windows(36, 0)))
    blind = torch.cat([x[:, :1], 0 * x[:, 1:]], dim=1)
    with torch.no_grad():
        expected = network.encoder[0][0](torch.cat([x, blind])).mean((0, 2, 3))
    got = prediction.adabn(network, train, chosen, CPU).encoder[0][1].running_mean
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_views_are_turned_back_before_they_are_averaged():
    train = wells(3, 1)
    network = network_with_random_statistics()
    x = torch.from_numpy(train["image"])[:, None]
    with torch.no_grad():
        views = [torch.sigmoid(network(x.flip(f))).flip(f) for f in ([], [2], [3], [2, 3])]
    expected = torch.stack(views).mean(0).numpy()
    np.testing.assert_allclose(
        predict(train, {"flips": True}).astype(np.float32), expected, atol=1e-3
    )


def test_a_prediction_by_adabn_does_not_depend_on_a_wells_gain_and_offset():
    """Batch norm with the well's own statistics takes both away behind the first convolution,
    which has no bias.
    """
    train = wells(5, 2)
    other = train | {
        "image": np.where(
            train["group"][:, None, None] == 2, 3 * train["image"] + 2, train["image"]
        )
    }
    for adabn in (1.0, 0.0):
        plain, changed = (
            predict(split, {"adabn": adabn}, height=72, margin=16).astype(np.float32)
            for split in (train, other)
        )
        np.testing.assert_allclose(plain[:5], changed[:5], atol=1e-3)  # the other well has no say
        assert np.allclose(plain[5:], changed[5:], atol=2e-3) == (adabn == 1)


def test_adabn_and_plain_predictions_are_averaged_by_weight_and_the_network_stays_as_it_is():
    train = wells(5, 2)
    plain, half, full = (
        predict(train, {"adabn": adabn}).astype(np.float32) for adabn in (0.0, 0.25, 1.0)
    )
    np.testing.assert_allclose(half, 0.75 * plain + 0.25 * full, atol=1e-3)
    assert np.abs(plain - full).max() > 0.01
    network = network_with_random_statistics()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prediction.predict(network, train, tiny().members[0], recipe.Inference(adabn=1.0), CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_half_pixel_neighbours_are_averaged_on_request():
    train = wells(4, 1)
    train["depth"], train["parity"] = (
        np.array([0, 0, 1, 1], np.int32),
        np.array([0, 1, 0, 1], np.int32),
    )
    plain, averaged = (
        predict(train, {"average_neighbours": flag}).astype(np.float32) for flag in (False, True)
    )
    expected = plain[0] / 2 + (plain[1] + np.roll(plain[1], 1, -1)) / 4
    np.testing.assert_allclose(averaged[0], expected, atol=2e-3)


def test_cuda_is_never_replaced_silently(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="no CUDA device"):
        choose_device("cuda")


@pytest.mark.parametrize(
    "member",
    [
        {"height": 37},
        # 36 columns are no multiple of 8
        {"network": {"name": "ring_unet", "channels": [4, 8, 8, 8]}, "height": 72},
        {"network": {"name": "ring_unet", "channels": []}},
        {"network": {"name": "ring_unet", "channels": [0, 4]}},
        {"network": {"name": "baseline_cnn", "pooling": True}, "height": 72},
    ],
)
def test_networks_that_cannot_work_are_refused_in_one_line_before_training(member, tmp_path):
    run = run_of(tmp_path, tiny(**member))
    hdf5.write(run.prepared("train"), {"image": np.zeros((1, 36, 36), np.float32)}, {})
    with pytest.raises(UserError, match="network") as caught:
        training.check(run)
    assert len(str(caught.value)) < 400


def test_a_history_whose_first_epochs_tell_less_is_written_whole(tmp_path):
    """A checkpoint of before a column was there may be resumed."""
    fitting = prepare_fit(tiny(), wells(2, 2), tmp_path)
    old, new = {"epoch": 1, "loss": "0.5"}, {"epoch": 2, "loss": "0.4", "device": "a CPU"}
    fitting.state["history"] = [old, new]
    fitting.write_history()
    with only(tmp_path, "history.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": "0.5", "device": ""},
            {"epoch": "2", "loss": "0.4", "device": "a CPU"},
        ]


def test_an_epoch_tells_on_what_it_was_trained(tmp_path):
    fit(tiny(), wells(8, 2), tmp_path)
    assert all(
        "threads" in line["device"] for line in csv.DictReader(only(tmp_path, "history.csv").open())
    )
