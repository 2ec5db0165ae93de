"""A split of pipes in blocks of whole wells: what is done to a strip needs all of its well, and
nothing needs all wells at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from src import artifacts
from src.artifacts import Arrays, Paths
from src.recipe import Recipe

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


def prepared(recipe: Recipe, paths: Paths, split: str, large: Sequence[str]) -> Blocks:
    """The test patches of the prepared file, or those training patches that count, which are in a
    fold.

    Args:
        large: which large arrays to read: `image`, `valid` (if it is absent all pixels are valid),
            `mask`.
    """
    path = paths.prepared(recipe)
    index = artifacts.read_split(path, split, ["name", "group", "depth", "phase"], ["fold"])
    rows = np.argsort(index["group"], kind="stable")
    if "fold" in index:
        rows = rows[index["fold"][rows] >= 0]
    there = [name for name in large if name != "valid" or artifacts.holds(path, f"{split}/valid")]
    shape = artifacts.read_shape(path, f"{split}/image")[1:]

    def read(place: np.ndarray) -> Arrays:
        arrays = artifacts.read_rows(path, [f"{split}/{name}" for name in there], rows[place])
        absent = {name: np.ones((len(place), *shape), bool) for name in large if name not in there}
        return {name.removeprefix(f"{split}/"): array for name, array in arrays.items()} | absent

    return Blocks({name: array[rows] for name, array in index.items()}, read)
