"""One task on several devices: two ranks on a CPU compute what one process does on the same
batches.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from src import networks
from src.artifacts import sealed
from src.terminal.errors import UserError
from src.training import ranks
from src.training import task as training
from tests.tiny import CPU, TASK, history, run_of, tiny, wells

LOSSES = {
    "smooth_iou": 1.0,
    "smooth_iou_per_patch": 0.5,
    "bce": 1.0,
    "lovasz": 0.5,
    "dice": 0.5,
    "tversky": 0.5,
    "focal": 1.0,
}


def chosen(epochs: int = 2):
    """Batches of 5, 5, 5 and 1 windows, which two ranks cannot share evenly, the last not at all;
    batch norm is frozen.

    Its statistics over all ranks need CUDA.
    """
    network = networks.create(tiny().members[0].network)
    norms = [
        name for name, layer in network.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)
    ]
    phase = {
        "epochs": epochs,
        "learning_rate": 0.01,
        "loss": LOSSES,
        "frozen": norms,
        "optimiser": "sgd",
    }
    return tiny(phase=[phase], batch_size=5, height=36, ema=0.5)


def trained(folder: Path, number: int, recipe=None) -> dict[str, np.ndarray]:
    run = run_of(folder, recipe or chosen(), wells(8, 3))
    run.task(TASK).mkdir(parents=True, exist_ok=True)
    ranks.run(number, CPU, training.fit_task, run, TASK, 1)
    return sealed.read_weights(run.weights(TASK))


def test_two_ranks_learn_what_one_process_learns(tmp_path):
    one, two = trained(tmp_path / "one", 1), trained(tmp_path / "two", 2)
    assert len(history(tmp_path / "two", "loss")) == 2
    np.testing.assert_allclose(
        history(tmp_path / "two", "loss"), history(tmp_path / "one", "loss"), rtol=2e-6
    )
    start = trained(tmp_path / "start", 1, chosen(1))
    moved = max(float(np.abs(one[name] - start[name]).max()) for name in one)
    assert moved > 1e-3  # of which a wrong gradient would be a large part
    for name in one:
        np.testing.assert_allclose(
            two[name], one[name], atol=1e-5 * moved + 1e-7, rtol=1e-4, err_msg=name
        )


def test_what_a_rank_says_is_one_line(tmp_path):
    with pytest.raises(UserError, match="frozen = "):
        trained(tmp_path, 2, tiny(phase=[{"epochs": 1, "frozen": ["nothing"]}]))


def test_pruning_and_picking_an_epoch_are_refused_on_several_gpus(tmp_path):
    pruned = tiny(phase=[{"epochs": 1, "pruning": {"method": "agp", "sparsity": 0.5}}])
    for chosen in (tiny(selection="best_on_held_out"), pruned):
        with pytest.raises(UserError, match="--gpus-per-task 2"):
            training.check(run_of(tmp_path, chosen), gpus=2)
