"""A prepared split of photographs, read a photograph at a time."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.networks.scaling import Scaling
from src.scoring.folds import EVALUATION


@dataclass
class PhotoDataset:
    """Small arrays are at hand; images and masks are read when asked for, in each process."""

    path: Path
    name: np.ndarray  # (N,) str
    size: np.ndarray  # (N, 2)
    group: np.ndarray  # (N,)
    moments: np.ndarray  # (N, 2, C)
    classes: list[str]
    white: float
    fold: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))  # (N,), for training
    # (N, K), for training
    shows: np.ndarray = field(default_factory=lambda: np.empty((0, 0), bool))
    _file: h5py.File | None = field(default=None, repr=False)

    @staticmethod
    def open(run: Run, split: str) -> "PhotoDataset":
        """
        Raises:
            UserError: the prepared file is missing or damaged.
        """
        path = run.prepared(split)
        more = ["fold", "shows"] if split == "train" else []
        arrays, metadata = (
            hdf5.read(path, "name", "size", "group", "moments", *more),
            hdf5.metadata(path),
        )
        return PhotoDataset(path, **arrays, classes=metadata["classes"], white=metadata["white"])

    @property
    def channels(self) -> int:
        return self.moments.shape[2]

    def __getstate__(self) -> dict[str, object]:
        # an open HDF5 file does not travel to another process
        return self.__dict__ | {"_file": None}

    def image(self, row: int) -> np.ndarray:
        """(H, W, C), values as the organisers gave them."""
        height, width = self.size[row]
        return self._read("image", np.s_[row, :height, :width])

    def mask(self, row: int) -> np.ndarray:
        """(K, H, W) uint8 of 0 and 1."""
        height, width = self.size[row]
        if len(self.shows) and not self.shows[row].any():
            return np.zeros((len(self.classes), height, width), np.uint8)  # saves unpacking it
        return self._read("mask", np.s_[row, :, :height, :width])

    def evaluated(self, fold: int) -> np.ndarray:
        """The rows that `eval_every` scores: the evaluation fold's, or else those of a fold."""
        excluded = hdf5.read(self.path, "excluded")["excluded"]
        rows = np.flatnonzero(excluded == EVALUATION)
        return rows if len(rows) else np.flatnonzero(self.fold == fold)

    def scaling(self, rows: np.ndarray) -> Scaling:
        """Mean and standard deviation of each channel over all pixels of some photographs, white
        being 1.
        """
        area = self.size[rows].prod(1)
        mean, square = np.tensordot(area / area.sum(), self.moments[rows], 1)
        deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
        return Scaling(mean.astype(np.float32), deviation.astype(np.float32))

    def _read(self, name: str, where: tuple[int | slice, ...]) -> np.ndarray:
        if self._file is None:
            with hdf5.reading(self.path):  # an error where it is damaged
                self._file = h5py.File(self.path)
        with hdf5.legible(self.path):
            return self._file[name][where]
