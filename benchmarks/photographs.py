"""Photographs a second: the input pipeline beside the network that it feeds, and beside reading the
raw files themselves; for one class in the competition "folder" whole training beside the loop of a
tutorial (`benchmarks.tutorial`), in turns.

Usage: python -m benchmarks.photographs RECIPE [--set KEY.PATH=VALUE], after stage 00 of that
recipe.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count, islice
from unittest.mock import patch

import numpy as np
import torch

from benchmarks import tutorial
from benchmarks.timing import compare
from src import networks
from src.artifacts.run import Run
from src.networks.devices import LAYOUT, autocast, choose_device, keep_memory
from src.photographs.batches import PhotoTrainingSet
from src.photographs.dataset import PhotoDataset
from src.recipe import Member, Task
from src.stages.opening import open_run
from src.terminal import command
from src.training.data import Batch
from src.training.loop import Fit
from src.training.losses import of_phase

REPEATS, BATCHES = 5, 12


def show(title: str, step: Callable[[], int]) -> None:
    """Print the median and range of photographs a second over `REPEATS`, after one that is not
    counted.
    """
    rates = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        count = step()
        rates.append(count / (time.perf_counter() - began))
    print(
        f"{title:60}{statistics.median(rates[1:]):9.1f}   ({min(rates[1:]):.1f} to "
        f"{max(rates[1:]):.1f})",
        flush=True,
    )


def reading(run: Run, train: PhotoDataset, order: list[int]) -> None:
    raw = run.competition.read(run.raw, run.recipe.data)

    def decode() -> int:
        return len([(raw.train.read_image(row), raw.train.read_mask(row)) for row in order])

    def read() -> int:
        return len([(train.image(row), train.mask(row)) for row in order])

    show("image and mask decoded from the raw files", decode)
    show("image and mask from the prepared file", read)


def drawing(source: PhotoTrainingSet) -> None:
    """What training waits for: crops read, stacked and augmented."""
    batches = iter(source.epoch(0, 0)[1])
    next(batches)  # the processes that read have started
    where = (
        f"{source.workers} processes beside" if source.workers else ("the training process itself")
    )
    show(
        f"{source.member.name}: batches drawn by {where}",
        lambda: sum(len(next(batches)[0]) for _ in range(BATCHES)),
    )


def training(network: torch.nn.Module, member: Member, batch: Batch, device: torch.device) -> None:
    """Forward and backward on one batch, again and again."""
    loss_of = of_phase(member.phases[0], member.activation)
    network = network.to(device, memory_format=LAYOUT).train()

    def step() -> int:
        with autocast(member, device):
            logits = network(batch[0].contiguous(memory_format=LAYOUT))
        loss_of(logits, *batch[1:]).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(batch[0])

    show(f"{member.name}: forward and backward, batches of {tuple(batch[0].shape)}", step)


def beside_tutorial(source: PhotoTrainingSet) -> None:
    """Whole training, with reading, augmentation and update, on all cores: this project's loop, and
    the tutorial's on the same encoder and with the library's decoder as it comes or, of a U-Net, as
    narrow as the recipe's.
    """
    run, member = source.run, source.member
    fit = Fit(run, source.task, source, source.device)
    fit.begin(member.phases[0], resumed=False)
    draw = source.epoch  # which is another one below
    stream = chain.from_iterable(draw(epoch, epoch)[1] for epoch in count())

    def ours() -> None:
        with patch.object(PhotoTrainingSet, "epoch", lambda *_: (BATCHES, islice(stream, BATCHES))):
            fit.epoch(0, lambda share, words: None)

    names = source.dataset.name[source.rows].tolist()
    (size, _), how = source.member.photograph.resize, tutorial.scaling_of(member)
    pairs = tutorial.Pairs(run.raw / "train", names, size, how, train=True)
    own = member.model_copy(update={"network": networks.untrained(member.network)})
    narrow = networks.create(run.modality.network_options(run, own)).network
    for title, network in (("", tutorial.network_of(own)), (", same decoder", narrow)):
        theirs = tutorial.training(network, pairs, own)
        compare(
            f"training `{member.name}` at {size}x{size}, {torch.get_num_threads()} threads",
            f"a tutorial's loop in float32{title}",
            BATCHES * member.batch_size,
            "photographs",
            ours,
            lambda theirs=theirs: sum(islice(theirs, BATCHES)),
            REPEATS,
        )


def main(options: argparse.Namespace) -> None:
    run, device = open_run(options), choose_device(options.device)
    keep_memory()  # as training does; the tutorial's loop gains by it too
    train = PhotoDataset.open(run, "train")
    print(
        f"{len(train.name)} training photographs; {device}, {torch.get_num_threads()} threads; "
        "photographs a second, median (range)"
    )
    order = np.random.default_rng(0).permutation(len(train.name))[: 5 * BATCHES].tolist()
    reading(run, train, order)
    for member in run.recipe.members:
        source = PhotoTrainingSet.of(run, Task(member.name, 0, 0), device, 0)
        for workers in (0, 2):
            drawing(replace(source, workers=workers))
        batch = next(iter(source.epoch(0, 0)[1]))
        options_of = networks.untrained(run.modality.network_options(run, member))
        training(networks.create(options_of), member, batch, device)
        if member.network["name"] in tutorial.NETWORKS and member.photograph.resize:
            beside_tutorial(source)


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
