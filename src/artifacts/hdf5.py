"""HDF5 artifacts: one writer, for arrays that fit in memory and for those that do not."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.artifacts.files import replacing
from src.artifacts.sealed import DAMAGE, Arrays, Inputs, record, seal, verified
from src.terminal.errors import UserError

RECORD = 4096  # bytes before HDF5's own part, where the record stands


@dataclass(frozen=True)
class Packed:
    """A row of a compressed array, as it is stored: bytes, and HDF5's mask of skipped filters."""

    data: bytes
    skipped: int

    @staticmethod
    def of(array: h5py.Dataset, row: int) -> "Packed":
        skipped, data = array.id.read_direct_chunk((row,) + (0,) * (array.ndim - 1))
        return Packed(data, skipped)

    def __len__(self) -> int:
        return 1


class Writer:
    """An HDF5 artifact that is being written; `metadata`, JSON, may be added to until its end."""

    def __init__(self, file: h5py.File) -> None:
        self.file, self.metadata = file, {}

    def create(
        self, name: str, shape: tuple[int, ...], dtype: type, compressed: bool = False
    ) -> None:
        """Room for an array, zero until written; `compressed` packs each row by itself."""
        chunks = (1, *shape[1:]) if compressed and shape[0] else None
        packed = {"chunks": chunks, "compression": "lzf"} if chunks else {}
        shuffle = True if packed and np.dtype(dtype).itemsize > 1 else None
        self.file.create_dataset(name, shape, dtype, **packed, shuffle=shuffle)

    def put(self, name: str, array: np.ndarray) -> None:
        """A whole array; texts are stored as UTF-8."""
        if array.dtype.kind in "OU":
            array = np.char.encode(array.astype(str), "utf-8")
            array = array.astype(h5py.string_dtype("utf-8", max(1, array.dtype.itemsize)))
        self.file.create_dataset(name, data=array)

    def write(self, name: str, first: int, rows: np.ndarray | Packed) -> None:
        """Rows from `first` on; smaller ones fill the upper left corners of their places."""
        if isinstance(rows, Packed):
            at = (first,) + (0,) * (self.file[name].ndim - 1)
            self.file[name].id.write_direct_chunk(at, rows.data, rows.skipped)
            return
        place = (slice(first, first + len(rows)), *(slice(size) for size in rows.shape[1:]))
        self.file[name][place] = rows

    def read(self, name: str, rows: slice | np.ndarray) -> np.ndarray:
        """Rows that were written."""
        return self.file[name][rows]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.file[name].shape

    def copy(self, source: Path, *names: str) -> None:
        """Arrays of another artifact under their own names, as they are stored."""
        with reading(source) as file:
            for name in names:
                file.copy(file[name], self.file, name)


def pack(row: np.ndarray, shape: tuple[int, ...]) -> Packed:
    """A row (1, K, h, w) for a compressed array of such `shape` (K, H, W): packing takes most of
    the time of writing, and other processes can do it.
    """
    with h5py.File("packed", "w", driver="core", backing_store=False) as file:
        writer = Writer(file)
        writer.create("row", (1, *shape), row.dtype, compressed=True)
        writer.write("row", 0, row)
        return Packed.of(file["row"], 0)


@contextmanager
def writing(path: Path, inputs: Inputs) -> Iterator[Writer]:
    """A new HDF5 artifact, made from `inputs`."""
    with replacing(path) as partial:
        # Without a cache of chunks a full disk is noticed where an array is written: on closing,
        # HDF5 would crash.
        with h5py.File(partial, "w", userblock_size=RECORD, rdcc_nbytes=0) as file:
            writer = Writer(file)
            yield writer
            file.attrs["metadata"] = json.dumps(writer.metadata)
        with open(partial, "rb+") as file:
            file.write(record(inputs).ljust(RECORD))
        seal(partial)


def write(path: Path, arrays: Arrays, inputs: Inputs, **metadata: Any) -> None:
    """Write named arrays and JSON metadata as one artifact."""
    with writing(path, inputs) as file:
        file.metadata.update(metadata)
        for name, array in arrays.items():
            file.put(name, array)


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """An undamaged artifact, opened.

    Raises:
        UserError: it is missing or damaged, or lacks what the block asks it for.
    """
    with legible(path), h5py.File(verified(path)) as file:
        yield file


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """Turns what reading a damaged file raises into one line that names it."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read ({error}): run the stage that makes it") from None


def read(path: Path, *names: str) -> Arrays:
    """The arrays of an artifact by name; texts come as object arrays of str."""
    with reading(path) as file:
        return {
            name: file[name].asstr()[:]
            if h5py.check_string_dtype(file[name].dtype)
            else file[name][:]
            for name in names
        }


def read_rows(path: Path, names: Iterable[str], rows: np.ndarray) -> Arrays:
    """`read`, but only some rows (n,) of each, in any order; neighbours are read at once."""
    order = np.argsort(rows, kind="stable")
    breaks = np.flatnonzero(np.diff(rows[order]) != 1) + 1
    runs = np.split(rows[order], breaks) if len(rows) else []
    arrays: Arrays = {}
    with reading(path) as file:
        for name in names:
            data = file[name]
            arrays[name] = np.empty((len(rows), *data.shape[1:]), data.dtype)
            parts = [data[run[0] : run[-1] + 1] for run in runs]
            arrays[name][order] = np.concatenate([data[:0], *parts])
    return arrays


def shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of one array, without reading it."""
    with reading(path) as file:
        return file[name].shape


def holds(path: Path, name: str) -> bool:
    """Whether an artifact has an array of this name."""
    with reading(path) as file:
        return name in file


def metadata(path: Path) -> dict[str, Any]:
    """The JSON metadata of an artifact."""
    with reading(path) as file:
        return json.loads(file.attrs["metadata"])
