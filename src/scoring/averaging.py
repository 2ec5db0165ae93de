"""Averages of predictions by name, a few images at a time: seeds, folds and members together."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from src.artifacts import hdf5
from src.artifacts.hdf5 import Packed, Writer
from src.artifacts.run import Run
from src.artifacts.sealed import Inputs
from src.scoring.processes import in_order
from src.terminal.errors import UserError

BATCH = 1 << 26  # bytes of probabilities in memory at a time


class Average:
    """The mean probabilities of several sources, read when asked for.

    Args:
        sources: to be averaged, each a list of files that together hold every name once (the folds
            of one member and seed, out of fold; a single file for the test set).
        within: the group of the arrays in a file: "" in those of a task, "oof/" in an ensemble's.
        names: (N,) the images in the order of `mean`; by default that of the first source.

    Raises:
        UserError: a file is missing or damaged, or a source does not hold these names.
    """

    def __init__(
        self, sources: list[list[Path]], within: str = "", names: np.ndarray | None = None
    ) -> None:
        self.sources, self.within, self._files = sources, within, {}
        self.where: list[tuple[np.ndarray, np.ndarray]] = []  # of each name the file and its row
        for files in sources:
            own = [hdf5.read(file, f"{within}name")[f"{within}name"] for file in files]
            names = np.concatenate(own) if names is None else names
            rows = rows_by_name(np.concatenate(own), names, str(files[0]))
            ends = np.cumsum([len(part) for part in own])
            file = np.searchsorted(ends, rows, side="right")
            self.where.append((file.astype(np.int16), rows - np.append(0, ends)[file]))
        self.names = names
        self.row_of = {name: row for row, name in enumerate(names)}
        shapes = [
            self._open(file)[f"{within}probability"].shape[1:]
            for files in sources
            for file in files
        ]
        self.shape = tuple(np.max(shapes, axis=0).tolist())

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": {}}  # an open file does not travel to another process

    def mean(self, place: np.ndarray) -> np.ndarray:
        """(n, K, H, W) float16 of the images in some places (n,) of `names`.

        Beyond the size of an image that is smaller than the largest lie zeros.
        """
        if len(self.sources) == 1:
            (only,) = self._each(place, np.float16)
            return only
        total = np.zeros((len(place), *self.shape), np.float32)
        for own in self._each(place):
            total += own
        return self._as(total / len(self.sources), np.float16)

    def deviation(self, place: np.ndarray) -> np.ndarray:
        """How much the sources disagree: the standard deviation of their probabilities, like
        `mean`; 0 to one half.
        """
        mean, squares = np.zeros((2, len(place), *self.shape), np.float32)
        for number, own in enumerate(self._each(place), 1):  # Welford 1962
            step = own - mean
            mean += step / number
            squares += step * (own - mean)
        return self._as(np.sqrt(squares / len(self.sources)), np.float16)

    def mean_and_disagreement(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """`mean` (1, K, H, W) of one image, and for each class (K,) the mean over the image of
        `deviation`.
        """
        at = np.array([place])
        each = list(self._each(at))
        total = sum(each[1:], start=each[0].copy())
        mean = total / len(each)
        spread = np.sqrt(sum((own - mean) ** 2 for own in each) / len(each))
        pixels = self.size(at)[0].prod()
        return self._as(mean, np.float16), spread[0].sum((1, 2), dtype=np.float64) / pixels

    def stored(self, place: int) -> Packed:
        """An image of the only source, as it is stored."""
        ((files, (file, row)),) = zip(self.sources, self.where, strict=True)
        data = self._open(files[file[place]])[f"{self.within}probability"]
        return Packed.of(data, int(row[place]))

    def mask(self, place: int) -> np.ndarray:
        """The mask (K, h, w) that stage 04 made of an image, from an ensemble's file."""
        ((files, (file, row)),) = zip(self.sources, self.where, strict=True)
        height, width = self.size(np.array([place]))[0]
        path = files[file[place]]
        with hdf5.legible(path):
            return self._open(path)[f"{self.within}mask"][row[place], :, :height, :width]

    def alike(self, shape: tuple[int, ...]) -> bool:
        """Whether every file has room for images (K, H, W) of just this shape."""
        files = [self._open(file) for own in self.sources for file in own]
        return all(file[f"{self.within}probability"].shape[1:] == shape for file in files)

    def _each(self, place: np.ndarray, dtype: type = np.float32) -> Iterator[np.ndarray]:
        """(n, K, H, W) of each source, one after the other."""
        for files, (file, row) in zip(self.sources, self.where, strict=True):
            numbers, whole = np.unique(file[place]), (len(place), *self.shape)
            if len(numbers) == 1:
                read = self._as(self._rows(files[numbers[0]], row[place]), dtype)
                if read.shape == whole:
                    yield read
                    continue
            result = np.zeros(whole, dtype)
            for number in numbers:
                own = np.flatnonzero(file[place] == number)
                read = self._as(self._rows(files[number], row[place][own]), dtype)
                result[(own, *(slice(size) for size in read.shape[1:]))] = read
            yield result

    def of(self, name: str, deviation: bool = False) -> np.ndarray:
        """(K, h, w) float32 of one image of any size: the mean, or the deviation."""
        return self._as(self.half(name, deviation), np.float32)

    def half(self, name: str, deviation: bool = False) -> np.ndarray:
        """`of` as float16, as it is stored."""
        place = np.array([self.row_of[name]])
        whole = self.deviation(place) if deviation else self.mean(place)
        height, width = self.size(place)[0]
        return whole[0, :, :height, :width]

    def _as(self, array: np.ndarray, dtype: type) -> np.ndarray:
        """`astype` of float16 or float32 to the other. Torch does it 20 times as fast, which counts
        for photographs; for patches its import would cost more.
        """
        if not self.sized or array.dtype == dtype:
            return array.astype(dtype, copy=False)
        import torch

        wanted = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.from_numpy(array).to(wanted).numpy()

    def size(self, place: np.ndarray) -> np.ndarray:
        """(n, 2) rows and columns of some images."""
        (files, *_), (file, row), *_ = self.sources, *self.where
        result = np.tile(np.array(self.shape[1:]), (len(place), 1))
        for number in np.unique(file[place]):
            opened = self._open(files[number])
            if f"{self.within}size" in opened:
                own = file[place] == number
                result[own] = opened[f"{self.within}size"][:][row[place][own]]
        return result

    @property
    def sized(self) -> bool:
        """Whether the images differ in size."""
        return f"{self.within}size" in self._open(self.sources[0][0])

    def _open(self, path: Path) -> h5py.File:
        if path not in self._files:
            with hdf5.reading(path):  # an error where it is damaged
                self._files[path] = h5py.File(path)
        return self._files[path]

    def _rows(self, path: Path, rows: np.ndarray) -> np.ndarray:
        """Rows that follow each other are read at once."""
        data = self._open(path)[f"{self.within}probability"]
        order = np.argsort(rows, kind="stable")
        runs = np.split(rows[order], np.flatnonzero(np.diff(rows[order]) != 1) + 1)
        with hdf5.legible(path):
            parts = [data[run[0] : run[-1] + 1] for run in runs]
        if len(rows) == 1:
            return parts[0]
        result = np.empty((len(rows), *data.shape[1:]), data.dtype)
        result[order] = np.concatenate(parts)
        return result


def rows_by_name(
    have: np.ndarray, want: np.ndarray, where: str, subset: bool = False
) -> np.ndarray:
    """For each wanted name its row in `have`; both must hold the same names, each once, unless
    what is wanted may be a `subset`.

    Raises:
        UserError: they do not; `where` is the file to blame.
    """
    row_of = {name: row for row, name in enumerate(have)}
    odd = set(want) - row_of.keys() if subset else row_of.keys() ^ set(want)
    if len(row_of) < len(have) or odd:
        first = min(odd, default="a name that stands twice")
        raise UserError(
            f"{where}: holds other images than expected ({first}): "
            "run the stage that makes it again with --force"
        )
    return np.array([row_of[name] for name in want], np.int64)


def oof(run: Run, role: str = "segment") -> Average:
    """Out of fold, in the order of train.h5: a source for each member and seed, a file a fold."""
    sources: dict[tuple[str, int], list[Path]] = {}
    for task in run.tasks(role):
        sources.setdefault((task.member, task.seed), []).append(run.oof(task))
    return Average(list(sources.values()), names=scored_names(run))


def scored_names(run: Run) -> np.ndarray:
    """The training images that count, those in a fold that is run, in the order of train.h5."""
    known = hdf5.read(run.prepared("train"), "name", "fold")
    return known["name"][
        np.isin(known["fold"], run.recipe.folds.run or range(run.recipe.folds.number))
    ]


def test(run: Run, role: str = "segment", fold: int | None = None) -> Average:
    """The test set: every task, or every task of a fold, is a source of its own."""
    tasks = [task for task in run.tasks(role) if fold is None or task.fold == fold]
    return Average([[run.test(task)] for task in tasks])


def of_ensemble(run: Run, part: str) -> Average:
    """What stage 03 has averaged: "oof" or "test"."""
    return Average([[run.ensemble]], f"{part}/")


def write(run: Run, inputs: Inputs) -> dict[str, int]:
    """Write the ensemble's file; returns how many images each part has.

    `oof` and `test` hold `name`, `probability` (N, K, H, W) float16 and, where images differ in
    size, `size` (N, 2), zeros lying beyond it; then also `disagreement` (N, K), the mean over an
    image of the `deviation` of several sources. The test set lacks what image classifiers reject;
    what these think of every test image stands in `classifier/name` and `probability` (N,).
    """
    parts = {part: {"oof": oof, "test": test}[part](run) for part in run.parts}
    with hdf5.writing(run.ensemble, inputs) as file:
        for part, average in parts.items():
            file.put(f"{part}/name", average.names)
            if average.sized:
                _write_sized(file, part, average)
                continue
            file.create(f"{part}/probability", (len(average), *average.shape), np.float16)
            for rows in batches(average):
                file.write(f"{part}/probability", int(rows[0]), average.mean(rows))
        if run.tasks("classify"):
            verdict = test(run, "classify")
            file.put("classifier/name", verdict.names)
            file.put("classifier/probability", verdict.mean(np.arange(len(verdict)))[:, 0, 0, 0])
    return {part: len(average) for part, average in parts.items()}


def _write_sized(file: Writer, part: str, average: Average) -> None:
    """The averages of images that differ in size, an image at a time."""
    places = np.arange(len(average))
    size = average.size(places)
    file.put(f"{part}/size", size)
    name, largest = f"{part}/probability", size.max(0, initial=1).tolist()
    shape = (len(average), average.shape[0], *largest)
    file.create(name, shape, np.float16, compressed=True)
    if len(average.sources) == 1 and average.alike(shape[1:]):
        for place in places.tolist():
            file.write(name, place, average.stored(place))
        return
    apart, of_one = np.zeros(shape[:2]), partial(_packed, average, shape[1:])
    for place, (packed, own) in enumerate(in_order(of_one, places.tolist())):
        file.write(name, place, packed)
        apart[place] = own
    if len(average.sources) > 1:
        file.put(f"{part}/disagreement", apart)


def _packed(average: Average, shape: tuple[int, ...], place: int) -> tuple[Packed, np.ndarray]:
    """`mean_and_disagreement` of an image, packed for an array of such `shape` (K, H, W)."""
    mean, apart = average.mean_and_disagreement(place)
    return hdf5.pack(mean[..., : shape[1], : shape[2]], shape), apart


def batches(average: Average) -> Iterator[np.ndarray]:
    """Places of an average's images, as many at a time as memory is to hold."""
    size = max(1, BATCH // (4 * max(1, int(np.prod(average.shape)))))
    for first in range(0, len(average), size):
        yield np.arange(first, min(first + size, len(average)))
