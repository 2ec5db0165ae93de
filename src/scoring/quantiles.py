"""Exact quantiles of more values than fit in memory, by counting their leading bits, then the
next ones of those that matter.
"""

from collections.abc import Iterable

import numpy as np

# bits to the right, and bits that are counted; the first of a float32 come first
LEVELS = ((21, 11), (10, 11), (0, 10))
NUMBERS = 2045  # of the values of the first bits; those beyond are no numbers


def quantiles(parts: Iterable[np.ndarray], shares: np.ndarray) -> np.ndarray:
    """For each column the values below which some shares of it lie: `np.nanquantile` along rows, to
    the last digit.

    Args:
        parts: arrays (n, P) float32 that together are the rows, gone through three times; NaN is
            not counted.
        shares: (R,) within 0 to 1.

    Returns:
        (R, P) float64.
    """
    tables: list[np.ndarray] = []
    for shift, bits in LEVELS:
        counts = _count(parts, tables, shift, bits)
        if not tables:
            numbers = counts[:, :NUMBERS].sum(1)
            # places in each sorted column, between two values
            wanted = shares[:, None] * (numbers - 1)
            rank = (
                np.stack([np.floor(wanted), np.ceil(wanted)])
                .astype(np.int64)
                .clip(0)
                .reshape(2 * len(shares), -1)
            )
            slot, key = (
                np.broadcast_to(np.arange(len(counts)), rank.shape),
                np.zeros(rank.shape, np.uint32),
            )
        below = counts.cumsum(1)
        digit = np.array(
            [(below[own] <= left[:, None]).sum(1) for own, left in zip(slot, rank, strict=True)]
        )
        rank = rank - np.where(digit > 0, below[slot, digit - 1], 0)
        key = key << np.uint32(bits) | digit.astype(np.uint32)
        places, slot = np.unique(slot << bits | digit, return_inverse=True)
        table = np.full(counts.size, -1, np.int32)
        table[places] = np.arange(len(places))
        tables.append(table)
        slot = slot.reshape(rank.shape)
    low, high = _values(key).reshape(2, len(shares), -1)
    return np.array(
        [_between(*own) for own in zip(low, high, wanted - np.floor(wanted), strict=True)]
    )


def _count(
    parts: Iterable[np.ndarray], tables: list[np.ndarray], shift: int, bits: int
) -> np.ndarray:
    """(S, 2 ** bits) how many values have each pattern of the next bits, for each slot that
    `tables` lead to by the earlier ones.
    """
    counts = 0
    for part in parts:
        key = _keys(part).ravel()
        slot = np.tile(np.arange(part.shape[1], dtype=np.int32), len(part))
        slots = part.shape[1]
        for table, (right, number) in zip(tables, LEVELS, strict=False):
            slot = table[
                slot << number
                | (key >> np.uint32(right) & np.uint32((1 << number) - 1)).astype(np.int32)
            ]
            key, slot, slots = key[slot >= 0], slot[slot >= 0], table.max() + 1
        digit = (key >> np.uint32(shift) & np.uint32((1 << bits) - 1)).astype(np.int32)
        counts = counts + np.bincount(slot << bits | digit, minlength=slots << bits)
    return counts.reshape(-1, 1 << bits)


def _keys(values: np.ndarray) -> np.ndarray:
    """uint32 in the order of the values, NaN last."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def _values(keys: np.ndarray) -> np.ndarray:
    """The inverse of `_keys`."""
    return (
        np.where(keys >> np.uint32(31), keys & np.uint32((1 << 31) - 1), ~keys)
        .astype(np.uint32)
        .view(np.float32)
    )


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Values (P,) that lie at a share of the way from `low` to `high`, rounded as NumPy rounds
    them.
    """
    way = high - low
    return np.where(share < 0.5, low + way * share, high - way * (1 - share))
