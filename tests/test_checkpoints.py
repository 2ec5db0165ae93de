"""What lies in a checkpoint's place with a sound checksum, and is none of this task."""

import fractions
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from src.artifacts import lineage, sealed
from src.training import checkpoints
from tests.tiny import TASK, content, fit, only, run_of, tiny, wells

PHASES = [{"epochs": 2, "learning_rate": 0.01}, {"epochs": 2, "learning_rate": 0.001}]
CHANNELS = {"method": "linear", "sparsity": 0.5, "steps": 1, "channels": True}


class Killed(Exception):
    pass


def kill(share: float) -> None:
    if share >= 0.25:
        raise Killed


def without(key: str):
    return lambda state: {name: value for name, value in state.items() if name != key}


def with_(**changes: object):
    return lambda state: state | changes


WRONG = {
    "a list": lambda state: [state],
    "a number": lambda state: 7,
    "a tensor": lambda state: torch.zeros(3),
    "weights alone": lambda state: state["network"],
    "another class": lambda state: fractions.Fraction(1, 2),
    "an array": lambda state: state | {"best_score": np.float64(1)},
    **{f"no {key}": without(key) for key in ("epoch", "network", "history")},
    "no optimiser": without("optimiser"),
    "no scores": without("scores"),
    "an epoch that is a text": with_(epoch="1"),
    "more epochs than lines": with_(epoch=3),
    "a history of numbers": with_(history=[1]),
    "a history without losses": with_(history=[{"epoch": 1}]),
    "no weights": with_(network={}),
    "weights that are numbers": with_(network=[1, 2]),
    "most that is a text": with_(most="all"),
}


def state_in(checkpoint: Path) -> dict:
    """What lies behind the first line of a checkpoint."""
    return torch.load(io.BytesIO(checkpoint.read_bytes().split(b"\n", 1)[1]), weights_only=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The state that a training left which was killed in its second epoch, and the weights' file
    of one that was not.
    """
    folder = tmp_path_factory.mktemp("trainings")
    with pytest.raises(Killed):
        fit(tiny(phase=PHASES), wells(2, 2), folder / "killed", report=kill)
    fit(tiny(phase=PHASES), wells(2, 2), folder / "undisturbed")
    return state_in(only(folder / "killed", "checkpoint.pt")), content(folder / "undisturbed")


@pytest.fixture
def run(tmp_path):
    """A run of the same recipe that has trained nothing yet."""
    run = run_of(tmp_path, tiny(phase=PHASES), wells(2, 2))
    run.task(TASK).mkdir(parents=True)
    return run


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_no_checkpoint_is_named_and_the_training_starts_again(
    killed, run, tmp_path, capsys, change
):
    state, undisturbed = killed
    checkpoints.save(change(state), lineage.weights(run, TASK), run.checkpoint(TASK))
    fit(run.recipe, wells(2, 2), tmp_path)
    assert content(tmp_path) == undisturbed
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"{run.checkpoint(TASK)} holds something else than a checkpoint of this task: it is made "
        "again"
    )


@pytest.mark.parametrize("damage", [b"", b"ten bytes.", bytes(100)], ids=len)
def test_bytes_that_are_no_checkpoint(killed, run, tmp_path, capsys, damage):
    """As they are, and behind a record of the right inputs with a sum that fits."""
    record = sealed.record(lineage.weights(run, TASK))
    for before, said in ((b"", "is damaged"), (record, "holds something else")):
        run.checkpoint(TASK).write_bytes(before + damage)
        if before:
            sealed.seal(run.checkpoint(TASK))
        fit(run.recipe, wells(2, 2), tmp_path)
        assert content(tmp_path) == killed[1]
        (line,) = capsys.readouterr().out.splitlines()
        assert str(run.checkpoint(TASK)) in line and said in line and "made again" in line


def test_a_record_that_cannot_be_read_is_no_checkpoint(killed, run, tmp_path):
    """A sum that fits, in a first line that says nothing of inputs."""
    for line in (b"no JSON " + sealed.NO_SUM.encode(), b"[]\n" + sealed.NO_SUM.encode()):
        run.checkpoint(TASK).write_bytes(line + b"\n")
        sealed.seal(run.checkpoint(TASK))
        fit(run.recipe, wells(2, 2), tmp_path)
        assert content(tmp_path) == killed[1]


@pytest.mark.parametrize(("fold", "seed"), [(1, 0), (0, 1)])
def test_a_checkpoint_of_another_fold_or_seed_is_named_and_not_resumed(
    killed, tmp_path, capsys, fold, seed
):
    with pytest.raises(Killed):
        fit(tiny(phase=PHASES), wells(2, 2), tmp_path / "other", fold, seed, report=kill)
    place = tmp_path / "runs/tiny/net/fold0_seed0/checkpoint.pt"
    place.parent.mkdir(parents=True)
    shutil.copy(only(tmp_path / "other", "checkpoint.pt"), place)
    shutil.rmtree(tmp_path / "other")
    fit(tiny(phase=PHASES), wells(2, 2), tmp_path)
    assert content(tmp_path) == killed[1]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"{place} belongs to net, fold {fold}, seed {seed}, not to net, fold 0, seed 0: it is made "
        "again"
    )


def test_a_network_that_is_to_be_pruned_is_not_changed_by_what_does_not_fit(tmp_path, capsys):
    """Channels are taken from the weights' shapes; those of something else must leave no trace."""
    chosen = tiny(phase=[{"epochs": 2, "learning_rate": 0.01, "pruning": CHANNELS}])
    with pytest.raises(Killed):
        fit(chosen, wells(2, 2), tmp_path / "killed", report=lambda share: kill(share / 2))
    fit(chosen, wells(2, 2), tmp_path / "undisturbed")
    place = only(tmp_path / "killed", "checkpoint.pt")
    state, inputs = state_in(place), sealed.inputs_of(place)
    for name in [name for name in state["network"] if name.startswith("encoder.0")]:
        tensor = state["network"][name]
        state["network"][name] = tensor[:1] if tensor.dim() else tensor
    del state["network"]["head.weight"]
    checkpoints.save(state, inputs, place)
    fit(chosen, wells(2, 2), tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert "something else than a checkpoint" in capsys.readouterr().out
