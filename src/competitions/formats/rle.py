"""Run-length code of binary masks: 1-based `start length` pairs, as Kaggle writes them.

`order` says how pixels are numbered: "row" (left to right, then down) or "column" (top to bottom,
then right).
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import numpy as np

Order = Literal["row", "column"]


def encode(masks: np.ndarray, order: Order) -> list[str]:
    """The code of each of (N, H, W) masks of 0 and 1; an empty mask gives an empty string. One
    pass over all masks that show any.
    """
    count, size = len(masks), masks.shape[1] * masks.shape[2]
    shown = np.flatnonzero(masks.reshape(count, size).any(1))
    pixels = masks[shown] if order == "row" else masks[shown].transpose(0, 2, 1)
    # End to end, with a zero before and after every mask: each run starts and ends inside its own,
    # also at the first and last pixel.
    laid = np.zeros(len(shown) * (size + 1) + 1, bool)
    laid[:-1].reshape(len(shown), size + 1)[:, 1:] = pixels.reshape(len(shown), size)
    edge = np.flatnonzero(laid[1:] != laid[:-1])
    owner, start = np.divmod(edge[::2], size + 1)
    numbers = np.stack([start + 1, edge[1::2] - edge[::2]], axis=1).ravel().tolist()
    last = 2 * np.searchsorted(owner, np.arange(len(shown)), side="right")
    codes = [""] * count
    for row, (first, end) in zip(shown, pairwise([0, *last]), strict=True):
        codes[row] = " ".join(map(str, numbers[first:end]))
    return codes


def decode(codes: Iterable[str], height: int, width: int, order: Order) -> np.ndarray:
    """Masks (N, H, W) uint8 of run-length codes.

    Raises:
        ValueError: a code with an odd count of numbers, a word that is no number, runs that
            overlap, are not in ascending order, or leave the mask.
    """
    codes = list(codes)
    pixels = np.zeros((len(codes), height * width), np.uint8)
    for row, code in zip(pixels, codes, strict=True):
        for start, end in _runs(code, height * width):
            row[start:end] = 1
    if order == "row":
        return pixels.reshape(-1, height, width)
    return np.ascontiguousarray(pixels.reshape(-1, width, height).transpose(0, 2, 1))


def _runs(code: str, size: int) -> np.ndarray:
    """Half-open pixel ranges (runs, 2) of one code, checked against a mask of `size` pixels."""
    # two numbers a pixel at most; said before millions of words are taken apart
    if len(code) > 20 * size + 1000:
        raise ValueError(
            f"run-length code longer than that of any mask of {size} pixels: '{code[:40]}'"
        )
    words = code.split()
    if len(words) % 2:
        raise ValueError(f"run-length code with an odd count of numbers: '{code[:40]}'")
    if not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        raise ValueError(f"run-length code with a word that is no number of a pixel: '{code[:40]}'")
    numbers = np.array(words, np.int64)
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if (
        (numbers < 1).any()
        or (numbers > size).any()
        or (starts + lengths > size).any()
        or (starts[1:] < (starts + lengths)[:-1]).any()
    ):
        raise ValueError(
            f"run-length code with runs that overlap or leave the mask of {size} "
            f"pixels: '{code[:40]}'"
        )
    return np.stack([starts, starts + lengths], axis=1)
