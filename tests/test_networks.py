"""Networks: shapes, sizes, and the ring that they respect."""

import numpy as np
import pytest
import torch

from src import networks
from src.errors import UserError
from src.networks.layers import RingConv2d


def test_ring_convolution_wraps_azimuth_and_repeats_depth():
    torch.manual_seed(0)
    conv = RingConv2d(2, 3)
    x = torch.randn(1, 2, 8, 6)
    padded = np.pad(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 0), (1, 1)), mode="wrap"), ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    expected = torch.nn.functional.conv2d(torch.from_numpy(padded), conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), expected)


def test_ring_unet_commutes_with_rolls_of_its_grid():
    torch.manual_seed(0)
    network = networks.create({"name": "ring_unet", "channels": [4, 8, 12]}).eval()
    x = torch.randn(2, 1, 48, 36)
    torch.testing.assert_close(network(x.roll(8, dims=3)), network(x).roll(8, dims=3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("height", [36, 72, 144])
def test_ring_unet_takes_windows_taller_than_a_patch(height):
    assert networks.create({"name": "ring_unet"})(torch.randn(2, 1, height, 36)).shape == (2, 1, height, 36)


def test_ring_unet_is_small():
    count = sum(weights.numel() for weights in networks.create({"name": "ring_unet"}).parameters())
    assert 0.1e6 < count < 0.5e6


def test_cat_corroseg_matches_the_papers_count_less_the_unused_classifier():
    network = networks.create({"name": "cat_corroseg"})
    unused_classifier = 2048 * 1000 + 1000
    count = sum(weights.numel() for weights in network.parameters())
    assert count + unused_classifier == pytest.approx(73.9e6, rel=0.01)


def test_cat_corroseg_has_the_papers_feature_sizes():
    network = networks.create({"name": "cat_corroseg"}).eval()
    features = network.encoder(torch.randn(1, 1, 36, 36))
    assert [tuple(feature.shape[1:3]) for feature in features] == [(64, 18), (256, 9), (512, 5), (1024, 3), (2048, 2)]
    assert network(torch.randn(1, 1, 36, 36)).shape == (1, 1, 36, 36)


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({"name": "ring_unit"}, "ring_unet"),
        ({"name": "ring_unet", "chanels": [8, 16]}, "channels"),
        ({"name": "ring_unet", "channels": 5}, "ring_unet"),
    ],
)
def test_a_wrong_network_table_is_one_line_with_a_hint(table, hint):
    with pytest.raises(UserError, match=hint) as caught:
        networks.create(table)
    assert "\n" not in str(caught.value)
