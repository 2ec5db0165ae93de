"""Masks of many patches, eight pixels a byte: the only thing as large as a picture that is in
memory for all patches at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ROWS = 2048  # masks that are unpacked at a time


@dataclass(frozen=True)
class PackedMasks:
    """Masks (N, H, W) of 0 and 1 as `bits` (N, ceil(H W / 8)); what is taken by row, rows or a
    slice is an array of uint8.
    """

    bits: np.ndarray
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.bits), *self.size)

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        bits = self.bits[rows]
        return np.unpackbits(bits, axis=-1, count=self.size[0] * self.size[1]).reshape(
            *bits.shape[:-1], *self.size
        )

    def take(self, rows: np.ndarray) -> "PackedMasks":
        return PackedMasks(self.bits[rows], self.size)


def pack(masks: np.ndarray) -> np.ndarray:
    """Masks (N, H, W) as rows of bits."""
    return np.packbits(
        masks.reshape(len(masks), masks.shape[1] * masks.shape[2]).astype(bool, copy=False), axis=1
    )


def slices(number: int, rows: int = ROWS) -> Iterator[slice]:
    """Slices of at most `rows` rows that follow each other down to row `number`."""
    return (slice(first, min(first + rows, number)) for first in range(0, number, rows))
