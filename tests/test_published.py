"""The published designs: their sizes, and that their gates, their attention and their doubled
ring do what the descriptions say.
"""

import numpy as np
import pytest
import torch
from torch import nn

from src import networks
from src.networks.published import CBAM, AttentionGate, Doubled, GatedStep


@pytest.mark.parametrize(
    ("name", "described"), [("plain_unet", 0.4e6), ("attention_unet", 0.132e6)]
)
def test_parameters(name, described):
    count = sum(weights.numel() for weights in networks.create({"name": name}).parameters())
    assert count == pytest.approx(described, rel=0.05)


@pytest.mark.parametrize("name", ["plain_unet", "attention_unet"])
def test_both_take_sections_of_360_rows(name):
    assert networks.create({"name": name})(torch.randn(2, 1, 360, 36)).shape == (2, 1, 360, 36)


def test_plain_unet_is_plain():
    network = networks.create({"name": "plain_unet"})
    assert not any(
        isinstance(module, nn.BatchNorm2d | nn.MaxPool2d) for module in network.modules()
    )
    assert [
        sum(isinstance(layer, nn.Conv2d) for layer in block)
        for block in (*network.encoder, *network.decoder)
    ] == [3] * 5
    assert [down.stride for down in network.down] == [(2, 2), (2, 2)]


def test_plain_unet_keeps_the_scale_of_its_input_through_its_encoder():
    torch.manual_seed(0)
    network, seen = networks.create({"name": "plain_unet"}), []
    for block in network.encoder:
        block.register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.square().mean().sqrt().item())
        )
    network(torch.randn(8, 1, 36, 36))
    assert len(seen) == 3 and all(0.3 < scale < 3 for scale in seen)


def test_the_gate_weighs_the_skip_by_hand():
    gate = AttentionGate(2)
    with torch.no_grad():
        gate.of_skip.weight.copy_(torch.tensor([[[[2.0]], [[-1.0]]]]))
        gate.of_gating.weight.copy_(torch.tensor([[[[1.0]], [[1.0]]]]))
        gate.of_gating.bias.fill_(0.5)
        gate.factor.weight.fill_(3.0)
        gate.factor.bias.fill_(-4.0)
    skip = torch.tensor([1.0, 0.5]).reshape(1, 2, 1, 1)
    gating = torch.tensor([0.25, -1.0]).reshape(1, 2, 1, 1)
    # 2 - .5 + .25 - 1 + .5 = 1.25, positive; 3 * 1.25 - 4 = -.25
    torch.testing.assert_close(gate(skip, gating), skip / (1 + np.exp(0.25)))


def test_a_closed_gate_hides_the_skip_and_an_open_one_shows_it_all():
    torch.manual_seed(0)
    step = GatedStep(8, 4).eval()
    y, skip = torch.randn(2, 8, 5, 6), torch.randn(2, 4, 9, 12)
    with torch.no_grad():
        step.gate.factor.weight.zero_()
        step.gate.factor.bias.fill_(-200)
        assert not step.gate(skip, step.up(y)[:, :, :9]).any()
        assert torch.equal(step(y, skip), step(y, torch.randn_like(skip)))
        step.gate.factor.bias.fill_(200)
        assert torch.equal(step.gate(skip, step.up(y)[:, :, :9]), skip)
        assert not torch.equal(step(y, skip), step(y, torch.randn_like(skip)))


def test_every_skip_of_attention_unet_is_gated():
    """With all gates closed, no step's output depends on its skip."""
    torch.manual_seed(0)
    network, skips = networks.create({"name": "attention_unet", "doubled": False}).eval(), []
    for step in network.steps:
        step.gate.register_forward_pre_hook(
            lambda _module, inputs: skips.append(inputs[0].retain_grad() or inputs[0])
        )
        step.gate.factor.bias.data.fill_(-200)
    network(torch.randn(1, 1, 36, 36)).sum().backward()
    for step in network.steps:
        step.gate.factor.bias.data.fill_(0)
    network(torch.randn(1, 1, 36, 36)).sum().backward()
    assert [tuple(skip.shape[1:]) for skip in skips] == [(32, 9, 9), (16, 18, 18), (8, 36, 36)] * 2
    # The finest skip is followed by a pooling and by its gate; through the closed gate nothing
    # comes back but what the pooling lets by.
    assert (skips[2].grad != 0).float().mean() <= 0.25
    assert (skips[5].grad != 0).float().mean() > 0.9


def test_cbam_by_loops():
    torch.manual_seed(0)
    attention, x = CBAM(8), torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        got = attention(x).numpy()
        w1, b1, w2, b2 = (p.numpy().astype(float) for p in attention.channels.parameters())
        kernel, bias = attention.pixels.weight.numpy()[0], attention.pixels.bias.item()
    for image, result in zip(x.numpy().astype(float), got, strict=True):
        hidden = [
            np.maximum(w1 @ pooled + b1, 0) for pooled in (image.mean((1, 2)), image.max((1, 2)))
        ]
        by_channel = sum(w2 @ h + b2 for h in hidden)
        image = image / (1 + np.exp(-by_channel))[:, None, None]
        padded = np.pad(np.stack([image.mean(0), image.max(0)]), ((0, 0), (3, 3), (3, 3)))
        for row in range(5):
            for column in range(6):
                at = (padded[:, row : row + 7, column : column + 7] * kernel).sum() + bias
                np.testing.assert_allclose(
                    result[:, row, column],
                    image[:, row, column] / (1 + np.exp(-at)),
                    rtol=1e-4,
                    atol=1e-6,
                )


def test_cbam_has_the_hidden_units_it_says():
    assert [CBAM(channels).channels[0].out_features for channels in (1, 8, 64)] == [1, 2, 16]


@pytest.mark.parametrize("width", [36, 35])
def test_doubling_is_a_closed_ring_for_what_looks_no_further_than_half_around(width):
    torch.manual_seed(0)
    reach = width // 2
    conv, wider = (nn.Conv2d(1, 1, (3, 2 * r + 1), padding=(1, r)) for r in (reach, reach + 2))
    x = torch.randn(2, 1, 8, width)
    ring = torch.nn.functional.pad(x, (reach, reach, 0, 0), mode="circular")
    torch.testing.assert_close(
        Doubled(conv)(x), nn.functional.conv2d(ring, conv.weight, conv.bias, padding=(1, 0))
    )
    for roll in (1, 7, 20):
        torch.testing.assert_close(Doubled(conv)(x.roll(roll, 3)), Doubled(conv)(x).roll(roll, 3))
    assert not torch.allclose(Doubled(wider)(x.roll(7, 3)), Doubled(wider)(x).roll(7, 3), atol=1e-3)


def test_doubling_shows_each_column_twice():
    seen = []

    class Keep(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    x = torch.arange(36.0).expand(1, 1, 2, 36)
    assert torch.equal(Doubled(Keep())(x), x)
    assert torch.equal(seen[0][0, 0, 0], torch.arange(18, 90) % 36)


def test_doubled_attention_unet_hardly_sees_where_the_seam_is():
    """It looks further than half around, so that rolling by its grid of 8 columns is no exact
    symmetry, but nearly.
    """
    errors = {}
    for doubled in (True, False):
        torch.manual_seed(0)
        network = networks.create({"name": "attention_unet", "doubled": doubled})
        x = torch.randn(4, 1, 72, 36)
        with torch.no_grad():
            for _ in range(20):
                network(torch.randn(8, 1, 72, 36))  # gives batch norm its statistics
            network.eval()
            logits = network(x)
            errors[doubled] = (
                (network(x.roll(16, 3)) - logits.roll(16, 3)).abs().mean() / logits.std()
            ).item()
    assert errors[True] < errors[False] / 5
