"""Prediction: in windows taller than those of training where that is as good, and a few wells at
a time.
"""

import numpy as np
import pytest
import torch

from src import networks
from src.artifacts import hdf5, lineage, sealed
from src.recipe import Inference, Member, Recipe, Task
from src.stages.predict import predict_task
from src.wells import blocks, prediction
from tests import tiny
from tests.tiny import CPU


def member(height: int, margin: int) -> Member:
    network = {"name": "ring_unet", "channels": [4, 8]}
    return Member(
        name="net",
        network=network,
        height=height,
        margin=margin,
        batch_size=4,
        precision="float32",
        phase=[{"epochs": 1}],
    )


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
    return {"image": image, "group": group, "depth": depth, "parity": np.zeros_like(group)}


def test_taller_windows_give_the_same_probabilities(monkeypatch):
    chosen, arrays = member(48, 14), wells(40, 7)
    network = network_of(chosen)
    assert prediction.window_height(network, arrays, chosen, CPU) > 48
    tall = prediction.predict(network, arrays, chosen, Inference(), CPU)
    monkeypatch.setattr(prediction, "window_height", lambda *_: 48)
    plain = prediction.predict(network, arrays, chosen, Inference(), CPU)
    assert plain.std() > 0.01
    np.testing.assert_allclose(tall.astype(float), plain.astype(float), atol=1e-3)


def test_taller_windows_come_nearer_to_a_strip_seen_whole_where_the_margin_is_small(monkeypatch):
    chosen, arrays = member(48, 4), wells(46)
    network, once = network_of(chosen), Inference(flips=False)
    whole = np.pad(arrays["image"].reshape(552, 12), ((16, 16), (0, 0)), mode="edge")
    with torch.no_grad():
        expected = (
            network(torch.from_numpy(whole)[None, None])
            .sigmoid()[0, 0, 16:-16]
            .numpy()
            .reshape(46, 12, 12)
        )
    tall = np.abs(prediction.predict(network, arrays, chosen, once, CPU)[:, 0] - expected)
    monkeypatch.setattr(prediction, "window_height", lambda *_: 48)
    plain = np.abs(prediction.predict(network, arrays, chosen, once, CPU)[:, 0] - expected)
    assert 0 < tall.mean() < 0.7 * plain.mean() and tall.max() <= plain.max()


class SeesWhole(torch.nn.Module):
    """A network that adds to each pixel what it sees of the whole window."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) + x.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize(("margin", "whole"), [(0, False), (14, True), (4, True)])
def test_windows_stay_as_they_are_where_taller_ones_save_nothing_or_are_looked_at_whole(
    margin, whole
):
    chosen = member(48, margin)
    network = network_of(chosen)
    network = SeesWhole(network) if whole else network
    assert prediction.window_height(network, wells(40), chosen, CPU) == 48


def test_windows_stay_as_they_are_for_a_network_that_takes_no_others():
    chosen = member(36, 4).model_copy(update={"network": {"name": "baseline_cnn", "pooling": True}})
    image = np.zeros((20, 36, 36), np.float32)
    arrays = {
        "image": image,
        "group": np.zeros(20, int),
        "depth": np.arange(20),
        "parity": np.zeros(20, int),
    }
    assert prediction.window_height(networks.create(chosen.network), arrays, chosen, CPU) == 36


def test_windows_stay_as_they_are_where_taller_ones_would_be_mostly_empty():
    chosen = member(48, 14)
    assert prediction.window_height(network_of(chosen), wells(*[2] * 9), chosen, CPU) == 48


def test_batch_statistics_of_a_long_well_are_those_of_some_of_its_windows(monkeypatch):
    """Half of the windows of noise tell the mean of the first batch norm, from the first
    convolution of everything.
    """
    chosen, arrays = member(48, 0), wells(200)
    network = network_of(chosen)
    with torch.no_grad():
        expected = network.encoder[0][0](
            torch.from_numpy(arrays["image"].reshape(1, 1, -1, 12))
        ).mean((0, 2, 3))
    seen = []
    monkeypatch.setattr(prediction, "ADABN_ROWS", 25 * 48 - 10)
    monkeypatch.setattr(
        prediction.Windows,
        "inputs",
        lambda self, starts, real=prediction.Windows.inputs: (
            seen.append(starts) or real(self, starts)
        ),
    )
    got = prediction.adabn(network, arrays, chosen, CPU).encoder[0][1].running_mean
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)
    assert len(torch.cat(seen).unique()) == 25 and torch.cat(seen).diff().lt(0).any()


def test_the_test_set_is_predicted_a_few_wells_at_a_time_as_it_is_at_once(tmp_path, monkeypatch):
    chosen = Recipe(
        name="tiny", competition="demo", member=[member(24, 4)], inference={"adabn": 0.5}
    )
    test = wells(3, 9, 4, 4)
    order = np.random.default_rng(1).permutation(20)
    test = blocks.rows_of(test | {"name": np.array([f"patch {row}" for row in range(20)])}, order)
    run, task = tiny.run_of(tmp_path, chosen, wells(1), test), Task("net", 0, 0)
    network = network_of(chosen.members[0])
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    scaling = {"scaling.center": np.float32(0.5), "scaling.scale": np.float32(2)}
    sealed.write_weights(run.weights(task), weights | scaling, lineage.weights(run, task))
    largest, real = [], prediction.predict
    monkeypatch.setattr(
        prediction,
        "predict",
        lambda network, arrays, *more: (
            largest.append(len(arrays["group"])) or real(network, arrays, *more)
        ),
    )
    monkeypatch.setattr(blocks, "PATCHES", 8)
    predict_task(run, task, CPU, 1)
    assert sorted(largest) == [3, 8, 9]
    got = hdf5.read(run.test(task), "name", "probability")
    expected = real(
        network,
        test | {"image": (test["image"] - 0.5) / 2},
        chosen.members[0],
        chosen.inference,
        CPU,
    )
    place = {name: row for row, name in enumerate(test["name"])}
    np.testing.assert_allclose(
        got["probability"].astype(float),
        expected[[place[name] for name in got["name"]]].astype(float),
        atol=1e-3,
    )
    assert sorted(got["name"]) == sorted(test["name"])
    assert sealed.up_to_date(run.test(task), lineage.test(run, task))
    assert not run.progress(task).exists()


def test_the_held_out_fold_is_predicted_with_its_whole_wells_and_kept_alone(tmp_path):
    """A patch that does not count still shows the network what lies beside its neighbours."""
    chosen = Recipe(name="tiny", competition="demo", member=[member(24, 4)])
    train = wells(5, 4)
    train |= {
        "name": np.array([f"patch {row}" for row in range(9)]),
        "valid": np.ones(train["image"].shape, bool),
        "fold": np.array([0, -1, 0, 0, 0, 1, 1, 1, 1], np.int8),
    }
    run, task = tiny.run_of(tmp_path, chosen, train), Task("net", 0, 0)
    network = network_of(chosen.members[0])
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    scaling = {"scaling.center": np.float32(0), "scaling.scale": np.float32(1)}
    sealed.write_weights(run.weights(task), weights | scaling, lineage.weights(run, task))
    told = prediction.predict_split(run, task, "train", CPU)
    assert told.names.tolist() == ["patch 0", "patch 2", "patch 3", "patch 4"]
    whole = prediction.predict(
        network,
        blocks.rows_of(train, np.arange(5)),
        chosen.members[0],
        chosen.inference,
        CPU,
    )
    np.testing.assert_array_equal(np.concatenate(list(told.batches)), whole[[0, 2, 3, 4]])
    assert told.shape == (1, 12, 12)
