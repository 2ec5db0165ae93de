"""One file a competition: what its raw files look like, its metric, its submission.

A file `src/competitions/<name>.py` that holds a `COMPETITION` is all it takes to add one.
"""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.competitions.formats.masks import PackedMasks
from src.competitions.metrics import Metric
from src.recipe import Data, Generate
from src.terminal.errors import UserError, did_you_mean

Kind = Literal["wells", "photographs"]


@dataclass(frozen=True)
class PatchSplit:
    """Patches of wells in natural order of their names, values untouched, read a few at a time."""

    name: np.ndarray  # (N,) str
    read: Callable[[np.ndarray], np.ndarray]  # those in some rows (n,), (n, H, W) float32
    group: np.ndarray  # (N,) int32, the well
    number: np.ndarray  # (N,) int32, the patch's number in its well
    mask: PackedMasks | None = None  # (N, H, W)
    # (N,) int8: 1 where the patch's well is interleaved, 0 where not, -1 where that is measured
    interleaved: np.ndarray | None = None


@dataclass(frozen=True)
class PhotoSplit:
    """Photographs in natural order of their names, read one at a time."""

    name: np.ndarray  # (N,) str
    size: np.ndarray  # (N, 2) int32, rows and columns
    read_image: Callable[[int], np.ndarray]  # the i-th, (H, W, C) of `Raw.dtype`
    # the i-th, (K, H, W) uint8 of 0 and 1; classes may overlap
    read_mask: Callable[[int], np.ndarray] | None = None
    group: np.ndarray | None = None  # (N,) int32, never split; None: near-duplicates are found
    frame: np.ndarray | None = None  # (N,) int32, position along a video, where they are its frames


@dataclass(frozen=True)
class Raw:
    """What the organisers handed out: a set may be larger than memory.

    `classes` names the K kinds of defects of photographs, `dtype` is uint8, uint16 or float32;
    `notes` are what the user should know about how the files were read; `about` is kept in the
    metadata of the prepared test file. New data for a trained model have no `train`.
    """

    train: PatchSplit | PhotoSplit | None
    test: PatchSplit | PhotoSplit
    notes: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=lambda: ["corrosion"])
    channels: int = 1
    dtype: type = np.float32
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Competition:
    """What the pipeline asks of a competition, of wells or of photographs.

    `source` says where the raw files come from, `licence` under which terms. `files(folder,
    data)` lists the raw files that "train" and "test" are read from, and `read(folder, data)`
    reads them. Run-length codes go along rows or columns by `order`. `write_submission(path,
    folder, names, codes)` writes the organisers' file and reads it back: from the raw folder,
    the names of the test images and, for each, its K codes ("" where nothing was found).
    `generate(folder, truth, settings)` makes raw files and the test set's masks where there are
    none to download; `read_truth` reads these.
    """

    name: str
    kind: Kind
    source: str
    files: Callable[[Path, Data], dict[str, list[Path]]]
    read: Callable[[Path, Data], Raw]
    metric: Metric
    write_submission: Callable[[Path, Path, Sequence[str], Sequence[Sequence[str]]], None]
    order: Literal["row", "column"] = "column"
    licence: str = "not known here: ask those who made them"
    generate: Callable[[Path, Path, Generate], None] | None = None
    read_truth: Callable[[Path], tuple[np.ndarray, PackedMasks]] | None = None


def get(name: str) -> Competition:
    """The competition called `name`.

    Raises:
        UserError: there is none.
    """
    modules = [
        import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
    ]
    found = [module.COMPETITION for module in modules if hasattr(module, "COMPETITION")]
    known = {competition.name: competition for competition in found}
    if name not in known:
        raise UserError(f"no competition '{name}' in src/competitions: {did_you_mean(name, known)}")
    return known[name]
