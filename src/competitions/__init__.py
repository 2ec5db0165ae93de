"""One file a competition: what its raw files look like, its metric, its submission.

A file `src/competitions/<name>.py` that holds a `COMPETITION` is all it takes to add one.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from src.errors import UserError, did_you_mean
from src.recipe import Generate
from src.rle import Order


@dataclass(frozen=True)
class RawSplit:
    """The organisers' patches in natural order of their names, values untouched."""

    name: np.ndarray  # (N,) str
    image: np.ndarray  # (N, H, W) float32
    group: np.ndarray  # (N,) int32, the well
    number: np.ndarray  # (N,) int32, the patch's number in its well
    mask: np.ndarray | None = None  # (N, H, W) uint8


@dataclass(frozen=True)
class Raw:
    train: RawSplit
    test: RawSplit
    notes: list[str]  # what the user should know about how the files were read


@dataclass(frozen=True)
class Competition:
    """What the pipeline asks of a competition.

    `files` lists the raw files that `read` will read; `score` gives (N,) scores of masks against truth; `write_masks` and
    `read_masks` are the organisers' own mask layout; `generate` makes raw files and the test set's truth where there are none to
    download.
    """

    name: str
    files: Callable[[Path], list[Path]]
    read: Callable[[Path], Raw]
    metric: str
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    rle_order: Order
    write_masks: Callable[[Path, np.ndarray, np.ndarray], None]
    read_masks: Callable[[Path], tuple[np.ndarray, np.ndarray]]
    generate: Callable[[Path, Path, Generate], None] | None = None


def get(name: str) -> Competition:
    """The competition called `name`.

    Raises:
        UserError: there is none.
    """
    modules = {module.name: import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)}
    known = {key: module.COMPETITION for key, module in modules.items() if hasattr(module, "COMPETITION")}
    if name not in known:
        raise UserError(f"no competition '{name}' in src/competitions: {did_you_mean(name, known)}")
    return known[name]
