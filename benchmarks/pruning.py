"""Networks side by side, dense, pruned, compact and in 8 bits: what they score, and what they cost
on this CPU.

Usage: python -m benchmarks.pruning RUN_FOLDER [RUN_FOLDER ...] [--int8] [--size ROWS COLUMNS], with
folders as for src.cli.export, whose files it writes anew. Every network is told in torch and in
onnxruntime. IoU sums over all pixels of the held-out fold, and of the test photographs where their
truth is known, of each class but the background; those with the background, over all pixels and of
each image as in the pruning study, stand beside it. Photographs are all of one size, because an
exported network takes no other.

How many times faster and smaller a line is, is told against the first folder's network in torch:
both take an image in turn.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from src.artifacts import hdf5
from src.cli import export
from src.cli.export import CPU, Stopwatch, Trained
from src.networks.engines import THREADS, opened
from src.networks.scaling import Scaling
from src.photographs import confusion
from src.photographs.dataset import PhotoDataset
from src.report import figures
from src.studies import pruning
from src.terminal import command
from src.wells import blocks, prediction


class OnnxNetwork(nn.Module):
    """An ONNX file in the place of a network, for one image at a time.

    Raises:
        ValueError: an image of another size than the file is for.
    """

    def __init__(self, path: Path, size: tuple[int, int], scaling: Scaling) -> None:
        super().__init__()
        self.logits, self.size, self.scaling = opened(path), size, scaling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != self.size:
            raise ValueError(f"{tuple(x.shape[2:])} is not {self.size}")
        raw = self.scaling.undo(x.numpy())  # the file scales by itself
        return torch.cat([torch.from_numpy(self.logits(image[None])) for image in raw])


def held_out(trained: Trained, network: nn.Module) -> tuple[np.ndarray, list[str]]:
    """`confusion.confusion` of each image of the run's held-out fold, and the classes."""
    run, fold = trained.run, trained.task.fold
    classes = hdf5.metadata(run.prepared("train"))["classes"]
    if run.modality.labels(run):
        train = PhotoDataset.open(run, "train")
        return over(trained, network, train, np.flatnonzero(train.fold == fold)), classes
    train = blocks.read_split(run, "train")
    train = blocks.rows_of(train, train["fold"] == fold)
    train["image"] = trained.scaling.apply(train["image"])
    settings = run.recipe.inference
    probability = prediction.predict(network, train, trained.member, settings, CPU)
    pairs = zip(train["mask"].astype(int), (probability[:, 0] > 0.5).astype(int), strict=True)
    return np.stack([confusion.confusion(true, marked, 1) for true, marked in pairs]), classes


def over(
    trained: Trained, network: nn.Module, dataset: PhotoDataset, rows: Iterable[int]
) -> np.ndarray:
    """`confusion.confusion` of some photographs."""
    settings = trained.run.recipe.inference
    return confusion.of_network(
        network, trained.scaling, trained.member, settings, dataset, rows, CPU
    )


def scores(trained: Trained, network: nn.Module) -> dict[str, float]:
    """On the held-out fold, and on the test photographs where their truth is known."""
    counts, classes = held_out(trained, network)
    line, run = pruning.scores([counts], classes), trained.run
    if run.modality.labels(run) and hdf5.holds(run.prepared("test"), "mask"):
        test = PhotoDataset.open(run, "test")
        told = pruning.scores([over(trained, network, test, range(len(test.name)))], classes)
        line |= {f"test {name}": score for name, score in told.items()}
    return line


def rows(
    folder: Path, int8: bool, size: list[int] | None, beside: Stopwatch
) -> list[dict[str, Any]]:
    """A line of the table for each form of one network; costs are those of images of `size`,
    scores those of the run's own.
    """
    trained = Trained.open(folder)
    shape = tuple(next(trained.images(1))[0].shape)
    files = {"torch": trained.run.weights(trained.task)}
    files |= {} if size else export.export(trained, ["onnx", "int8"] if int8 else ["onnx"])
    scored = {
        form: scores(
            trained,
            trained.network
            if form == "torch"
            else OnnxNetwork(file, shape[2:], trained.whole_scaling()),
        )
        for form, file in files.items()
    }
    weights = [*trained.network.parameters()]
    about = {"parameters (M)": f"{sum(w.numel() for w in weights) / 1e6:.3f}"}
    about["not zero (M)"] = f"{sum(int(w.count_nonzero()) for w in weights) / 1e6:.3f}"
    own = {"recipe": trained.run.recipe.name, **pruning.described(trained.member)}
    shape = (*shape[:2], *size) if size else shape
    about["operations (G)"] = round(pruning.operations(trained.network, shape) / 1e9, 3)
    return [
        own | {"form": form} | scored[form] | about | export.measure(file, folder, shape, beside)
        for form, file in files.items()
    ]


def main(options: argparse.Namespace) -> None:
    first = Trained.open(options.runs[0])
    shape = tuple(next(first.images(1))[0].shape)
    reference = first.run.weights(first.task)
    size = (*shape[:2], *options.size) if options.size else shape
    beside = Stopwatch(reference, options.runs[0], size)
    table = pd.DataFrame(
        [
            line
            for folder in options.runs
            for line in rows(folder, options.int8, options.size, beside)
        ]
    )
    beside.stop()
    for size in ("file (MB)", "gzip (MB)"):
        table[f"times smaller, {size.split()[0]}"] = (table[size].iloc[0] / table[size]).round(2)
    print(f"\nOne image at a time, {THREADS} CPU threads\n\n{figures.markdown(table)}")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN_FOLDER",
        help="of a trained task; the first is what others are told against",
    )
    arguments.add_argument("--int8", action="store_true", help="also in 8 bits")
    size = (
        "measure costs on images of this size instead, in torch alone: an exported network "
        "takes no other size than its own"
    )
    arguments.add_argument("--size", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help=size)
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
