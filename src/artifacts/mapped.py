"""Arrays that stay on disk: what is asked for is read where it lies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import h5py
import numpy as np

from src.artifacts.files import writable
from src.artifacts.hdf5 import legible, reading


@dataclass(frozen=True)
class Mapped:
    """An array of which `[...]`, by indices or a mask as of numpy, reads a part.

    Its file stays open: another one put in its place changes nothing. And it is mapped anew for
    every part, for pages that stay mapped count as memory of the process.
    """

    path: Path
    file: BinaryIO
    offset: int  # bytes before the array
    dtype: np.dtype
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: np.ndarray | tuple[np.ndarray, ...]) -> np.ndarray:
        with legible(self.path):
            return np.asarray(np.memmap(self.file, self.dtype, "r", self.offset, self.shape)[at])


def mapped(path: Path, *names: str) -> dict[str, Mapped]:
    """Arrays of an HDF5 artifact that are stored in one piece, as all but packed ones are.

    Raises:
        UserError: the file is missing or damaged, or lacks one.
    """
    with reading(path) as file:
        opened = open(path, "rb")  # noqa: SIM115 - for as long as an array may be read
        return {
            name: Mapped(path, opened, _offset(file[name]), file[name].dtype, file[name].shape)
            for name in names
        }


def _offset(array: h5py.Dataset) -> int:
    offset = array.id.get_offset()
    if offset is None:
        raise ValueError(f"{array.name} is packed, or empty")
    return offset


def laid(parts: Iterable[np.ndarray], shape: tuple[int, ...], folder: Path) -> Mapped:
    """An array float32 that comes in parts, in a file that nobody else sees and that goes with the
    process.

    Raises:
        UserError: the folder cannot be written to, or is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with writable(folder):
        file = TemporaryFile(dir=folder)  # noqa: SIM115 - for as long as the array may be read
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float32).data)
        file.flush()
    return Mapped(folder, file, 0, np.dtype(np.float32), shape)
