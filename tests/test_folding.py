"""Networks folded for prediction, beside the same networks as they are."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from src import networks
from src.networks.folding import BitReLU, folded

NETWORKS = [
    {"name": "ring_unet", "channels": [4, 8, 8], "pool_rows": [3, 2], "pool_columns": [2, 1]},
    {"name": "cat_corroseg", "encoder": "resnet18"},
    {"name": "fcn_resnet50"},
    {"name": "xscat_unet"},
]


def trained(options: dict) -> nn.Module:
    """A network with batch statistics, scales and offsets that are not those of a fresh one;
    still in training mode.
    """
    torch.manual_seed(0)
    network = networks.create(options)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    for _ in range(3):
        network(2 * torch.randn(4, 1, 36, 36) + 1)
    return network


@pytest.mark.parametrize("options", NETWORKS, ids=lambda options: options["name"])
@torch.no_grad()
def test_a_folded_network_computes_the_same(options):
    network, x = (
        trained(options),
        torch.randn(2, 1, 36, 36).contiguous(memory_format=torch.channels_last),
    )
    before = copy.deepcopy(network.state_dict())
    small = folded(network, torch.float32)
    assert (
        all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        and network.training
    )
    logits = network.eval()(x)

    def chance(other: torch.Tensor) -> torch.Tensor:
        # an untrained network alone is in doubt everywhere
        return ((other - logits.mean()) / logits.std()).sigmoid()

    torch.testing.assert_close(chance(small(x)), chance(logits), rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        plain, half = (
            (chance(net(x).float()) - chance(logits)).abs().mean()
            for net in (network, folded(network, torch.bfloat16))
        )
    assert half < 1.5 * plain + 1e-4  # no further from float32 than bfloat16 is anyway


def test_what_folding_takes_out():
    small = folded(networks.create({"name": "ring_unet", "channels": [4, 8]}), torch.bfloat16)
    kinds = [type(layer) for layer in small.modules()]
    assert not {nn.BatchNorm2d, nn.ReLU} & {*kinds} and kinds.count(BitReLU) == 6
    assert {weights.dtype for weights in small.parameters()} == {torch.bfloat16}


def test_relu_by_bits_is_relu_for_every_number_of_bfloat16():
    x = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)
    x = x[~x.isnan()]
    assert torch.equal(BitReLU()(x.clone()), torch.relu(x))


def test_a_network_under_masks_or_of_others_is_predicted_as_it_is():
    network = networks.create({"name": "ring_unet", "channels": [4, 8]})
    prune.l1_unstructured(network.head, "weight", 0.5)
    assert folded(network, torch.float32) is network
    session = nn.Identity()
    session.held = (_ for _ in ())  # what cannot be copied, as a session of onnxruntime
    assert folded(session, torch.float32) is session
