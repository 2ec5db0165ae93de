"""HDF5 artifacts whose arrays do not fit in memory: written some rows at a time, and whole or
absent like all others.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src import artifacts
from src.artifacts import CreatedFrom


class Filling:
    """An HDF5 artifact whose arrays are written some rows at a time, for arrays that do not fit
    in memory.
    """

    def __init__(self, file: h5py.File, notes: dict[str, Any]) -> None:
        self.file, self.notes, self.names = file, notes, []

    def create(self, name: str, shape: tuple[int, ...], dtype: type) -> None:
        """Room for an array, zero until written."""
        self.names.append(name)
        self.file.create_dataset(name, shape, dtype, **artifacts.in_chunks(shape, np.dtype(dtype)))

    def write(self, name: str, first: int, array: np.ndarray) -> None:
        """Rows from `first` on."""
        self.file[name][first : first + len(array)] = array

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Rows that were written."""
        return self.file[name][rows]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file[name].shape

    def put(self, name: str, array: np.ndarray) -> None:
        """A whole array."""
        self.names.append(name)
        artifacts.create(self.file, name, array)


@contextmanager
def filling(path: Path, inputs: CreatedFrom, **notes: Any) -> Iterator[Filling]:
    """`write_arrays`, some rows at a time: the same arrays, in the order in which they were
    created, get the same digest.

    `Filling.notes` may be added to until the block ends.
    """
    with artifacts.creating(path) as file:
        filled = Filling(file, notes)
        yield filled
        artifacts.describe(
            file, inputs, _digest_stored(file, filled.names, json.dumps(filled.notes)), filled.notes
        )


def _digest_stored(file: h5py.File, names: Iterable[str], notes: str) -> str:
    """`digest` of arrays that were written, their names and their notes, a few rows in memory at
    a time.
    """
    state = hashlib.sha256()
    for name in names:
        artifacts.take_in(state, name)
        dataset = file[name]
        if h5py.check_string_dtype(dataset.dtype):
            artifacts.take_in(state, dataset.asstr()[:])
        else:
            state.update(f"{dataset.dtype}{dataset.shape} {len(dataset)} ".encode())
            for first in range(0, len(dataset), dataset.chunks[0] if dataset.chunks else 1):
                state.update(np.ascontiguousarray(dataset[first : first + dataset.chunks[0]]).data)
    artifacts.take_in(state, notes)
    return state.hexdigest()


class Stream:
    """An HDF5 artifact that is written a row at a time, for arrays that do not fit in memory;
    compressed, a chunk a row.
    """

    def __init__(self, file: h5py.File, notes: dict[str, Any]) -> None:
        self.file, self.notes, self.state = file, notes, hashlib.sha256()

    def create(self, name: str, shape: tuple[int, ...], dtype: type) -> None:
        """Room for an array of rows, zero until written."""
        chunks = (1, *shape[1:]) if shape[0] else None
        packed = {"chunks": chunks, "compression": "lzf", "fletcher32": True} if chunks else {}
        self.file.create_dataset(
            name, shape, dtype, **packed, shuffle=np.dtype(dtype).itemsize > 1 or None
        )

    def write(self, name: str, row: int, array: np.ndarray) -> None:
        """One row; a smaller array fills its upper left corner."""
        self.file[name][(row, *(slice(length) for length in array.shape))] = array
        self.state.update(f"{name} {row} {artifacts.digest(array)}".encode())

    def put(self, name: str, array: np.ndarray) -> None:
        """A whole array."""
        artifacts.create(self.file, name, array)
        self.state.update(f"{name} {artifacts.digest(array)}".encode())


@contextmanager
def streaming(path: Path, inputs: CreatedFrom, **notes: Any) -> Iterator[Stream]:
    """`write_arrays`, a row at a time; `Stream.notes` may be added to until the block ends."""
    with artifacts.creating(path) as file:
        stream = Stream(file, notes)
        yield stream
        stream.state.update(json.dumps(stream.notes).encode())
        artifacts.describe(file, inputs, stream.state.hexdigest(), stream.notes)
