"""One file a competition: what its raw files look like, its metric, its submission.

A file `src/competitions/<name>.py` that holds a `COMPETITION` is all it takes to add one.
"""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from src.competitions.formats.masks import PackedMasks
from src.competitions.formats.rle import Order
from src.recipe import Data, Generate
from src.terminal.errors import UserError, did_you_mean


@dataclass(frozen=True)
class RawSplit:
    """The organisers' patches in natural order of their names, values untouched, read a few at a
    time: a set may be larger than memory.
    """

    name: np.ndarray  # (N,) str
    read: Callable[[np.ndarray], np.ndarray]  # those in some rows (n,), (n, H, W) float32
    group: np.ndarray  # (N,) int32, the well
    number: np.ndarray  # (N,) int32, the patch's number in its well
    mask: PackedMasks | None = None  # (N, H, W)


@dataclass(frozen=True)
class Raw:
    train: RawSplit
    test: RawSplit
    notes: list[str]  # what the user should know about how the files were read


@dataclass(frozen=True)
class Competition:
    """What the pipeline asks of a competition.

    `source` says where the raw files come from; `files` lists those that `read` will read; `score`
    gives (N,) scores of masks against truth; `write_masks` and `read_masks` are the organisers' own
    mask layout; `generate` makes raw files and the test set's truth where there are none to
    download.
    """

    name: str
    source: str
    files: Callable[[Path], list[Path]]
    read: Callable[[Path], Raw]
    metric: str
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    rle_order: Order
    write_masks: Callable[[Path, np.ndarray, np.ndarray | PackedMasks], None]
    read_masks: Callable[[Path], tuple[np.ndarray, PackedMasks]]
    generate: Callable[[Path, Path, Generate], None] | None = None


@dataclass(frozen=True)
class PhotoSplit:
    """Photographs in natural order of their names, read one at a time: a set may be larger than
    memory.
    """

    name: np.ndarray  # (N,) str
    size: np.ndarray  # (N, 2) int32, rows and columns
    read_image: Callable[[int], np.ndarray]  # the i-th, (H, W, C) of `Photographs.dtype`
    # the i-th, (K, H, W) uint8 of 0 and 1; classes may overlap
    read_mask: Callable[[int], np.ndarray] | None = None
    # (N,) int32, never split across folds; None: near-duplicates are looked for (src.duplicates)
    group: np.ndarray | None = None
    # (N,) int32, where photographs are frames of one video: their position along it
    frame: np.ndarray | None = None


@dataclass(frozen=True)
class Photographs:
    """What the organisers handed out: `classes` names the K kinds of defects, `dtype` is uint8,
    uint16 or float32.
    """

    train: PhotoSplit
    test: PhotoSplit
    classes: list[str]
    channels: int
    dtype: type
    notes: list[str]


@dataclass(frozen=True)
class PhotoCompetition:
    """What the pipeline asks of a competition of photographs.

    `source` says where the raw files come from; `files` lists those that `read` will read.
    `write_submission(path, folder, names, codes)` writes the organisers' file: from the raw folder,
    the names of the test photographs and, for each, its K run-length codes (column-major, 1-based;
    "" where nothing was found).
    """

    name: str
    source: str
    files: Callable[[Path, Data], list[Path]]
    read: Callable[[Path, Data], Photographs]
    metric: str
    write_submission: Callable[[Path, Path, Sequence[str], Sequence[Sequence[str]]], None]


def get(name: str) -> Competition | PhotoCompetition:
    """The competition called `name`.

    Raises:
        UserError: there is none.
    """
    modules = {
        module.name: import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    }
    known = {
        key: module.COMPETITION for key, module in modules.items() if hasattr(module, "COMPETITION")
    }
    if name not in known:
        raise UserError(f"no competition '{name}' in src/competitions: {did_you_mean(name, known)}")
    return known[name]
