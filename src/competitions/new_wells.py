"""New wells for a trained model, in the place of a competition's test set.

A .npy or .csv of a whole well, rows x 36 or 72 numbers, NaN or an empty cell where nothing was
measured; or patches as a challenge packs them (`src.competitions.formats.patches`): a zip or a CSV
of them, or .npy files called well_<n>_patch_<k>. One such file, or a folder of any number of them.
What cannot be read is left out, and told.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from src.competitions import Competition, PatchSplit, Raw
from src.competitions.formats.new_files import sorted_out
from src.competitions.formats.patches import (
    MOST_PATCHES,
    NAME,
    SIZE,
    check_numbers,
    in_order,
    npy_patches,
    read_images,
)
from src.recipe import Data
from src.terminal.errors import UserError

ENDINGS = (".npy", ".csv", ".csv.gz", ".zip")
LARGEST_CSV = 1 << 30  # bytes of a whole well
LONGEST = 1_000_000  # rows of a whole well
LARGEST_DEVIATION = 100.0  # as in src/wells/cleaning.py: what is beyond was not measured


def of(known: Competition) -> Competition:
    """A competition that reads new wells and is otherwise as the one that was trained for."""
    return replace(known, files=files, read=read, generate=None, read_truth=None)


def files(path: Path, data: Data) -> dict[str, list[Path]]:
    """Every file that `read` will read."""
    return {"train": [], "test": sorted_out(path, ENDINGS)[0]}


def read(path: Path, data: Data) -> Raw:
    """The patches of all wells in a file or folder; each is read once, to leave out what cannot be.

    Raises:
        UserError: nothing can be read.
    """
    found, refused = sorted_out(path, ENDINGS)
    loose: dict[str, Path] = {}
    sources: list[PatchSplit] = []
    whole = []
    for p in found:
        if _is_whole(p):
            whole.append(p)
        elif p.suffix.lower() == ".npy":
            if _attempt(lambda p=p: _patch(p, loose), refused):
                loose[p.stem] = p
        else:
            own = _attempt(lambda p=p: _sound(read_images(p), p), refused)
            sources += [own] if own else []
    if loose:
        own = _attempt(lambda: in_order(*npy_patches(list(loose.values())), path), refused)
        sources += [own] if own else []
    sources, taken = _apart(sources, refused), {}
    numbers = {well for own in sources for well in own.group.tolist()}
    stems = {f"well_{well}" for well in numbers}
    for p in whole:
        well = _attempt(lambda p=p: _whole(p, stems), refused)
        if well is not None:
            number = _number(p, numbers)
            numbers.add(number)
            stems.add(p.stem)
            taken[str(number)] = [p.name, len(well)]
            sources.append(_patches(well, number))
    if not sources:
        raise UserError(f"{path}: nothing can be predicted: {refused[0]}")
    notes = [f"{name} is well {n}" for n, (name, _) in taken.items()]
    joined = _joined(sources)
    if len(joined.name) > MOST_PATCHES:
        raise UserError(f"{path} holds {len(joined.name)} patches, more than {MOST_PATCHES}")
    check_numbers(joined.group, joined.number, path)
    return Raw(None, joined, notes, about={"refused": refused, "files": taken})


def _patch(path: Path, loose: Iterable[str]) -> bool:
    """That a loose patch can be read, and no other has its name."""
    if path.stem in loose:
        raise UserError(f"{path}: {path.stem} stands in two folders: keep the one that counts")
    npy_patches([path])[1](0)
    return True


def _number(path: Path, taken: set[int]) -> int:
    """The number of a whole well: that in its name, as in well_7.npy, or else a free one."""
    named = re.fullmatch(r"well_(0|[1-9]\d{0,4})", path.stem)
    if named and int(named[1]) not in taken:
        return int(named[1])
    return next(number for number in count(1) if number not in taken)


def _attempt(read_it: Callable[[], object], refused: list[str]) -> object | None:
    """What is read, or None, and why not among the `refused`."""
    try:
        return read_it()
    except UserError as error:
        refused.append(str(error))
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file is a whole well, not patches: by its name, or a CSV by its first line."""
    if path.suffix.lower() == ".npy":
        return not NAME.fullmatch(path.stem)
    if path.suffix.lower() != ".csv":
        return False
    with open(path, "rb") as stream:
        return stream.readline(1 << 16).count(b",") in (SIZE - 1, 2 * SIZE - 1)


def _sound(split: PatchSplit, path: Path) -> PatchSplit:
    """The split, every patch of which was read once and one of which measures something."""
    rows = range(0, len(split.name), 2048)
    if not any([_measured(split.read(np.arange(r, min(r + 2048, len(split.name))))) for r in rows]):
        raise UserError(f"{path} holds no measurement, only gaps: it is left out")
    return split


def _measured(image: np.ndarray) -> bool:
    return bool((np.abs(image) < LARGEST_DEVIATION).any())


def _whole(path: Path, stems: set[str]) -> np.ndarray:
    """A well (rows, 36 or 72) float32, NaN where nothing was measured.

    Args:
        stems: names that masks of other wells will have.
    """
    if path.stem in stems:
        raise UserError(f"{path}: another well is called {path.stem}: give it a name of its own")
    try:
        if path.suffix.lower() == ".npy":
            well = np.lib.format.open_memmap(path, mode="r")
        elif path.stat().st_size > LARGEST_CSV:
            raise ValueError(f"larger than {LARGEST_CSV >> 20} MiB, cut the well into parts")
        else:
            well = pd.read_csv(path, header=None, dtype=np.float32).to_numpy()
    except Exception as error:  # numpy's parser of headers raises whatever Python's tokenizer does
        raise UserError(f"{path}: cannot be read ({error}): save it again") from None
    if well.dtype.kind not in "fiu":
        raise UserError(f"{path} holds values of type {well.dtype}: save numbers")
    if well.ndim != 2 or well.shape[1] not in (SIZE, 2 * SIZE) or not len(well):
        size = " x ".join(map(str, well.shape))
        raise UserError(f"{path} is {size}: a well is rows x {SIZE}, or rows x {2 * SIZE}")
    if len(well) > LONGEST:
        raise UserError(f"{path} has {len(well)} rows, more than {LONGEST}: cut it into parts")
    with np.errstate(over="ignore"):
        well = np.array(well, np.float32)
    if (well[0] == np.arange(well.shape[1])).all():
        raise UserError(f"{path}: its first line numbers the columns: save it without a header")
    if not _measured(well):
        raise UserError(f"{path} holds no measurement, only gaps: it is left out")
    return well


def _patches(well: np.ndarray, number: int) -> PatchSplit:
    """A whole well as the challenge cuts one; its last patch is filled up with gaps.

    Of 72 columns the even ones are patch 2i and the odd ones patch 2i + 1 of a stretch.
    """
    gaps = np.full((-len(well) % SIZE, well.shape[1]), np.nan, np.float32)
    scans = well.shape[1] // SIZE
    cut = np.concatenate([well, gaps]).reshape(-1, SIZE, SIZE, scans)
    image = cut.transpose(0, 3, 1, 2).reshape(-1, SIZE, SIZE)
    count = np.arange(len(image), dtype=np.int32)
    name = np.array([f"well_{number}_patch_{k}" for k in count], object)
    group, known = np.full(len(image), number, np.int32), np.full(len(image), scans - 1, np.int8)
    return PatchSplit(name, image.__getitem__, group, count, interleaved=known)


def _apart(sources: list[PatchSplit], refused: list[str]) -> list[PatchSplit]:
    """Sources without those that hold a name that an earlier one has."""
    kept, seen = [], set()
    for own in sources:
        twice = seen & set(own.name)
        if twice:
            refused.append(f"{min(twice)} stands in two files: keep the one that counts")
        else:
            kept.append(own)
            seen |= set(own.name)
    return kept


def _joined(sources: list[PatchSplit]) -> PatchSplit:
    """All patches in order of well and number."""
    name, group, number = (
        np.concatenate([getattr(own, key) for own in sources])
        for key in ("name", "group", "number")
    )
    unknown = [np.full(len(own.name), -1, np.int8) for own in sources]
    known = [
        own.interleaved if own.interleaved is not None else u
        for own, u in zip(sources, unknown, strict=True)
    ]
    source = np.repeat(np.arange(len(sources)), [len(own.name) for own in sources])
    row = np.concatenate([np.arange(len(own.name)) for own in sources])
    order = np.lexsort((number, group))
    source, row = source[order], row[order]

    def read_rows(rows: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), SIZE, SIZE), np.float32)
        for which in np.unique(source[rows]):
            own = source[rows] == which
            result[own] = sources[which].read(row[rows[own]])
        return result

    return PatchSplit(
        name[order],
        read_rows,
        group[order],
        number[order],
        interleaved=np.concatenate(known)[order],
    )
