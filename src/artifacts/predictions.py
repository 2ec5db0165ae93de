"""Predictions of one network: written as they come, for those of a whole set may not fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.artifacts import hdf5
from src.artifacts.sealed import Inputs
from src.terminal.errors import UserError


@dataclass(frozen=True)
class Predictions:
    """What a network says of N images.

    Args:
        names: (N,).
        shape: K classes, rows and columns of the largest image.
        batches: probabilities (n, K, h, w) float16 in the order of the names, of one size each.
        size: (N, 2) rows and columns, where images differ in size.
    """

    names: np.ndarray
    shape: tuple[int, ...]
    batches: Iterator[np.ndarray]
    size: np.ndarray | None = None


def write(
    path: Path, predictions: Predictions, inputs: Inputs, progress: Path | None = None
) -> None:
    """Write `name`, `probability` (N, K, H, W) float16 and, where images differ, `size` (N, 2).

    Args:
        progress: a file that holds the share that is done, while it is written.

    Raises:
        UserError: a probability is no finite number.
    """
    count = len(predictions.names)
    with hdf5.writing(path, inputs) as file:
        file.put("name", predictions.names)
        if predictions.size is not None:
            file.put("size", predictions.size)
        sized = predictions.size is not None
        shape = (count, *predictions.shape)
        file.create("probability", shape, np.float16, compressed=sized)
        done = 0
        for batch in predictions.batches:
            if not np.isfinite(batch).all():
                raise UserError(
                    f"{path}: the network predicts probabilities that are not finite: train it "
                    "again with a lower learning_rate"
                )
            for first in range(len(batch)) if sized else (0,):  # packed a row at a time
                rows = batch[first : first + 1] if sized else batch
                file.write("probability", done, rows)
                done += len(rows)
            if progress:
                progress.write_text(f"{done / count:.4f}", encoding="utf-8")
    if progress:
        progress.unlink(missing_ok=True)
