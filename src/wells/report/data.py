"""What the prepared files of wells hold, for the data report."""

import hashlib
from pathlib import Path

import h5py
import numpy as np

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions.formats.masks import slices
from src.report import pictures
from src.report.data import DataReport, Finding, Row, Shown, Table, finding, shortened

GAPS = 0.1  # of a patch that is not measured: more is told
COLUMNS = ["Patches", "Not measured", "Corroded patches", "Corroded area"]


def report(run: Run) -> DataReport:
    """The tables and findings; the files are read a few thousand patches at a time."""
    paths = {split: run.prepared(split) for split in run.splits}
    known = {split: facts(path) for split, path in paths.items()}
    train, test = known["train"], known["test"]
    return DataReport(
        [_splits(paths, known), _folds(train), _wells(known)],
        [*_twins(paths, train, test), *_masks(paths, train), *_values(paths, train, test)],
    )


def facts(path: Path) -> Arrays:
    """What is counted on each patch (N,) of a prepared file, beside its small arrays.

    That is how many pixels are `missing`, not measured, and with masks how many are `true` and how
    many of these are `blind`, not measured; whether all measured values are the same, `flat`; and a
    digest of these values, `twin`, alike for patches with the same.
    """
    with hdf5.reading(path) as file:
        small = [name for name in file if file[name].ndim == 1]
        parts = [_count(file, rows) for rows in slices(len(file["image"]))]
        size = int(np.prod(file["image"].shape[1:]))
    counted = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return hdf5.read(path, *small) | counted | {"size": np.array(size)}


def _count(file: h5py.File, rows: slice) -> Arrays:
    image, valid = file["image"][rows], file["valid"][rows]
    measured = np.where(valid, image, 0)  # what was filled in hangs on the neighbours
    low, high = (np.where(valid, image, end).reshape(len(image), -1) for end in (np.inf, -np.inf))
    values = [
        hashlib.blake2b(own.tobytes() + there.tobytes(), digest_size=8).digest()
        for own, there in zip(measured, valid, strict=True)
    ]
    counted = {
        "missing": (~valid).sum((1, 2)),
        "flat": low.min(1) == high.max(1),
        "twin": np.frombuffer(b"".join(values), np.uint64),
    }
    if "mask" in file:
        mask = file["mask"][rows] > 0
        counted |= {"true": mask.sum((1, 2)), "blind": (mask & ~valid).sum((1, 2))}
    return counted


def _cells(known: Arrays, own: np.ndarray) -> Row:
    """The cells of `COLUMNS` for some patches."""
    number, size = int(own.sum()), int(known["size"])
    cells: Row = [number, float(known["missing"][own].sum() / size / number)]
    if "true" not in known:
        return [*cells, "\u2013", "\u2013"]
    true = known["true"][own]
    return [*cells, float((true > 0).mean()), float(true.sum() / size / number)]


def _splits(paths: dict[str, Path], known: dict[str, Arrays]) -> Table:
    rows: list[Row] = []
    for split, own in known.items():
        height, width = hdf5.shape(paths[split], "image")[1:]
        wells, scans = (np.unique(own["group"][own["parity"] >= k]) for k in (0, 1))
        rows.append([split, f"{height}\u2009\u00d7\u2009{width}", len(wells), len(scans)])
        rows[-1] += _cells(own, np.ones(len(own["group"]), bool))
    return Table("Files", ["File", "Pixels", "Wells", "Interleaved wells", *COLUMNS], rows)


def _folds(train: Arrays) -> Table:
    rows = []
    for fold in np.unique(train["fold"]).tolist():
        own = train["fold"] == fold
        wells = ", ".join(map(str, np.unique(train["group"][own])))
        rows.append([f"{fold}" if fold >= 0 else "in none", wells, *_cells(train, own)])
    return Table("Folds", ["Fold", "Wells", *COLUMNS], rows)


def _wells(known: dict[str, Arrays]) -> Table:
    wells = [(own, well) for own in known.values() for well in np.unique(own["group"]).tolist()]

    def row(key: tuple[Arrays, int]) -> Row:
        arrays, well = key
        own = arrays["group"] == well
        folds = set(arrays["fold"][own].tolist()) - {-1} if "fold" in arrays else {"test"}
        told = ", ".join(map(str, sorted(folds))) or "in none"
        scan = "yes" if arrays["parity"][own].any() else "no"
        return [f"Well {well}", told, scan, *_cells(arrays, own)]

    return shortened("Wells", ["Well", "Fold", "Interleaved", *COLUMNS], wells, row)


def _twins(paths: dict[str, Path], train: Arrays, test: Arrays) -> list[Finding]:
    """Patches with the same measured values, where that lets a score know what it should not."""
    seen = train["missing"] < train["size"]
    folded = seen & (train["fold"] >= 0)
    known, first = _firsts(train, seen, test["twin"])
    among, own = _firsts(train, folded, train["twin"])
    apart = among & folded & (train["fold"][own] != train["fold"])
    return [
        finding(
            "test patches with the values of a training patch",
            known,
            "The same measured values: the networks know the answer, and the score on the test "
            "set is flattered.",
            lambda row: _pair(paths, ("test", row), ("train", int(first[row]))),
        ),
        finding(
            "training patches with the values of one in another fold",
            apart,
            "The same measured values on both sides of a fold: the out-of-fold score is "
            "flattered. Put both wells into one group.",
            lambda row: _pair(paths, ("train", row), ("train", int(own[row]))),
        ),
    ]


def _firsts(train: Arrays, some: np.ndarray, twin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether values are among those of some training patches, and the first row that has them."""
    rows = np.flatnonzero(some)
    values, first = np.unique(train["twin"][rows], return_index=True)
    if not len(rows):
        return np.zeros(len(twin), bool), np.zeros(len(twin), int)
    place = np.searchsorted(values, twin).clip(max=len(values) - 1)
    return values[place] == twin, rows[first[place]]


def _masks(paths: dict[str, Path], train: Arrays) -> list[Finding]:
    true, blind, size = train["true"], train["blind"], train["size"]
    return [
        finding(what, where, means, lambda row: _one(paths, "train", row))
        for what, where, means in (
            (
                "masks that are full",
                true == size,
                "Every pixel is marked: an inverted or a forgotten mask?",
            ),
            ("masks of a single pixel", true == 1, "A slip of the pen, or the rest of a cut?"),
            (
                "empty masks between two corroded patches",
                _between(train),
                "A groove runs along depth, above and below this patch but not through it: "
                "overlooked?",
            ),
            (
                "masks that lie mostly where nothing was measured",
                2 * blind > true,
                "No network can see what is marked there.",
            ),
        )
    ]


def _between(train: Arrays) -> np.ndarray:
    """(N,) whether a patch is empty, and the next ones of its strip above and below are not."""
    order = np.lexsort([train[name] for name in ("depth", "parity", "group")])
    group, parity, depth = (train[name][order] for name in ("group", "parity", "depth"))
    next_too = (np.diff(group) == 0) & (np.diff(parity) == 0) & (np.diff(depth) == 1)
    corroded, result = train["true"][order] > 0, np.zeros(len(order), bool)
    here, above, below = ~corroded[1:-1], corroded[:-2] & next_too[:-1], corroded[2:] & next_too[1:]
    result[order[1:-1]] = here & above & below
    return result


def _values(paths: dict[str, Path], train: Arrays, test: Arrays) -> list[Finding]:
    size, both = int(train["size"]), len(train["missing"])
    missing, flat = (np.concatenate([train[name], test[name]]) for name in ("missing", "flat"))

    def picture(row: int) -> Shown:
        return _one(paths, "train", row) if row < both else _one(paths, "test", row - both)

    return [
        finding(
            "patches without a measured pixel",
            missing == size,
            "Corrupt as a whole, and filled from the neighbours: they are not trained on.",
            picture,
        ),
        finding(
            f"patches of which more than {GAPS:.0%} is not measured",
            (missing > GAPS * size) & (missing < size),
            "Corrupt pixels are filled from their neighbours, shown in violet.",
            picture,
        ),
        finding(
            "patches whose measured pixels have all one value",
            flat,
            "A scan that stood still, or a value that stands for none.",
            picture,
        ),
    ]


def _one(paths: dict[str, Path], split: str, row: int) -> Shown:
    own = _read(paths, split, row)
    return Shown(f"{own['name']} ({split})", [_drawn(own)])


def _pair(paths: dict[str, Path], *places: tuple[str, int]) -> Shown:
    both = [_read(paths, *place) for place in places]
    names = [f"{own['name']} ({split})" for own, (split, _) in zip(both, places, strict=True)]
    return Shown(" and ".join(names), [_drawn(own) for own in both])


def _read(paths: dict[str, Path], split: str, row: int) -> Arrays:
    names = ["name", "image", "valid", *(["mask"] if split == "train" else [])]
    with hdf5.reading(paths[split]) as file:
        own = {name: file[name][row] for name in names}
    return own | {"name": own["name"].decode()}


def _drawn(own: Arrays) -> str:
    return pictures.raw_patch(own["image"], own["valid"], own.get("mask"))
