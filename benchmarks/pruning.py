"""Networks side by side, dense, pruned, compact and in 8 bits: what they score on their held-out fold, and what they cost on this CPU.

Usage: python -m benchmarks.pruning RUN_FOLDER [RUN_FOLDER ...] [--int8], with folders as for src.export, whose files it writes anew.
Every network is told in torch and in onnxruntime. IoU sums over all pixels of the fold, of each class but the background; photographs
are all of one size, because an exported network takes no other.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from src import command, export, inference, report
from src.export import CPU, Run
from src.photographs import pruned
from src.photographs.predicting import predict


class OnnxNetwork(nn.Module):
    """An ONNX file in the place of a network, for one image at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = export.session(path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.from_numpy(self.session.run(None, {"image": image[None].contiguous().numpy()})[0]) for image in x])


def held_out(run: Run, network: nn.Module) -> tuple[np.ndarray, list[str]]:
    """`pruned.confusion` on the run's held-out fold, and the classes."""
    fold, member = run.task.fold, run.member
    if run.train is None:
        train = inference.read_split(run.paths, run.recipe, "train", "mask", "fold")
        train = inference.rows_of(train, train["fold"] == fold)
        train["image"] = run.scaling.apply(train["image"])
        probability = inference.predict(network, train, member, run.recipe.inference, CPU)
        return pruned.confusion(train["mask"].astype(int), (probability[:, 0] > 0.5).astype(int), 1), ["corrosion"]
    counts = np.zeros((len(run.train.classes) + 1,) * 2, np.int64)
    for row in np.flatnonzero(run.train.fold == fold):
        image = run.train.image(row)[None]
        (probability,) = predict(network, image, run.train.white, run.scaling, member, run.recipe.inference, CPU)
        truth = pruned.labels(run.train.mask(row), "sigmoid")
        counts += pruned.confusion(truth, pruned.labels(probability.astype(np.float32), member.activation), len(run.train.classes))
    return counts, run.train.classes


def rows(folder: Path, int8: bool) -> list[dict[str, Any]]:
    """A line of the table for each form of one network."""
    run = Run.open(folder)
    shape = tuple(next(run.images(1)).shape)
    files = {"torch": run.paths.weights(run.recipe, run.task), **export.export(run, int8)}
    weights = [*run.network.parameters()]
    lines = []
    for form, file in files.items():
        counts, classes = held_out(run, run.network if form == "torch" else OnnxNetwork(file))
        line = {"recipe": run.recipe.name, "network": run.task.member, "form": form, pruned.MICRO: pruned.micro_iou(counts)}
        line |= {f"IoU {name}": float(score) for name, score in zip(classes, pruned.class_iou(counts), strict=True)}
        line |= {"parameters (M)": f"{sum(w.numel() for w in weights) / 1e6:.3f}"}
        line |= {"not zero (M)": f"{sum(int(w.count_nonzero()) for w in weights) / 1e6:.3f}"}
        lines.append(line | export.measure(file, folder, shape))
    operations = pruned.operations(run.network, shape)
    return [line | {"operations (G)": round(operations / 1e9, 3)} for line in lines]


def main(options: argparse.Namespace) -> None:
    table = pd.DataFrame([line for folder in options.runs for line in rows(folder, options.int8)])
    print(f"\nOne image at a time, {export.THREADS} CPU threads\n\n{report.markdown(table)}")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="of a trained task")
    arguments.add_argument("--int8", action="store_true", help="also in 8 bits")
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
