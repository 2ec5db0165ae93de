"""Networks beside what is usually written instead: their batches, training and predictions."""

from collections.abc import Callable, Iterator
from itertools import chain, count, islice
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import plain
from benchmarks.cases import Bench
from benchmarks.timing import Comparison, compare
from src import networks
from src.artifacts.sealed import Arrays
from src.networks import devices
from src.recipe import Augment, Inference, Member, Task, load
from src.training.data import Batch
from src.training.loop import OPTIMISERS, Fit
from src.training.losses import of_phase
from src.wells import blocks, prediction
from src.wells.batches import WellTrainingSet
from src.wells.windows import Windows

CPU = torch.device("cpu")
WINDOWS = {"near": 4, "far": 4, "cat": 1}  # batches of a repetition


def batches(source: WellTrainingSet) -> Iterator[Batch]:
    """Epoch after epoch."""
    return chain.from_iterable(source.epoch(epoch, epoch)[1] for epoch in count())


def pipeline(bench: Bench) -> list[Comparison]:
    """Batches of 128 patches, flipped along both axes and rolled around the ring at random, and
    nothing else.
    """
    train = bench.train()
    member = bench.recipe.members[0].model_copy(
        update={"height": 36, "margin": 0, "batch_size": 128, "augment": Augment(depth_shift=False)}
    )
    source = _source(bench, member, train)
    folder, number = bench.run.data / "patch_files", 512 if bench.quick else 4096
    folder.mkdir(parents=True, exist_ok=True)
    for row, start in enumerate(
        islice(source.windows.shuffled(False, torch.Generator().manual_seed(0)).split(1), number)
    ):
        for what in ("image", "mask", "weight"):
            np.save(
                folder / f"{row}_{what}.npy",
                source.windows.take(getattr(source.windows, what), start)[0, 0].numpy(),
            )
        number_written = row + 1
    stream, result = batches(source), []
    for workers in (0, 2):
        loader = DataLoader(
            plain.PatchFiles(folder, number_written),
            batch_size=128,
            shuffle=True,
            num_workers=workers,
        )
        result.append(
            compare(
                "input pipeline: windows and augmentation",
                f"DataLoader over a file a patch, {workers} workers",
                number_written,
                "patches",
                lambda: [batch for batch in islice(stream, -(-number_written // 128))],
                lambda loader=loader: [batch for batch in loader],
                bench.repeats,
                one_process=workers == 0,
            )
        )
    return result


def _source(bench: Bench, member: Member, train: Arrays) -> WellTrainingSet:
    """A member's training set of fold 0."""
    chosen = bench.recipe.model_copy(update={"members": [member]})
    own = bench.run.with_recipe(chosen)
    return WellTrainingSet.of(own, Task(member.name, 0, 0), train, CPU)


def _ours(source: WellTrainingSet, steps: int) -> Callable[[], dict[str, Any]]:
    """The project's own training loop on so many batches."""
    stream = batches(source)
    fit = Fit(source.run, source.task, source, CPU)
    fit.begin(source.member.phases[0], resumed=False)

    def step() -> dict[str, Any]:
        # the loop asks its data for an epoch, and gets so many batches
        with patch.object(WellTrainingSet, "epoch", lambda *_: (steps, islice(stream, steps))):
            return fit.epoch(0, lambda share, words: None)

    return step


def _plain(
    member: Member, loader: DataLoader, steps: int, by_concatenation: bool
) -> Callable[[], None]:
    torch.manual_seed(0)
    network, phase = networks.create(member.network), member.phases[0]
    optimiser = OPTIMISERS[phase.optimiser](
        network.parameters(), lr=phase.learning_rate, weight_decay=phase.weight_decay
    )
    stream = chain.from_iterable(loader for _ in count())

    def step() -> None:
        if by_concatenation:
            with plain.concatenating():
                plain.train(network, optimiser, of_phase(phase), islice(stream, steps))
        else:
            plain.train(network, optimiser, of_phase(phase), islice(stream, steps))

    return step


def training_cat(bench: Bench) -> list[Comparison]:
    """`training` of the paper's network."""
    return training(bench, load("corroseg_cat", []).members)


def training(bench: Bench, members: list[Member] | None = None) -> list[Comparison]:
    """Whole steps on windows of the training wells; ours with its augmentation, the baseline
    without any.
    """
    train, result = bench.train(), []
    devices.set_up_torch(torch.get_num_threads())
    for member in members or bench.recipe.members:
        source = _source(bench, member, train)
        windows, steps = source.windows, WINDOWS[member.name] if not bench.quick else 1
        starts = windows.shuffled(False, torch.Generator().manual_seed(0))
        data = TensorDataset(
            *(
                windows.take(tensor, starts)
                for tensor in (windows.image, windows.mask, windows.weight)
            )
        )
        loader = DataLoader(data, batch_size=member.batch_size, shuffle=True, drop_last=True)
        loops = {"float32 loop as in PyTorch's tutorials, same network, loss and batch": True}
        if member.network["name"] == "ring_unet":
            loops["the same loop with this project's ring padding"] = False
        for title, by_concatenation in loops.items():
            result.append(
                compare(
                    f"training `{member.name}` ({member.network['name']}), "
                    f"{torch.get_num_threads()} threads",
                    title,
                    steps * member.batch_size * member.height // 36,
                    "patches",
                    _ours(source, steps),
                    _plain(member, loader, steps, by_concatenation),
                    bench.repeats,
                )
            )
    return result


def predictions(bench: Bench) -> list[Comparison]:
    """Four flips of every window of a well, the networks as a training begins with them."""
    test, result = blocks.read_split(bench.run, "test"), []
    wells, patches = np.unique(test["group"], return_counts=True)
    well = blocks.rows_of(test, test["group"] == wells[patches.argsort()[len(wells) // 2]])
    once = Inference(flips=True, average_neighbours=False)
    for member in bench.recipe.members:
        torch.manual_seed(0)
        network = networks.create(member.network).eval()
        ours = networks.create(member.network).to(memory_format=devices.LAYOUT).eval()
        windows = Windows.of(well, member.height, CPU)
        seen = windows.inputs(
            torch.from_numpy(windows.canvas.windows(member.height, member.margin))
        )

        def by_loop(
            network: torch.nn.Module = network,
            seen: torch.Tensor = seen,
            size: int = member.batch_size,
        ) -> None:
            with plain.concatenating():
                plain.predict(network, seen, size)

        result.append(
            compare(
                f"prediction `{member.name}`, four flips, {torch.get_num_threads()} threads",
                "float32 loop over the same windows and flips",
                len(well["group"]),
                "patches",
                lambda ours=ours, member=member: prediction.predict(ours, well, member, once, CPU),
                by_loop,
                bench.repeats,
            )
        )
    return result
