"""Convolutions as products of matrices, beside torch's own."""

import pytest
import torch
from torch import nn

from src import networks
from src.networks import products
from src.networks.products import BlockUpsampling, DeepConv2d

LAYERS = {
    "blocks": (
        lambda: BlockUpsampling(3, 2, (3, 2)),
        lambda: nn.ConvTranspose2d(3, 2, (3, 2), stride=(3, 2)),
        (2, 3, 4, 5),
    ),
    "deep": (lambda: DeepConv2d(3, 2), lambda: nn.Conv2d(3, 2, 3, padding=1), (2, 3, 3, 2)),
    "deep without bias": (
        lambda: DeepConv2d(3, 2, bias=False),
        lambda: nn.Conv2d(3, 2, 3, padding=1, bias=False),
        (3, 3, 1, 3),
    ),
}


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three channels are enough for a product."""
    monkeypatch.setattr(products, "MANY_CHANNELS", 3)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_products_are_torchs_convolutions(name, layout, shallow):
    (build, builds, shape), _ = LAYERS[name], torch.manual_seed(0)
    ours, theirs = build(), builds()
    theirs.load_state_dict(ours.state_dict())
    inputs = [
        torch.randn(shape).contiguous(memory_format=layout).requires_grad_() for _ in range(2)
    ]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [layer(x) for layer, x in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    assert "Convolution" not in type(outputs[0].grad_fn).__name__
    gradient = torch.randn_like(outputs[1])
    for output in outputs:
        output.backward(gradient)
    for one, other in zip(
        (*inputs[:1], *ours.parameters()), (*inputs[1:], *theirs.parameters()), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_products_are_those_of_differences(name, shallow):
    build, _, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = build().double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("name", LAYERS)
def test_in_bfloat16_products_are_as_near_to_float32_as_torchs_convolutions(name, shallow):
    (build, builds, shape), _ = LAYERS[name], torch.manual_seed(0)
    ours, theirs, x = build(), builds(), torch.randn(shape)
    theirs.load_state_dict(ours.state_dict())
    exact = theirs(x)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [layer(x) for layer in (ours, theirs)]
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    errors = [(output.float() - exact).abs().max() for output in outputs]
    assert errors[0] <= 1.5 * errors[1] + 1e-3
    outputs[0].sum().backward()
    assert ours.weight.grad.dtype == torch.float32


def test_maps_that_are_large_or_shallow_go_to_torch():
    for channels, side, product in ((512, 3, True), (512, 4, False), (256, 3, False)):
        name = type(DeepConv2d(channels, 2)(torch.randn(1, channels, side, side)).grad_fn).__name__
        assert ("Convolution" not in name) == product


def test_only_cpus_multiply():
    with torch.device("meta"):
        assert (
            "Convolution"
            in type(BlockUpsampling(3, 2, 2)(torch.randn(1, 3, 2, 2)).grad_fn).__name__
        )


def test_cat_corroseg_is_the_same_network_with_products_and_without(monkeypatch):
    torch.manual_seed(0)
    network, x = networks.create({"name": "cat_corroseg"}).eval(), torch.randn(2, 1, 36, 36)
    with torch.no_grad():
        by_products = network(x)
        monkeypatch.setattr(products, "_by_product", lambda x: False)
        torch.testing.assert_close(by_products, network(x), rtol=1e-4, atol=1e-5)
