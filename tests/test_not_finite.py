"""A training that runs away ends in one line, and leaves nothing that a later stage would read."""

import numpy as np
import pytest
import torch
from test_training import fit, losses, tiny, wells

from src import artifacts
from src.artifacts import Paths
from src.recipe import Task
from src.terminal.errors import UserError
from src.training import loop
from src.wells import prediction
from src.wells.cleaning import Scaling

TASK = Task("net", 0, 0)


def test_a_loss_that_is_not_finite_stops_the_task_and_keeps_the_epochs_before(tmp_path):
    """The second phase runs away; the checkpoint and the history stay those of the first."""
    chosen = tiny(
        phase=[{"epochs": 2, "learning_rate": 0.01}, {"epochs": 3, "learning_rate": 1e30}]
    )
    paths = Paths(tmp_path, tmp_path)
    with pytest.raises(UserError) as caught:
        fit(chosen, wells(8, 3), tmp_path)
    assert str(caught.value).startswith(f"{paths.task(chosen, TASK)}: the loss is nan after epoch")
    assert "epoch 3, in phase 2 of 2: lower its learning_rate (1e+30)" in str(caught.value)
    assert len(losses(tmp_path)) == 2 and not paths.weights(chosen, TASK).exists()
    content = paths.checkpoint(chosen, TASK).read_bytes()
    assert content and not list(tmp_path.rglob("*.partial"))
    with pytest.raises(UserError, match="after epoch 3"):
        fit(chosen, wells(8, 3), tmp_path)
    assert paths.checkpoint(chosen, TASK).read_bytes() == content


@pytest.mark.parametrize("place", ["weight", "running_var"])
def test_weights_that_are_not_finite_are_not_kept_though_the_loss_was(tmp_path, place):
    """The last step of an epoch may ruin them, and no loss tells it any more."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.BatchNorm2d(1))
    task = loop.Fit(tiny(), TASK, Paths(tmp_path, tmp_path), {}, torch.device("cpu"))
    task.check_finite(network, 0.5, 0)
    getattr(network[1], place).data[0] = torch.inf
    with pytest.raises(UserError, match="the weights are not finite after epoch 1, in phase 1 of"):
        task.check_finite(network, 0.5, 0)


def test_probabilities_that_are_not_finite_are_not_written(tmp_path, monkeypatch):
    """Weights may be finite and still too large for what the network makes of them."""
    chosen, paths = tiny(), Paths(tmp_path, tmp_path)
    artifacts.write_splits(paths.prepared(chosen), {"train": wells(4, 2)}, {})
    network = torch.nn.Conv2d(1, 1, 1)
    network.bias.data[:] = torch.nan
    loaded = network, Scaling(np.zeros(()), np.ones(()))
    for module in (loop, prediction):
        monkeypatch.setattr(module, "load_network", lambda *_: loaded)
    with pytest.raises(UserError, match=r"weights\.safetensors: the network predicts"):
        loop._predict_held_out(chosen, TASK, paths, {}, torch.device("cpu"))
    artifacts.write_splits(paths.prepared(chosen), {"test": wells(4, 2)}, {})
    with pytest.raises(UserError, match=r"weights\.safetensors: the network predicts"):
        prediction.predict_test(chosen, TASK, paths, {}, torch.device("cpu"), 1)
    assert not list(tmp_path.glob("runs/**/*.h5"))
