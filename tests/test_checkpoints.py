"""What lies in a checkpoint's place with a sound checksum, and is none of this task."""

import fractions
import hashlib
import io

import numpy as np
import pytest
import torch
from test_training import digest, fit, only, tiny, wells

from src.training import checkpoints

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
    **{f"no {key}": without(key) for key in ("epoch", "network", "history", "created_from")},
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


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The checkpoint of a training that was killed in its second epoch, and the digest of the
    weights of one that was not.
    """
    folder = tmp_path_factory.mktemp("trainings")
    with pytest.raises(Killed):
        fit(tiny(phase=PHASES), wells(2, 2), folder / "killed", report=kill)
    fit(tiny(phase=PHASES), wells(2, 2), folder / "undisturbed")
    return only(folder / "killed", "checkpoint.pt").read_bytes(), digest(folder / "undisturbed")


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_no_checkpoint_is_named_and_the_training_starts_again(
    killed, tmp_path, capsys, change
):
    content, undisturbed = killed
    state = torch.load(io.BytesIO(content[: -checkpoints.DIGEST]), weights_only=True)
    place = tmp_path / "runs/tiny/net/fold0_seed0/checkpoint.pt"
    checkpoints.save(change(state), place)
    fit(tiny(phase=PHASES), wells(2, 2), tmp_path)
    assert digest(tmp_path) == undisturbed
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"{place} holds something else than a checkpoint of this task: it starts again from its "
        "first epoch"
    )


@pytest.mark.parametrize("content", [b"", b"ten bytes.", bytes(100)], ids=len)
def test_bytes_that_are_no_checkpoint(killed, tmp_path, capsys, content):
    place = tmp_path / "runs/tiny/net/fold0_seed0/checkpoint.pt"
    place.parent.mkdir(parents=True)
    for more in (b"", hashlib.sha256(content).digest()):
        place.write_bytes(content + more)
        fit(tiny(phase=PHASES), wells(2, 2), tmp_path)
        assert digest(tmp_path) == killed[1]
        (line,) = capsys.readouterr().out.splitlines()
        assert str(place) in line and "starts again from its first epoch" in line


def test_a_network_that_is_to_be_pruned_is_not_changed_by_what_does_not_fit(tmp_path, capsys):
    """Channels are taken from the weights' shapes; those of something else must leave no trace."""
    chosen = tiny(phase=[{"epochs": 2, "learning_rate": 0.01, "pruning": CHANNELS}])
    with pytest.raises(Killed):
        fit(chosen, wells(2, 2), tmp_path / "killed", report=lambda share: kill(share / 2))
    fit(chosen, wells(2, 2), tmp_path / "undisturbed")
    place = only(tmp_path / "killed", "checkpoint.pt")
    state = torch.load(io.BytesIO(place.read_bytes()[: -checkpoints.DIGEST]), weights_only=True)
    for name in [name for name in state["network"] if name.startswith("encoder.0")]:
        tensor = state["network"][name]
        state["network"][name] = tensor[:1] if tensor.dim() else tensor
    del state["network"]["head.weight"]
    checkpoints.save(state, place)
    fit(chosen, wells(2, 2), tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "undisturbed")
    assert "something else than a checkpoint" in capsys.readouterr().out
