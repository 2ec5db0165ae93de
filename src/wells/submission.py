"""The submission files: written, read back, and checked before they get their final names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src import artifacts
from src.artifacts import CreatedFrom, Paths
from src.competitions import Competition
from src.competitions.formats import rle
from src.competitions.formats.masks import ROWS, PackedMasks, pack, slices
from src.recipe import Recipe
from src.terminal import console
from src.terminal.errors import UserError


def write(
    path: Path,
    official: Path,
    names: np.ndarray,
    masks: np.ndarray | PackedMasks,
    competition: Competition,
) -> None:
    """Write the run-length CSV (`name,rle`) to `path` and the organisers' own layout to `official`.

    Args:
        names: (N,) every test patch in the test set's order.
        masks: (N, H, W) of 0 and 1, of which some are unpacked at a time.

    Raises:
        UserError: what was written does not read back as these names and masks.
    """
    with artifacts.replacing(path) as partial, artifacts.replacing(official) as partial_official:
        _write_codes(partial, names, masks, competition)
        _check(path, *_read_codes(partial, masks, competition), names, masks)
        competition.write_masks(partial_official, names, masks)
        _check(official, *competition.read_masks(partial_official), names, masks)


def _write_codes(
    path: Path, names: np.ndarray, masks: np.ndarray | PackedMasks, competition: Competition
) -> None:
    for rows in slices(len(masks)):
        table = pd.DataFrame(
            {"name": names[rows], "rle": rle.encode(masks[rows], competition.rle_order)}
        )
        table.to_csv(
            path,
            mode="a" if rows.start else "w",
            header=not rows.start,
            index=False,
            lineterminator="\n",
        )


def _read_codes(
    path: Path, masks: np.ndarray | PackedMasks, competition: Competition
) -> tuple[np.ndarray, PackedMasks]:
    names, bits, size = [], [], masks.shape[1:]
    with pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=ROWS) as tables:
        for table in tables:
            names += table["name"].tolist()
            bits.append(pack(rle.decode(table["rle"], *size, competition.rle_order)))
    return np.array(names, object), PackedMasks(np.concatenate(bits), size)


def _check(
    path: Path,
    read_names: np.ndarray,
    read: PackedMasks,
    names: np.ndarray,
    masks: np.ndarray | PackedMasks,
) -> None:
    if list(read_names) != list(names):
        raise UserError(
            f"{path}: the submission does not hold the {len(names)} test patches in "
            "order; nothing was written"
        )
    if read.shape != masks.shape or any(
        (read[rows] != masks[rows]).any() for rows in slices(len(masks))
    ):
        raise UserError(
            f"{path}: the submission's masks do not read back as predicted; nothing was written"
        )


def write_scores(
    recipe: Recipe,
    paths: Paths,
    result: dict[str, Any],
    inputs: CreatedFrom,
    endings: Sequence[str],
) -> None:
    """Write submissions/<recipe>.json: the scores, with the digests of the submission's files;
    the last of them to be written.
    """
    files = {
        path.name: artifacts.digest_files([path])
        for path in (paths.submission(recipe, ending) for ending in endings)
    }
    artifacts.write_json(paths.submission(recipe, ".json"), {**result, "files": files}, inputs)


def is_done(recipe: Recipe, paths: Paths, inputs: CreatedFrom) -> bool:
    """Whether the scores and the submission's files are there, undamaged and up to date."""
    scores = paths.submission(recipe, ".json")
    if not artifacts.up_to_date(scores, inputs):
        return False
    for name, own in read_scores(recipe, paths)["files"].items():
        file = scores.parent / name
        if not file.is_file():
            return False
        if artifacts.digest_files([file]) != own:
            console.say(
                f"{file} is damaged or was changed (its checksum does not fit): it is made again"
            )
            return False
    return True


def told(result: dict[str, Any]) -> str:
    """The scores in one line."""
    scores = [f"out-of-fold score {result['oof_score']:.4f}"]
    if "expected_score" in result:
        low, high = result["expected_interval"]
        scores.append(
            f"to expect on the test set {result['expected_score']:.2f} ({low:.2f} to {high:.2f})"
        )
    if "test_score" in result:
        scores.append(f"test score {result['test_score']:.4f}")
    return ", ".join(scores)


def read_scores(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """The scores that `write_scores` wrote."""
    return artifacts.read_json(paths.submission(recipe, ".json"))
