"""A training that runs away ends in one line, and leaves nothing that a later stage would read."""

import numpy as np
import pytest
import torch

from src.artifacts import predictions
from src.networks.scaling import Scaling
from src.terminal.errors import UserError
from src.wells import prediction
from tests.tiny import CPU, TASK, fit, losses, prepare_fit, run_of, tiny, wells


def test_a_loss_that_is_not_finite_stops_the_task_and_keeps_the_epochs_before(tmp_path):
    """The second phase runs away; the checkpoint and the history stay those of the first."""
    chosen = tiny(
        phase=[{"epochs": 2, "learning_rate": 0.01}, {"epochs": 3, "learning_rate": 1e30}]
    )
    run = run_of(tmp_path, chosen)
    with pytest.raises(UserError) as caught:
        fit(chosen, wells(8, 3), tmp_path)
    assert str(caught.value).startswith(f"{run.task(TASK)}: the loss is nan after epoch")
    assert "epoch 3, in phase 2 of 2: lower its learning_rate (1e+30)" in str(caught.value)
    assert len(losses(tmp_path)) == 2 and not run.weights(TASK).exists()
    content = run.checkpoint(TASK).read_bytes()
    assert content and not list(tmp_path.rglob("*.partial"))
    with pytest.raises(UserError, match="after epoch 3"):
        fit(chosen, wells(8, 3), tmp_path)
    assert run.checkpoint(TASK).read_bytes() == content


@pytest.mark.parametrize("place", ["weight", "running_var"])
def test_weights_that_are_not_finite_are_not_kept_though_the_loss_was(tmp_path, place):
    """The last step of an epoch may ruin them, and no loss tells it any more."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.BatchNorm2d(1))
    fitting = prepare_fit(tiny(), wells(2, 2), tmp_path)
    fitting.network = network
    fitting.check_finite(0.5, 0)
    getattr(network[1], place).data[0] = torch.inf
    with pytest.raises(UserError, match="the weights are not finite after epoch 1, in phase 1 of"):
        fitting.check_finite(0.5, 0)


def test_probabilities_that_are_not_finite_are_not_written(tmp_path, monkeypatch):
    """Weights may be finite and still too large for what the network makes of them."""
    run = run_of(tmp_path, tiny(), wells(4, 2), wells(4, 2))
    network = torch.nn.Conv2d(1, 1, 1)
    network.bias.data[:] = torch.nan
    loaded = network, Scaling(np.zeros(()), np.ones(()))
    monkeypatch.setattr(prediction, "load_network", lambda *_: loaded)
    for split, path in (("train", run.oof(TASK)), ("test", run.test(TASK))):
        told = run.modality.predict(run, TASK, split, CPU)
        with pytest.raises(UserError, match=f"{path}: the network predicts .* not finite"):
            predictions.write(path, told, {}, run.progress(TASK))
    assert not list(tmp_path.glob("runs/**/*.h5"))
