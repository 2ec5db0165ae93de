"""The submission files: written, read back, and checked before they get their final names."""

from pathlib import Path

import numpy as np
import pandas as pd

from src import artifacts, rle
from src.competitions import Competition
from src.errors import UserError


def write(path: Path, official: Path, names: np.ndarray, masks: np.ndarray, competition: Competition) -> None:
    """Write the run-length CSV (`name,rle`) to `path` and the organisers' own layout to `official`.

    Args:
        names: (N,) every test patch in the test set's order.
        masks: (N, H, W) of 0 and 1.

    Raises:
        UserError: what was written does not read back as these names and masks.
    """
    with artifacts.replacing(path) as partial, artifacts.replacing(official) as partial_official:
        _write_codes(partial, names, rle.encode(masks, competition.rle_order))
        _check(path, *_read_codes(partial, masks, competition), names, masks)
        competition.write_masks(partial_official, names, masks)
        _check(official, *competition.read_masks(partial_official), names, masks)


def _write_codes(path: Path, names: np.ndarray, codes: list[str]) -> None:
    pd.DataFrame({"name": names, "rle": codes}).to_csv(path, index=False, lineterminator="\n")


def _read_codes(path: Path, masks: np.ndarray, competition: Competition) -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table["name"].to_numpy(object), rle.decode(table["rle"], *masks.shape[1:], competition.rle_order)


def _check(path: Path, read_names: np.ndarray, read_masks: np.ndarray, names: np.ndarray, masks: np.ndarray) -> None:
    if list(read_names) != list(names):
        raise UserError(f"{path}: the submission does not hold the {len(names)} test patches in order; nothing was written")
    if read_masks.shape != masks.shape or (read_masks != masks).any():
        raise UserError(f"{path}: the submission's masks do not read back as predicted; nothing was written")
