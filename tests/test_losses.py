"""Losses against closed forms and finite differences; schedules at their ends."""

import math
from itertools import product

import pytest
import torch

from src.losses import bce, focal, lovasz, of_phase, smooth_iou, smooth_iou_per_patch
from src.recipe import Phase
from src.schedule import learning_rate

LOSSES = {"smooth_iou": smooth_iou, "smooth_iou_per_patch": smooth_iou_per_patch, "bce": bce, "focal": focal(0.25, 2.0), "lovasz": lovasz}


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    truth = (torch.rand(logits.shape, generator=generator) < 0.3).double()
    weight = (torch.rand(logits.shape, generator=generator) < 0.8).double()
    return logits, truth, weight


def test_smooth_iou_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])  # probabilities 1/2 and 3/4
    truth = torch.tensor([[[[0.0, 1.0]]]])
    # I = 3/4, U = 1/2 + 1
    assert LOSSES["smooth_iou"](logits, truth, torch.ones_like(truth)).item() == pytest.approx(1 - 1.75 / 2.5)


def test_bce_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])
    truth = torch.tensor([[[[0.0, 1.0]]]])
    assert LOSSES["bce"](logits, truth, torch.ones_like(truth)).item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    logits, truth, weight = example()
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, truth, weight), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_without_weight_have_no_say(name):
    logits, truth, weight = example()
    before = LOSSES[name](logits, truth, weight)
    hidden = weight == 0
    assert hidden.any()
    assert LOSSES[name](torch.where(hidden, 50.0, logits), torch.where(hidden, 1 - truth, truth), weight) == before


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_weights_gives_a_finite_loss(name):
    logits, truth, weight = example()
    assert torch.isfinite(LOSSES[name](logits, truth, 0 * weight))


def test_smooth_iou_per_patch_is_the_mean_over_patches():
    logits, truth, weight = example()
    alone = [smooth_iou(logits[i : i + 1], truth[i : i + 1], weight[i : i + 1]) for i in range(len(logits))]
    assert smooth_iou_per_patch(logits, truth, weight).item() == pytest.approx(sum(map(float, alone)) / len(alone))
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
            logits = [0.0 if miss else 2 * value - 1 for value, miss in zip(truth, wrong, strict=True)]
            x, y = (torch.tensor(values).reshape(1, 1, 1, 5) for values in (logits, truth))
            expected = jaccard_loss({pixel for pixel, miss in enumerate(wrong) if miss}, list(truth))
            assert lovasz(x, y, torch.ones_like(y)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_weighs_each_error_by_what_it_adds_to_the_jaccard_loss(seed):
    logits, truth, weight = example(seed)
    seen = weight.flatten() > 0
    z, y = logits.flatten()[seen].tolist(), truth.flatten()[seen].tolist()
    errors = [1 - value * (1 if real else -1) for value, real in zip(z, y, strict=True)]
    total, before = 0.0, set()
    for pixel in sorted(range(len(errors)), key=lambda pixel: -errors[pixel]):
        total += max(errors[pixel], 0) * (jaccard_loss(before | {pixel}, y) - jaccard_loss(before, y))
        before.add(pixel)
    assert lovasz(logits, truth, weight).item() == pytest.approx(total)


def test_focal_with_gamma_0_is_bce():
    logits, truth, weight = example()
    assert 2 * focal(0.5, 0.0)(logits, truth, weight).item() == pytest.approx(bce(logits, truth, weight).item())


def test_focal_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)]]]])  # probabilities 1/2 and 3/4
    truth = torch.tensor([[[[0.0, 1.0]]]])
    expected = -(0.75 * 0.5**2 * math.log(0.5) + 0.25 * 0.25**2 * math.log(0.75)) / 2
    assert focal(0.25, 2.0)(logits, truth, torch.ones_like(truth)).item() == pytest.approx(expected)


def test_a_phase_combines_its_losses_by_weight():
    logits, truth, weight = example()
    phase = Phase(epochs=1, loss={"smooth_iou": 2.0, "focal": 0.5}, focal_alpha=0.4, focal_gamma=1.0)
    expected = 2 * smooth_iou(logits, truth, weight) + 0.5 * focal(0.4, 1.0)(logits, truth, weight)
    assert of_phase(phase)(logits, truth, weight) == expected


def test_cosine_schedule_climbs_then_falls_to_zero():
    phase = Phase(epochs=1, learning_rate=0.1, schedule="cosine", warmup=0.2)
    rates = [learning_rate(phase, progress) for progress in (0, 0.1, 0.2, 0.6, 1)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_constant_schedule_stays():
    phase = Phase(epochs=1, learning_rate=0.1, schedule="constant", warmup=0)
    assert [learning_rate(phase, progress) for progress in (0, 0.5, 1)] == [0.1, 0.1, 0.1]
