"""A split of pipes in blocks of whole wells: what is done to a strip needs all of its well, and
nothing needs all wells at once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from src.artifacts import hdf5
from src.artifacts.mapped import mapped
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays

PATCHES = 2048  # of a block, unless a single well has more


@dataclass(frozen=True)
class Blocks:
    """The patches of a split, wells next to each other; iterating, as often as one likes, gives the
    arrays of a block at a time.

    `index` holds the small arrays (N, ...) of all patches, such as `name` and `group`; `read` gives
    the large ones of the patches in some places (n,) of the index. A block has both, and its
    patches' places in the index as `place` (n,).
    """

    index: Arrays
    read: Callable[[np.ndarray], Arrays]

    def __len__(self) -> int:
        return len(self.index["group"])

    def __iter__(self) -> Iterator[Arrays]:
        return self.of(np.unique(self.index["group"]))

    def of(self, wells: Iterable[int]) -> Iterator[Arrays]:
        """The blocks of some wells alone."""
        own = np.flatnonzero(np.isin(self.index["group"], np.fromiter(wells, int)))
        ends = np.flatnonzero(np.diff(self.index["group"][own], append=-1) != 0) + 1
        first = 0
        while first < len(own):
            last = max(
                ends[np.searchsorted(ends, first, "right")],
                ends[ends <= first + PATCHES].max(initial=0),
            )
            place = own[first:last]
            yield {
                "place": place,
                **{name: array[place] for name, array in self.index.items()},
                **self.read(place),
            }
            first = last

    def joined(self, name: str, read: Callable[[np.ndarray], np.ndarray]) -> "Blocks":
        """The same blocks with one more large array."""
        return Blocks(self.index, lambda place: self.read(place) | {name: read(place)})


def prepared(run: Run, split: str, *large: str, every: bool = False) -> Blocks:
    """The test patches, or those training patches that count, which are in a fold that is run.

    Args:
        large: which large arrays to read: "image", "valid", "mask".
        every: also those training patches that do not count.
    """
    path = run.prepared(split)
    more = ["fold"] if split == "train" else []
    index = hdf5.read(path, "name", "group", "depth", "parity", *more)
    rows = np.argsort(index["group"], kind="stable")
    if split == "train" and not every:
        folds = run.recipe.folds
        rows = rows[np.isin(index["fold"][rows], folds.run or range(folds.number))]
    stored = mapped(path, *large)
    return Blocks(
        {name: array[rows] for name, array in index.items()},
        lambda place: {name: array[rows[place]] for name, array in stored.items()},
    )


def read_split(run: Run, split: str) -> Arrays:
    """A prepared split: its small arrays, but for the names, in memory, the large ones on disk."""
    path, train = run.prepared(split), split == "train"
    small = hdf5.read(path, "group", "depth", "parity", *["fold"] * train)
    return small | mapped(path, "image", "valid", *["mask"] * train)


def rows_of(arrays: Arrays, which: np.ndarray) -> Arrays:
    """The same arrays with only the patches `which` (a mask or indices)."""
    return {name: array[which] for name, array in arrays.items()}
