"""Prediction in windows taller than those of training: only where it changes nothing."""

import numpy as np
import pytest
import torch

from src import inference, networks
from src.recipe import Inference, Member

CPU = torch.device("cpu")


def member(height: int, margin: int) -> Member:
    network = {"name": "ring_unet", "channels": [4, 8]}
    return Member(name="net", network=network, height=height, margin=margin, batch_size=4, precision="float32", phase=[{"epochs": 1}])


def network_of(chosen: Member) -> torch.nn.Module:
    """With batch statistics that are not those of a fresh network, and in less doubt."""
    torch.manual_seed(0)
    network = networks.create(chosen.network)
    with torch.no_grad():
        network.head.weight *= 200
    for _ in range(3):
        network(2 * torch.randn(4, 1, 48, 12) + 1)
    return network.eval()


def wells(*patches: int) -> dict[str, np.ndarray]:
    group = np.repeat(np.arange(len(patches)), patches)
    image = np.random.default_rng(0).normal(0, 1, (len(group), 12, 12)).astype(np.float32)
    depth = np.concatenate([np.arange(count) for count in patches])
    return {"image": image, "group": group, "depth": depth, "phase": np.zeros_like(group)}


def test_taller_windows_give_the_same_probabilities(monkeypatch):
    chosen, arrays = member(48, 14), wells(40, 7)
    network = network_of(chosen)
    assert inference.window_height(network, arrays, chosen, CPU) > 48
    tall = inference.predict(network, arrays, chosen, Inference(rolls=[0, 5]), CPU)
    monkeypatch.setattr(inference, "window_height", lambda *_: 48)
    plain = inference.predict(network, arrays, chosen, Inference(rolls=[0, 5]), CPU)
    assert plain.std() > 0.01
    np.testing.assert_allclose(tall.astype(float), plain.astype(float), atol=1e-3)


@pytest.mark.parametrize("margin", [0, 4])
def test_windows_stay_as_they_are_where_a_row_sees_further_than_the_margin(margin):
    chosen = member(48, margin)
    assert inference.window_height(network_of(chosen), wells(40), chosen, CPU) == 48


def test_windows_stay_as_they_are_where_taller_ones_would_be_mostly_empty():
    chosen = member(48, 14)
    assert inference.window_height(network_of(chosen), wells(*[2] * 9), chosen, CPU) == 48
