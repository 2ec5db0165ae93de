"""The ring geometry: wells, strips, windows.

A patch is 36 rows of depth by 36 columns of azimuth, once around the pipe: column 35 touches column
0. In most wells patch k + 1 continues patch k downwards. Some wells were scanned with 72 azimuths
and cut by column parity: patch 2i holds the even columns and patch 2i + 1 the odd columns of the
same stretch. `depth` counts patches downwards, `parity` is 0 for even and 1 for odd columns, and a
strip is one well and one parity from top to bottom.
"""

from dataclasses import dataclass

import numpy as np


def interleave_ratio(image: np.ndarray, valid: np.ndarray, number: np.ndarray) -> float:
    """How near the patches of a well come to being even and odd columns of one scan: below 1 they
    are.

    If patches 2i and 2i + 1 are interleaved, each column of one lies between two columns of the
    other and so differs from both by less than neighbouring columns of one patch differ. Returned
    is the larger of the two mean differences over the mean step inside a patch. Measured on the
    challenge: .54 to .87 in the 8 interleaved wells, 1.4 to 3.8 in the 12 others.

    Args:
        image: (N, H, W) of one well; `valid` likewise, bool.
        number: (N,) patch numbers k.

    Returns:
        The ratio, or infinity where no pair of patches allows the measurement.
    """
    row_of = {int(k): row for row, k in enumerate(number)}
    pairs = [(row_of[k], row_of[k + 1]) for k in row_of if k % 2 == 0 and k + 1 in row_of]
    if not pairs:
        return np.inf
    even, odd = np.array(pairs).T
    step = _mean_step(image, np.roll(image, -1, 2), valid, np.roll(valid, -1, 2))
    inside = _mean_step(image[even], image[odd], valid[even], valid[odd])
    across = _mean_step(
        image[odd], np.roll(image[even], -1, 2), valid[odd], np.roll(valid[even], -1, 2)
    )
    ratio = np.fmax(inside, across) / step if step > 0 else np.inf
    return np.inf if np.isnan(ratio) else float(ratio)


def _mean_step(a: np.ndarray, b: np.ndarray, a_valid: np.ndarray, b_valid: np.ndarray) -> float:
    both = a_valid & b_valid
    return float(np.abs(a[both] - b[both], dtype=np.float64).mean()) if both.any() else np.nan


def locate(
    image: np.ndarray,
    valid: np.ndarray,
    group: np.ndarray,
    number: np.ndarray,
    known: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and parity, (N,) int32 each, of patches (N, H, W) by well and patch number.

    Interleaved wells are found by measurement, unless it is `known` (N,): 1 they are, 0 they are
    not, -1 measure.
    """
    depth, parity = number.astype(np.int32), np.zeros(len(number), np.int32)
    for well in np.unique(group):
        own = np.flatnonzero(group == well)
        found = -1 if known is None else int(known[own[0]])
        if found < 0:
            found = interleave_ratio(image[own], valid[own], number[own]) < 1
        if found:
            depth[own], parity[own] = number[own] // 2, number[own] % 2
    return depth, parity


@dataclass(frozen=True)
class Strip:
    """One well and parity, downwards: `index[d]` is the row of the patch at the d-th depth from
    its top, -1 where one is missing.
    """

    group: int
    parity: int
    index: np.ndarray

    def stack(self, patches: np.ndarray) -> np.ndarray:
        """The strip (H * n, W) of patches (N, H, W); a missing patch is zeros."""
        stacked = np.where(
            (self.index < 0)[:, None, None], np.zeros_like(patches[:1]), patches[self.index]
        )
        return stacked.reshape(-1, patches.shape[2])

    def unstack(self, strip: np.ndarray, patches: np.ndarray) -> None:
        """The inverse of `stack`: writes the strip's rows into their places in `patches` (N, H,
        W).
        """
        present = self.index >= 0
        patches[self.index[present]] = strip.reshape(len(self.index), -1, strip.shape[1])[present]


def strips(group: np.ndarray, depth: np.ndarray, parity: np.ndarray) -> list[Strip]:
    """The strips of all wells, by well and then by parity."""
    result = []
    for well, half in sorted(set(zip(group.tolist(), parity.tolist(), strict=True))):
        own = np.flatnonzero((group == well) & (parity == half))
        place = depth[own] - depth[own].min()
        index = np.full(place.max() + 1, -1)
        index[place] = own
        result.append(Strip(well, half, index))
    return result


def interleaved(group: np.ndarray, parity: np.ndarray) -> np.ndarray:
    """(N,) bool, whether the patch's well was scanned with twice as many azimuths and cut into
    even and odd columns.
    """
    return np.isin(group, group[parity > 0])


def average_neighbours(
    probability: np.ndarray, group: np.ndarray, depth: np.ndarray, parity: np.ndarray
) -> np.ndarray:
    """Interleaved patches averaged as half-pixel neighbours: on the full ring, each column becomes
    1/2 of itself and 1/4 of each neighbour.

    A column's two neighbours come from the other patch of the same stretch. A patch without one
    stays as it is.

    Args:
        probability: (N, ..., W), patches by row; `group`, `depth`, `parity` (N,).
    """
    result, (even, odd) = probability.copy(), _neighbours(group, depth, parity)
    e, o = probability[even], probability[odd]
    result[even] = e / 2 + (o + np.roll(o, 1, -1)) / 4
    result[odd] = o / 2 + (e + np.roll(e, -1, -1)) / 4
    return result


def _neighbours(group: np.ndarray, depth: np.ndarray, parity: np.ndarray) -> np.ndarray:
    """(2, P) rows of the even and of the odd columns of the same stretch of pipe."""
    row_of = {
        key: row
        for row, key in enumerate(zip(group.tolist(), depth.tolist(), parity.tolist(), strict=True))
    }
    pairs = [
        (row, row_of[well, d, 1])
        for (well, d, half), row in row_of.items()
        if half == 0 and (well, d, 1) in row_of
    ]
    return np.array(pairs, np.int64).reshape(-1, 2).T


@dataclass(frozen=True)
class Canvas:
    """All strips of a split laid end to end, so that any window of rows is one slice.

    Above and below each strip lie `margin` rows that repeat its end rows; a missing patch repeats
    its nearest row. Everything is an index, so images, masks and weights are laid out alike, on any
    device.
    """

    source: np.ndarray  # (R,) int32: which row of the stacked patches (N * H) each row shows
    real: np.ndarray  # (R,) True where that is the row's own place, False for repeats
    first: np.ndarray  # (S,) canvas row where each strip begins, margin excluded
    length: np.ndarray  # (S,) rows of each strip

    @staticmethod
    def of(strips: list[Strip], patch_height: int, margin: int) -> "Canvas":
        source, real, first, length, total = [], [], [], [], 0
        for strip in strips:
            rows = (strip.index[:, None] * patch_height + np.arange(patch_height)).ravel()
            present = np.repeat(strip.index >= 0, patch_height)
            known = np.flatnonzero(present)
            place = np.clip(np.arange(-margin, len(rows) + margin), 0, len(rows) - 1)
            after = np.searchsorted(known, place).clip(max=len(known) - 1)
            before = (after - 1).clip(min=0)
            nearest = np.where(
                np.abs(known[before] - place) < np.abs(known[after] - place),
                known[before],
                known[after],
            )
            source.append(rows[nearest].astype(np.int32))  # up to 59 million patches of 36 rows
            real.append(np.pad(present, margin))
            first.append(total + margin)
            length.append(len(rows))
            total += len(place)
        ends = np.array(first), np.array(length)
        return Canvas(np.concatenate(source), np.concatenate(real), *ends)

    @property
    def position(self) -> np.ndarray:
        """(N * H,) the canvas row of each row of the stacked patches, where all lie on it."""
        position = np.empty(self.real.sum(), np.int64)
        position[self.source[self.real]] = np.flatnonzero(self.real)
        return position

    def windows(self, height: int, margin: int) -> np.ndarray:
        """First rows (M,) of windows of `height` rows whose inner rows, without `margin` at both
        ends, cover every strip.
        """
        starts = []
        for first, length in zip(self.first, self.length, strict=True):
            # the last window ends `margin` below the strip, or covers it whole
            last = max(length + margin - height, -margin)
            starts.append(first + np.append(np.arange(-margin, last, height - 2 * margin), last))
        return np.concatenate(starts)
