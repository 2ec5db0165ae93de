"""Depthwise convolutions under autocast: torch in float64 as the oracle."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn.functional import conv2d, pad

from src import networks
from src.networks.depthwise import DepthwiseConv2d, quicken


def layer(kernel: int, stride: int, same: bool) -> nn.Conv2d:
    kind = Conv2dSame if same else nn.Conv2d
    padding = 0 if same else kernel // 2
    return kind(6, 6, kernel, stride=stride, padding=padding, groups=6, bias=False)


def expected(x: torch.Tensor, weight: torch.Tensor, kernel: int, stride: int, same: bool):
    """What the layer computes, in the numbers' own precision."""
    # TensorFlow pads more at the end
    lack = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
    before = lack // 2 if same else kernel // 2
    after = lack - before if same else kernel // 2
    return conv2d(pad(x, (before, after, before, after)), weight, None, stride, 0, 1, 6)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_values_and_gradients_are_those_of_float64(kernel, stride, same):
    torch.manual_seed(0)
    network = quicken(nn.Sequential(layer(kernel, stride, same)))
    assert type(network[0]) is DepthwiseConv2d
    x = torch.randn(2, 6, 12, 12).bfloat16().float().requires_grad_()
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight.bfloat16())
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, network[0].weight)]
    result = expected(*exact, kernel, stride, same)
    along = torch.randn_like(result).bfloat16()
    result.backward(along.double())
    with torch.autocast("cpu", torch.bfloat16):
        own = network(x)
    assert own.dtype == torch.bfloat16
    own.backward(along)
    pairs = [(own, result), (x.grad, exact[0].grad), (network[0].weight.grad, exact[1].grad)]
    for found, true in pairs:
        assert found.shape == true.shape
        assert (found - true).abs().max() < 0.01 * true.abs().max()  # bfloat16 has 8 bits


@pytest.mark.parametrize("same", [False, True])
def test_without_autocast_it_is_the_layer_that_it_replaces(same):
    torch.manual_seed(0)
    whole = layer(5, 2, same)
    (quick,) = quicken(nn.Sequential(whole))
    x = torch.randn(1, 6, 9, 9)
    assert torch.equal(quick(x), whole(x))


def test_names_and_weights_of_a_network_stay_and_no_other_layer_is_replaced():
    network = networks.create({"name": "linknet", "encoder": "tf_efficientnet_lite0"})
    quick = [name for name, own in network.named_modules() if isinstance(own, DepthwiseConv2d)]
    assert quick and all(name.endswith("conv_dw") for name in quick)
    left = [own for own in network.modules() if type(own) in (nn.Conv2d, Conv2dSame)]
    assert not any(1 < own.groups == own.in_channels == own.out_channels for own in left)
    assert "network.encoder.model.blocks.0.0.conv_dw.weight" in network.state_dict()
