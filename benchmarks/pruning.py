"""Networks side by side, dense, pruned, compact and in 8 bits: what they score, and what they cost
on this CPU.

Usage: python -m benchmarks.pruning RUN_FOLDER [RUN_FOLDER ...] [--int8] [--size ROWS COLUMNS], with
folders as for src.cli.export, whose files it writes anew. Every network is told in torch and in
onnxruntime. IoU sums over all pixels of the held-out fold, and of the test photographs where their
truth is known, of each class but the background; the pruning study's, with the background, stands
beside it. Photographs are all of one size, because an exported network takes no other.

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

from src import artifacts
from src.cli import export
from src.cli.export import CPU, Run, Stopwatch
from src.photographs import confusion
from src.photographs.dataset import Gallery
from src.photographs.prediction import predict
from src.report import figures
from src.studies import pruned
from src.terminal import command
from src.wells import prediction


class OnnxNetwork(nn.Module):
    """An ONNX file in the place of a network, for one image at a time.

    Raises:
        ValueError: an image of another size than the file is for.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = export.session(path)
        self.size = self.session.get_inputs()[0].shape[2:]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if list(x.shape[2:]) != self.size:
            raise ValueError(f"{tuple(x.shape[2:])} is not {tuple(self.size)}")
        return torch.cat(
            [
                torch.from_numpy(
                    self.session.run(None, {"image": image[None].contiguous().numpy()})[0]
                )
                for image in x
            ]
        )


def held_out(run: Run, network: nn.Module) -> tuple[np.ndarray, list[str]]:
    """`confusion.confusion` on the run's held-out fold, and the classes."""
    if run.train is not None:
        return over(
            run, network, run.train, np.flatnonzero(run.train.fold == run.task.fold)
        ), run.train.classes
    train = prediction.read_split(run.paths, run.recipe, "train", "mask", "fold")
    train = prediction.rows_of(train, train["fold"] == run.task.fold)
    train["image"] = run.scaling.apply(train["image"])
    probability = prediction.predict(network, train, run.member, run.recipe.inference, CPU)
    return confusion.confusion(
        train["mask"].astype(int), (probability[:, 0] > 0.5).astype(int), 1
    ), ["corrosion"]


def over(run: Run, network: nn.Module, gallery: Gallery, rows: Iterable[int]) -> np.ndarray:
    """`confusion.confusion` over some photographs."""
    counts = confusion.empty(len(gallery.classes))
    for row in rows:
        image = gallery.image(row)[None]
        (probability,) = predict(
            network, image, gallery.white, run.scaling, run.member, run.recipe.inference, CPU
        )
        counts += confusion.count(
            gallery.mask(row), probability.astype(np.float32), run.member.activation
        )
    return counts


def scores(run: Run, network: nn.Module) -> dict[str, float]:
    """On the held-out fold, and on the test photographs where their truth is known."""
    counts, classes = held_out(run, network)
    line = pruned.scores([counts], classes)
    if run.train is not None and artifacts.holds(run.paths.prepared(run.recipe), "test/mask"):
        test = Gallery.open(run.paths, run.recipe, "test")
        line |= {
            f"test {name}": score
            for name, score in pruned.scores(
                [over(run, network, test, range(len(test.name)))], classes
            ).items()
        }
    return line


def rows(
    folder: Path, int8: bool, size: list[int] | None, beside: Stopwatch
) -> list[dict[str, Any]]:
    """A line of the table for each form of one network; costs are those of images of `size`,
    scores those of the run's own.
    """
    run = Run.open(folder)
    shape = tuple(next(run.images(1)).shape)
    files = {
        "torch": run.paths.weights(run.recipe, run.task),
        **({} if size else export.export(run, int8)),
    }
    scored = {
        form: scores(run, run.network if form == "torch" else OnnxNetwork(file))
        for form, file in files.items()
    }
    weights = [*run.network.parameters()]
    about = {"parameters (M)": f"{sum(w.numel() for w in weights) / 1e6:.3f}"}
    about["not zero (M)"] = f"{sum(int(w.count_nonzero()) for w in weights) / 1e6:.3f}"
    own = {"recipe": run.recipe.name, **pruned.described(run.member)}
    shape = (*shape[:2], *size) if size else shape
    about["operations (G)"] = round(pruned.operations(run.network, shape) / 1e9, 3)
    return [
        own | {"form": form} | scored[form] | about | export.measure(file, folder, shape, beside)
        for form, file in files.items()
    ]


def main(options: argparse.Namespace) -> None:
    first = Run.open(options.runs[0])
    shape = tuple(next(first.images(1)).shape)
    reference = first.paths.weights(first.recipe, first.task)
    beside = Stopwatch(
        reference, options.runs[0], (*shape[:2], *options.size) if options.size else shape
    )
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
    print(f"\nOne image at a time, {export.THREADS} CPU threads\n\n{figures.markdown(table)}")


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
