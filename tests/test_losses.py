"""Losses against closed forms, finite differences and other libraries."""

import math
from itertools import product

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from src.networks.layers import probability
from src.recipe import Phase
from src.terminal.errors import UserError
from src.training.losses import (
    bce,
    cross_entropy,
    dice,
    focal,
    lovasz,
    of_phase,
    smooth_iou,
    smooth_iou_per_patch,
    tversky,
)

LOSSES = {
    "smooth_iou": smooth_iou,
    "smooth_iou_per_patch": smooth_iou_per_patch,
    "dice": dice,
    "tversky": tversky(0.3),
    "bce": bce,
    "focal": focal(0.25, 2.0),
    "lovasz": lovasz,
}


def example(seed: int = 0, classes: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 4, generator=generator, dtype=torch.float64)
    truth = (torch.rand(logits.shape, generator=generator) < 0.3).double()
    weight = (torch.rand(2, 1, 3, 4, generator=generator) < 0.8).double()
    return logits, truth, weight


def exclusive_example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (2, 4, 5, 6) for a background and three classes, a truth without overlaps, its
    labels, and weights.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(4, (2, 5, 6), generator=generator)
    truth = torch.stack([label == k for k in (1, 2, 3)], dim=1).double()
    return logits, truth, label, (torch.rand(2, 1, 5, 6, generator=generator) < 0.8).double()


def test_smooth_iou_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])  # probabilities 1/2 and 3/4
    truth = torch.tensor([[[[0.0, 1.0]]]])
    # I = 3/4, U = 1/2 + 1
    assert LOSSES["smooth_iou"](logits, truth, torch.ones_like(truth)).item() == pytest.approx(
        1 - 1.75 / 2.5
    )


def test_bce_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])
    truth = torch.tensor([[[[0.0, 1.0]]]])
    assert LOSSES["bce"](logits, truth, torch.ones_like(truth)).item() == pytest.approx(
        -(math.log(0.5) + math.log(0.75)) / 2
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    logits, truth, weight = example()
    assert torch.autograd.gradcheck(
        lambda x: LOSSES[name](x, truth, weight), logits.requires_grad_()
    )


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_without_weight_have_no_say(name):
    logits, truth, weight = example()
    before = LOSSES[name](logits, truth, weight)
    hidden = weight == 0
    assert hidden.any()
    assert (
        LOSSES[name](
            torch.where(hidden, 50.0, logits), torch.where(hidden, 1 - truth, truth), weight
        )
        == before
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_weights_gives_a_finite_loss(name):
    logits, truth, weight = example()
    assert torch.isfinite(LOSSES[name](logits, truth, 0 * weight))


def test_smooth_iou_per_patch_is_the_mean_over_patches():
    logits, truth, weight = example()
    alone = [
        smooth_iou(logits[i : i + 1], truth[i : i + 1], weight[i : i + 1])
        for i in range(len(logits))
    ]
    assert smooth_iou_per_patch(logits, truth, weight).item() == pytest.approx(
        sum(map(float, alone)) / len(alone)
    )
    assert smooth_iou_per_patch(logits, truth, weight) != smooth_iou(logits, truth, weight)


def jaccard_loss(wrong: set[int], truth: list[float]) -> float:
    """1 - IoU of a prediction that is wrong at these pixels."""
    real = {pixel for pixel, value in enumerate(truth) if value}
    predicted = real ^ wrong
    return 1 - len(predicted & real) / len(predicted | real) if predicted | real else 0.0


def test_lovasz_is_the_jaccard_loss_where_errors_are_0_or_1():
    """A pixel with a logit of 0 is wrong by 1, one with a logit of 1 on its own side is right."""
    for truth in product((0.0, 1.0), repeat=5):
        for wrong in product((False, True), repeat=5):
            logits = [
                0.0 if miss else 2 * value - 1 for value, miss in zip(truth, wrong, strict=True)
            ]
            x, y = (torch.tensor(values).reshape(1, 1, 1, 5) for values in (logits, truth))
            expected = jaccard_loss(
                {pixel for pixel, miss in enumerate(wrong) if miss}, list(truth)
            )
            assert lovasz(x, y, torch.ones_like(y)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_weighs_each_error_by_what_it_adds_to_the_jaccard_loss(seed):
    logits, truth, weight = example(seed)
    seen = weight.flatten() > 0
    z, y = logits.flatten()[seen].tolist(), truth.flatten()[seen].tolist()
    errors = [1 - value * (1 if real else -1) for value, real in zip(z, y, strict=True)]
    total, before = 0.0, set()
    for pixel in sorted(range(len(errors)), key=lambda pixel: -errors[pixel]):
        total += max(errors[pixel], 0) * (
            jaccard_loss(before | {pixel}, y) - jaccard_loss(before, y)
        )
        before.add(pixel)
    assert lovasz(logits, truth, weight).item() == pytest.approx(total)


def test_focal_with_gamma_0_is_bce():
    logits, truth, weight = example()
    assert 2 * focal(0.5, 0.0)(logits, truth, weight).item() == pytest.approx(
        bce(logits, truth, weight).item()
    )


def test_focal_with_an_alpha_above_1_rewards_errors():
    """Alpha 15 and gamma 1, one pixel of each kind, 0.9 on the wrong side."""
    truth, sure = torch.tensor([[[[0.0, 1.0]]]]).double(), math.log(9)
    right, wrong = (torch.tensor([[[[-x, x]]]]).double() for x in (sure, -sure))
    phase = Phase(epochs=1, loss={"focal": 1.0}, focal_alpha=15.0, focal_gamma=1.0)
    cost = [of_phase(phase)(x, truth, torch.ones_like(truth)).item() for x in (right, wrong)]
    missed = [-0.1 * math.log(0.9), -0.9 * math.log(0.1)]
    assert cost == pytest.approx([(15 - 14) * own / 2 for own in missed])
    sound = torch.zeros_like(truth)
    cost = [
        of_phase(phase)(x, sound, torch.ones_like(truth)).item()
        for x in (-right.abs(), right.abs())
    ]
    assert cost == pytest.approx([-14 * own for own in missed]) and cost[1] < cost[0] < 0


def test_focal_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])  # probabilities 1/2 and 3/4
    truth = torch.tensor([[[[0.0, 1.0]]]])
    expected = -(0.75 * 0.5**2 * math.log(0.5) + 0.25 * 0.25**2 * math.log(0.75)) / 2
    assert focal(0.25, 2.0)(logits, truth, torch.ones_like(truth)).item() == pytest.approx(expected)


def test_a_phase_combines_its_losses_by_weight():
    logits, truth, weight = example()
    phase = Phase(
        epochs=1, loss={"smooth_iou": 2.0, "focal": 0.5}, focal_alpha=0.4, focal_gamma=1.0
    )
    expected = 2 * smooth_iou(logits, truth, weight) + 0.5 * focal(0.4, 1.0)(logits, truth, weight)
    assert of_phase(phase)(logits, truth, weight) == expected


def test_dice_by_hand():
    # probabilities 1/2, 3/4; 1/2, 1/2
    logits = torch.tensor([[[[0.0, math.log(3.0)]], [[0.0, 0.0]]]])
    truth = torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]]]])
    # First class: I = 3/4, P = 5/4, T = 1; second: I = 0, P = 1, T = 0.
    expected = ((1 - 2.5 / 3.25) + (1 - 1 / 2)) / 2
    assert dice(logits, truth, torch.ones(1, 1, 1, 2)).item() == pytest.approx(expected)


def test_tversky_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])
    truth = torch.tensor([[[[0.0, 1.0]]]])
    # TP = 3/4, FN = 1/4, FP = 1/2
    expected = 1 - 1.75 / (0.75 + 0.3 * 0.25 + 0.7 * 0.5 + 1)
    assert tversky(0.3)(logits, truth, torch.ones_like(truth)).item() == pytest.approx(expected)


@pytest.mark.parametrize("absent", [None, 0, 2])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.2, 1.3)])
def test_tversky_with_the_background_is_the_librarys(absent, alpha, beta):
    """With all classes in the batch, without the background, and without the second class."""
    logits, _, label, _ = exclusive_example()
    if absent is not None:
        label[label == absent] = 1
    truth = torch.stack([label == k for k in (1, 2, 3)], dim=1).double()
    # there alpha is that of false pixels
    library = smp.losses.TverskyLoss("multiclass", alpha=beta, beta=alpha)
    own = tversky(alpha, "softmax", beta, background=True, absent=False, smooth=0.0)
    everywhere = torch.ones(2, 1, 5, 6)
    for x in (logits, 30 * logits):
        assert own(x, truth, everywhere).item() == pytest.approx(library(x, label).item())
    told = Phase(
        epochs=1,
        loss={"tversky": 1.0},
        tversky_alpha=alpha,
        tversky_beta=beta,
        tversky_background=True,
        tversky_absent=False,
        tversky_smooth=0.0,
    )
    assert of_phase(told, "softmax")(logits, truth, everywhere) == own(logits, truth, everywhere)
    counted = tversky(alpha, "softmax", beta, background=True, absent=True, smooth=0.0)
    assert (counted(logits, truth, everywhere) > own(logits, truth, everywhere)) == (
        absent is not None
    )


def test_pixels_without_weight_have_no_say_in_the_librarys_tversky():
    """Not even in which classes are absent: the third is only where there is no weight."""
    logits, truth, label, weight = exclusive_example()
    weight[:, 0][label == 3] = 0
    own = tversky(0.5, "softmax", background=True, absent=False, smooth=0.0)
    without = torch.where(weight == 0, torch.zeros_like(truth), truth)
    changed = torch.where(weight == 0, 50.0, logits)
    assert own(logits, truth, weight) == own(changed, without, weight)
    assert own(logits, truth, 0 * weight) == 0
    assert torch.autograd.gradcheck(lambda x: own(x, truth, weight), logits.requires_grad_())


def test_tversky_has_no_background_where_classes_may_overlap():
    phase = Phase(epochs=1, loss={"tversky": 1.0}, tversky_background=True)
    with pytest.raises(UserError, match="tversky_background needs"):
        of_phase(phase)


def test_dice_and_tversky_agree_with_the_library():
    logits, truth, _ = example(classes=3)
    assert truth.sum((0, 2, 3)).all()  # the library leaves absent classes out
    everywhere = torch.ones(2, 1, 3, 4)
    # there it is added to half of numerator and denominator
    library = smp.losses.DiceLoss("multilabel", smooth=0.5)(logits, truth)
    assert dice(logits, truth, everywhere).item() == pytest.approx(library.item())
    # there alpha is that of false pixels
    library = smp.losses.TverskyLoss("multilabel", smooth=1, alpha=0.7, beta=0.3)(logits, truth)
    assert tversky(0.3)(logits, truth, everywhere).item() == pytest.approx(library.item())


@pytest.mark.parametrize("name", LOSSES)
def test_several_classes_count_alike(name):
    """Two equal classes lose as much as one of them; two that differ, but not more than the
    worse one.
    """
    logits, truth, weight = example()
    twice = LOSSES[name](logits.repeat(1, 2, 1, 1), truth.repeat(1, 2, 1, 1), weight).item()
    # over all classes together: the one is added once, not for each class
    if name.startswith("smooth_iou"):
        p, y = weight * torch.sigmoid(logits), weight * truth
        dims = (1, 2, 3) if name == "smooth_iou_per_patch" else (0, 1, 2, 3)
        shared, union = (2 * (p * y).sum(dims), 2 * (p + y - p * y).sum(dims))
        assert twice == pytest.approx((1 - (shared + 1) / (union + 1)).mean().item())
    else:
        assert twice == pytest.approx(LOSSES[name](logits, truth, weight).item())
    logits, truth, weight = example(classes=2)
    single = [
        LOSSES[name](logits[:, k : k + 1], truth[:, k : k + 1], weight).item() for k in (0, 1)
    ]
    assert min(single) < LOSSES[name](logits, truth, weight).item() < max(single)


def test_a_class_absent_and_not_predicted_costs_nothing():
    logits, truth = torch.full((2, 1, 8, 8), -50.0), torch.zeros(2, 1, 8, 8)
    for loss in (dice, tversky(0.3)):
        assert loss(logits, truth, torch.ones(2, 1, 8, 8)).item() == pytest.approx(0, abs=1e-6)


def test_cross_entropy_is_torchs_over_the_weighted_pixels():
    logits, truth, label, weight = exclusive_example()
    of_pixel = functional.cross_entropy(logits, label, reduction="none")
    assert cross_entropy(logits, truth, weight).item() == pytest.approx(
        of_pixel[weight[:, 0] > 0].mean().item()
    )
    hidden = weight == 0
    assert hidden.any()
    assert cross_entropy(
        torch.where(hidden, 50.0, logits), torch.where(hidden, 1 - truth, truth), weight
    ) == cross_entropy(logits, truth, weight)
    assert cross_entropy(logits, truth, 0 * weight) == 0
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy(x, truth, weight), logits.requires_grad_()
    )


def test_cross_entropy_takes_the_first_of_overlapping_classes_and_background_where_none_is_sure():
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    everywhere = torch.ones(1, 1, 1, 1)
    for truth, label in (
        ([0, 1, 1], 2),
        ([1, 1, 1], 1),
        ([0.6, 0.9, 0], 2),
        ([0.5, 0.2, 0], 0),
        ([0, 0, 0], 0),
    ):
        expected = functional.cross_entropy(logits, torch.tensor([[[label]]]))
        assert cross_entropy(
            logits, torch.tensor(truth).reshape(1, 3, 1, 1), everywhere
        ).item() == pytest.approx(expected.item())


def test_with_softmax_the_background_is_no_class():
    logits, truth, _, weight = exclusive_example()
    p = probability(logits, "softmax")
    torch.testing.assert_close(p, logits.exp()[:, 1:] / logits.exp().sum(1, keepdim=True))
    alike = torch.logit(p)  # with a sigmoid these give the same probabilities
    for name in ("smooth_iou", "smooth_iou_per_patch", "dice", "tversky"):
        phase = Phase(epochs=1, loss={name: 1.0}, tversky_alpha=0.3)
        loss = of_phase(phase, "softmax")(logits, truth, weight).item()
        assert (
            loss
            == pytest.approx(LOSSES[name](alike, truth, weight).item())
            == of_phase(phase)(alike, truth, weight).item()
        )


@pytest.mark.parametrize(
    ("loss", "activation", "instead"),
    [
        ("bce", "softmax", "cross_entropy"),
        ("focal", "softmax", "cross_entropy"),
        ("cross_entropy", "sigmoid", "bce"),
    ],
)
def test_a_loss_of_the_other_activation_is_one_line(loss, activation, instead):
    with pytest.raises(UserError, match=f'"{loss}".*{instead}'):
        of_phase(Phase(epochs=1, loss={"dice": 1.0, loss: 1.0}), activation)


@pytest.mark.parametrize("value", [-200.0, 200.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_sure_logits_give_finite_losses_and_gradients(value, kind):
    truth, weight = torch.zeros(2, 2, 4, 4), torch.ones(2, 1, 4, 4)
    truth[:, 0, :2] = 1
    for activation, names, channels in (
        ("sigmoid", [*LOSSES], 2),
        ("softmax", ["dice", "tversky", "cross_entropy"], 3),
    ):
        for name in names:
            logits = torch.full((2, channels, 4, 4), value, dtype=kind)
            logits[:, 0] *= -1
            loss = of_phase(Phase(epochs=1, loss={name: 1.0}), activation)(
                logits.requires_grad_(), truth, weight
            )
            loss.backward()
            assert (
                loss.dtype == torch.float32
                and torch.isfinite(loss)
                and torch.isfinite(logits.grad).all()
            ), (activation, name)
