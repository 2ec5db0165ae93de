"""Batches that do not fit into memory: the same loss and gradients in parts."""

import pytest
import torch
from torch import nn

from src.recipe import Phase
from src.training import gradient_caching, losses
from src.wells.batches import WellTrainingSet
from tests.tiny import content, fit, tiny, wells
from tests.tiny import losses as losses_of

LOSSES = ["smooth_iou", "smooth_iou_per_patch", "dice", "tversky", "bce", "focal", "lovasz"]


class Small(nn.Module):
    """A network in a memory that holds no more than `most` samples with what their gradients
    need.
    """

    def __init__(self, most: int, layer: nn.Module) -> None:
        super().__init__()
        self.most, self.seen = most, []
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), layer, nn.ReLU(), nn.Conv2d(4, 1, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.seen.append(len(image))
            if len(image) > self.most:
                self.layers(image)  # what a failed attempt leaves behind must not matter
                raise torch.OutOfMemoryError("no more")
        return self.layers(image)


def network(most: int, layer: nn.Module) -> Small:
    torch.manual_seed(0)
    return Small(most, layer).double()


def batch(count: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(count, 1, 6, 5, generator=draw, dtype=torch.float64)
    # parts differ in how much of them counts
    weight = (torch.rand(image.shape, generator=draw) < 0.8).double()
    return image, (torch.rand(image.shape, generator=draw) < 0.3).double(), weight


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_in_parts_are_those_of_the_whole_batch(name):
    """Also for losses over the whole batch, and with the same neurons dropped in both passes."""
    loss_of = losses.of_phase(Phase(epochs=1, learning_rate=1.0, loss={name: 1.0}))
    image, mask, weight = batch()
    parts = network(2, nn.Identity())
    loss, most = gradient_caching.gradients(parts, parts, loss_of, (image, mask, weight), 7)
    assert most == 2 and parts.seen == [7, 4, 2, 2, 2, 1]
    whole = network(99, nn.Identity())
    expected = loss_of(whole(image), mask, weight)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    for mine, its in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-9, atol=1e-12)


def test_both_passes_and_a_second_attempt_drop_the_same_neurons():
    image, mask, weight = batch(4)
    small, large = network(2, nn.Dropout(0.5)), network(2, nn.Dropout(0.5))
    # one has to find out that two at a time fit, the other knows
    for each, first in ((small, 4), (large, 2)):
        torch.manual_seed(5)
        gradient_caching.gradients(each, each, losses.bce, (image, mask, weight), first)
    torch.manual_seed(5)
    by_hand = network(2, nn.Dropout(0.5))
    torch.manual_seed(5)
    losses.bce(torch.cat([by_hand(part) for part in image.split(2)]), mask, weight).backward()
    for a, b, c in zip(small.parameters(), large.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
        torch.testing.assert_close(a.grad, c.grad, rtol=1e-9, atol=1e-12)


def test_batch_norm_counts_each_part_once():
    image, mask, weight = batch(4)
    parts, by_hand = network(2, nn.BatchNorm2d(4)), network(2, nn.BatchNorm2d(4))
    gradient_caching.gradients(parts, parts, losses.bce, (image, mask, weight), 4)
    for part in image.split(2):
        by_hand(part)
    for mine, its in zip(parts.buffers(), by_hand.buffers(), strict=True):
        torch.testing.assert_close(mine, its)
    assert "batch norm" in gradient_caching.describe(parts, 4, 2)
    assert "batch norm" not in gradient_caching.describe(network(2, nn.Identity()), 4, 2)


def test_one_sample_that_is_too_large_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        gradient_caching.gradients(
            network(0, nn.Identity()), network(0, nn.Identity()), losses.bce, batch(), 7
        )


@pytest.fixture
def little_memory(monkeypatch):
    """Networks of training see at most two samples at once; without batch norm, so that the
    weights must be those of whole batches.
    """
    made = []

    def create(self) -> nn.Module:
        made.append(Small(2, nn.Identity()))
        return made[-1]

    monkeypatch.setattr(WellTrainingSet, "network", create)
    return made


def test_training_goes_on_in_parts_says_so_once_and_gives_the_weights_of_whole_batches(
    tmp_path, little_memory, capsys, monkeypatch
):
    train, chosen = wells(4, 2), tiny()
    parts = fit(chosen, train, tmp_path / "parts")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert "batches of 4" in line and "2 at a time" in line
    assert max(little_memory[0].seen[1:]) == 2
    monkeypatch.setattr(WellTrainingSet, "network", lambda self: Small(99, nn.Identity()))
    for name, weights in fit(chosen, train, tmp_path / "whole").items():
        torch.testing.assert_close(
            torch.from_numpy(parts[name]), torch.from_numpy(weights), rtol=1e-3, atol=1e-5
        )
    assert losses_of(tmp_path / "parts") == pytest.approx(losses_of(tmp_path / "whole"), abs=2e-6)


def test_a_training_in_parts_that_was_killed_goes_on_in_parts_to_the_same_bytes(
    tmp_path, little_memory, capsys
):
    train, chosen = wells(4, 2), tiny()

    def kill(share: float) -> None:
        if share > 0.5:
            raise InterruptedError

    fit(chosen, train, tmp_path / "undisturbed")
    with pytest.raises(InterruptedError):
        fit(chosen, train, tmp_path / "killed", report=kill)
    capsys.readouterr()
    fit(chosen, train, tmp_path / "killed")
    assert "out of memory" not in capsys.readouterr().out and max(little_memory[-1].seen) == 2
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
