"""Tiny wells, a tiny recipe for them, and runs of it in folders of their own."""

import csv
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from src import networks, recipe
from src.artifacts import digests, hdf5, sealed
from src.artifacts.run import Run
from src.competitions.metrics import iou
from src.modality import open_run
from src.networks.scaling import Scaling
from src.recipe import Task
from src.scoring import metrics
from src.training.loop import Fit
from src.wells import prediction

CPU = torch.device("cpu")
TASK = Task("net", 0, 0)
Arrays = dict[str, np.ndarray]
patch_iou = partial(metrics.score, iou)  # that of the CorroSeg challenge


def wells(patches: int, groups: int, seed: int = 0) -> Arrays:
    """A split of `groups` contiguous wells with grooves that any network can learn."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, (groups * patches, 36, 36)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    for row in range(len(image)):
        start = int(rng.integers(0, 36))
        mask[row][:, [(start + column) % 36 for column in range(4)]] = 1
    image -= 6 * mask
    group = np.repeat(np.arange(1, groups + 1), patches).astype(np.int32)
    depth = np.tile(np.arange(patches), groups).astype(np.int32)
    return {
        "name": np.array(
            [f"well_{g}_patch_{d}" for g, d in zip(group, depth, strict=True)], object
        ),
        "image": image,
        "valid": np.ones(image.shape, bool),
        "mask": mask,
        "group": group,
        "depth": depth,
        "parity": np.zeros(len(image), np.int32),
        "fold": (group - 1).astype(np.int8),
    }


def tiny(**member: object) -> recipe.Recipe:
    """A recipe of one small network, but for what of its member is given otherwise."""
    settings = {
        "name": "net",
        "network": {"name": "ring_unet", "channels": [4, 8]},
        "batch_size": 4,
        "precision": "float32",
        "phase": [{"epochs": 2, "learning_rate": 0.01}],
        **member,
    }
    return recipe.parse(
        {"name": "tiny", "competition": "demo", "folds": {"count": 2}, "member": [settings]}, "test"
    )


def run_of(
    folder: Path,
    chosen: recipe.Recipe | None = None,
    train: Arrays | None = None,
    test: Arrays | None = None,
) -> Run:
    """A run of wells in a folder, and its prepared files where their arrays are given."""
    run = open_run(chosen or tiny(), folder, folder)
    for split, arrays in (("train", train), ("test", test)):
        if arrays is not None:
            hdf5.write(run.prepared(split), arrays, {})
    return run


def prepare_fit(chosen: recipe.Recipe, train: Arrays, folder: Path, task: Task = TASK) -> Fit:
    """A training of one task, not yet begun."""
    run = run_of(folder, chosen, train)
    return Fit(run, task, run.modality.training_set(run, task, CPU, 1), CPU)


def fit(
    chosen: recipe.Recipe,
    train: Arrays,
    folder: Path,
    fold: int = 0,
    seed: int = 0,
    report: Callable[[float], None] = lambda share: None,
) -> Arrays:
    """The weights of one task, trained in a folder of its own."""
    fitting = prepare_fit(chosen, train, folder, Task("net", fold, seed))
    fitting.run(lambda share, words: report(share))
    return sealed.read_weights(fitting.at.weights(fitting.task))


def only(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"**/{name}")
    return path


def content(folder: Path) -> bytes:
    """Every byte of the one task's weights."""
    return only(folder, "weights.safetensors").read_bytes()


def digest(folder: Path) -> str:
    """That of the weights alone, without what their file says that they are made from."""
    arrays = sealed.read_weights(only(folder, "weights.safetensors"))
    return digests.digest(*(part for pair in sorted(arrays.items()) for part in pair))


def history(folder: Path, column: str) -> list[float]:
    return [float(line[column]) for line in csv.DictReader(only(folder, "history.csv").open())]


def losses(folder: Path) -> list[float]:
    return history(folder, "loss")


def loaded(chosen: recipe.Recipe, folder: Path) -> tuple[nn.Module, Scaling]:
    """The network of the one task's weights, and the scaling of its input."""
    arrays = sealed.read_weights(only(folder, "weights.safetensors"))
    scaling = Scaling(arrays.pop("scaling.center"), arrays.pop("scaling.scale"))
    network = networks.create(chosen.members[0].network)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return network.eval(), scaling


def held_out(network: nn.Module, scaling: Scaling, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Names and probabilities of the patches of the task's held-out fold."""
    found = list(prediction.predict_held_out(network, scaling, run, TASK, CPU))
    name, probability = (
        np.concatenate([block[key] for block in found]) for key in ("name", "probability")
    )
    return name, probability


def rewrite(path: Path, content: bytes) -> None:
    """Other bytes in a file's place, as a new file: what is known of the old one is forgotten."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))
