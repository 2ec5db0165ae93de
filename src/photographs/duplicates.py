"""Photographs that look alike must not be split across folds: strips cut from one coil, one tile
under other lighting.
"""

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.sparse.csgraph import connected_components

SIZE = (8, 32)  # rows and columns of a thumbnail: strips of steel are wide
ALIKE = 0.98  # correlation of two thumbnails
BLOCK = 1024  # rows of the matrix of correlations at a time


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Mean intensities (256,) float32 of the cells of an 8x32 grid over a photograph (H, W, C),
    less their mean, of length 1.
    """
    grey = Image.fromarray(image.mean(2, dtype=np.float32))
    small = np.asarray(grey.resize(SIZE[::-1], Image.Resampling.BOX)).ravel()
    small = small - small.mean()
    return small / max(np.linalg.norm(small), np.finfo(np.float32).tiny)


def groups(thumbnails: np.ndarray) -> np.ndarray:
    """A number (N,) int32 for each photograph, the same for all that are linked by thumbnails that
    correlate above `ALIKE`.

    Args:
        thumbnails: (N, 256), as `thumbnail` makes them, so that products are correlations. A blank
            photograph is like no other.
    """
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for first in range(0, len(thumbnails), BLOCK):
        a, b = np.nonzero(thumbnails[first : first + BLOCK] @ thumbnails[first:].T > ALIKE)
        ends.append((a + first, b + first))
    a, b = (np.concatenate(side) for side in zip(*ends, strict=True))
    links = sparse.coo_array(
        (np.ones(len(a), bool), (a, b)), shape=(len(thumbnails), len(thumbnails))
    )
    return connected_components(links, directed=False)[1].astype(np.int32)


def nearest(thumbnails: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each photograph (N,) the row of the one among others (M, 256) that looks most like it;
    -1 where none correlates above `ALIKE`.
    """
    result = np.full(len(thumbnails), -1)
    for first in range(0, len(thumbnails) if len(others) else 0, BLOCK):
        alike = thumbnails[first : first + BLOCK] @ others.T
        best = alike.argmax(1)
        result[first : first + BLOCK] = np.where(alike.max(1) > ALIKE, best, -1)
    return result
