"""Pipes drawn from a seed: texture, grooves, spots and look-alikes on an unrolled cylinder.

Rows are depth, columns azimuth; the last column touches the first. Values are deviations from the
nominal wall thickness: corrosion is negative. Widths are in 36ths of a turn, so that a defect is
the same on a pipe scanned with 36 or 72 azimuths.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from src.competitions.formats.patches import SIZE as PATCH

LEAST_PATCHES = 2

# Each well draws its own value from these ranges: this is the shift between wells.
TEXTURE, RIPPLE = (0.004, 0.009), (0.2, 1.0)  # thickness; ripple as a multiple of texture
# thickness: of pixels, rows, and columns
NOISE, BANDING, STRIPES = (0.001, 0.006), (0.0003, 0.005), (0.0005, 0.006)
GRAIN = (2, 14)  # rows
HELIX = (0.0, 0.35)  # 36ths of a turn a row
CONTRAST = (3.4, 7.0)  # depth of a groove over the standard deviation of the defect-free pipe
COVERAGE = (0.45, 0.65)  # share of the depth with grooves
FREQUENCY = (0.5, 1.5)  # of spots, times the means below
STREAK_SLOPE, STREAK_STRENGTH = (-0.5, 0.5), (0.4, 0.8)  # 36ths of a turn a row; times the contrast
GAIN = (0.6, 1.6)  # of the tool
DRIFT, OFFSET = 0.003, 0.0015  # thickness, standard deviations
PITS, BLOBS, BANDS, STREAKS = 0.10, 0.07, 0.12, 0.30  # mean number per 36 rows

ANNOTATED = 0.5  # a pixel is corrosion where a defect keeps this fraction of its own maximum
SECTION_ROWS = 16 * PATCH  # mean depth from one groove to the next
SECOND_GROOVE = 0.4  # probability
JOINT_INTERVAL, JOINT_ROWS = (220, 420), (3, 9)


@dataclass(frozen=True)
class Well:
    """One pipe: image (depth, azimuth) float32 and mask of the same shape, uint8 0/1; 36 n rows,
    36 or 72 columns, nothing missing.
    """

    image: np.ndarray
    mask: np.ndarray


def make_well(
    rng: np.random.Generator, patches: int, interleaved: bool, clean: bool = False
) -> Well:
    """Draw a well of `patches` patches, scanned with 72 azimuths if interleaved, else with 36.

    A clean well has texture, joints and look-alikes, but no defect. Raises ValueError for fewer
    than 2 patches, or an odd number of interleaved ones.
    """
    if patches < LEAST_PATCHES or (interleaved and patches % 2):
        raise ValueError(
            f"A well needs at least {LEAST_PATCHES} patches, an even number if "
            f"interleaved, not {patches}."
        )
    twins = 2 if interleaved else 1
    shape = (PATCH * patches // twins, PATCH * twins)
    image = _texture(rng, shape)
    contrast = _log_uniform(rng, CONTRAST) * image.std()
    mask = np.zeros(shape, np.uint8)
    _add_lookalikes(rng, image, contrast)
    if not clean:
        _add_grooves(rng, image, mask, contrast)
        _add_spots(rng, image, mask, contrast)
    _add_joints(rng, image)
    image = _log_uniform(rng, GAIN) * (image - np.median(image)) + rng.normal(0, OFFSET)
    return Well(image.astype(np.float32), mask)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _texture(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Sound pipe: helical mottle and ripples, a slow drift of thickness and eccentricity along
    depth, noise of the tool.
    """
    depth, azimuth = shape
    density = azimuth / PATCH
    rows, angle = np.arange(depth)[:, None], 2 * np.pi * np.arange(azimuth) / azimuth
    helix = rng.choice([-1, 1]) * rng.uniform(*HELIX)
    mottle = gaussian_filter(
        rng.normal(size=shape), (_log_uniform(rng, GRAIN), density), mode=("nearest", "wrap")
    )
    turn = np.round(helix * density * rows).astype(int)
    pattern = (
        np.take_along_axis(mottle, (np.arange(azimuth) - turn) % azimuth, axis=1) / mottle.std()
    )
    strength = rng.uniform(*RIPPLE)
    for waves in rng.integers(1, 7, size=3):
        twist = 2 * np.pi * helix * rng.uniform(0.5, 1.5) * rows / PATCH
        pattern += strength * np.cos(waves * (angle - twist) + rng.uniform(0, 2 * np.pi))
    drift = gaussian_filter1d(rng.normal(size=(depth, 3)), 60, axis=0, mode="nearest")
    drift *= DRIFT / np.sqrt(np.mean(drift**2))
    eccentricity = drift[:, :1] + drift[:, 1:2] * np.cos(angle) + drift[:, 2:] * np.sin(angle)
    noise = _log_uniform(rng, NOISE) * gaussian_filter1d(
        rng.normal(size=shape), 0.5 * density, axis=1, mode="wrap"
    )
    banding = _log_uniform(rng, BANDING) * rng.normal(size=(depth, 1))
    stripes = gaussian_filter(rng.normal(size=shape), (40, 0.7 * density), mode=("nearest", "wrap"))
    stripes *= _log_uniform(rng, STRIPES) / stripes.std()
    return (
        rng.uniform(*TEXTURE) * pattern / np.hypot(1, strength)
        + eccentricity
        + stripes
        + banding
        + noise
    )


def _add_joints(rng: np.random.Generator, image: np.ndarray) -> None:
    """Casing joints: every few hundred rows a band where the echo is strong and erratic."""
    depth, azimuth = image.shape
    row = int(rng.integers(JOINT_INTERVAL[1]))
    while row < depth:
        height = min(int(rng.integers(*JOINT_ROWS)), depth - row)
        erratic = gaussian_filter1d(
            rng.normal(size=(height, azimuth)), azimuth / PATCH, axis=1, mode="wrap"
        )
        image[row : row + height] += rng.uniform(0.06, 0.15) * erratic + rng.normal(
            0, 0.02, size=(height, 1)
        )
        row += int(rng.integers(*JOINT_INTERVAL))


def _distance(centre: np.ndarray, azimuth: int) -> np.ndarray:
    """Signed distance (rows, azimuth), in 36ths of a turn, from the centre of each row (rows,)
    to each column.
    """
    columns = np.arange(azimuth) * (PATCH / azimuth)
    return (columns - centre[:, None] + PATCH / 2) % PATCH - PATCH / 2


def _line(rng: np.random.Generator, rows: int, azimuth: int, slope: float) -> np.ndarray:
    """Relative loss (rows, azimuth) of a narrow line that leans by `slope` columns a row,
    wanders, breathes and fades at its ends.
    """
    along = np.arange(rows)
    wander = gaussian_filter1d(rng.normal(size=(rows, 2)), 30, axis=0) * np.sqrt(60)
    centre = rng.uniform(0, PATCH) + slope * along + 0.5 * wander[:, 0]
    width = rng.uniform(1.1, 1.9) * np.exp(0.15 * wander[:, 1])
    fade = np.minimum(1, np.minimum(along + 1, rows - along) / 12)
    breath = 1 - 0.25 * np.abs(np.sin(along * rng.uniform(0.01, 0.04) + rng.uniform(0, np.pi)))
    return (fade * breath)[:, None] * np.exp(
        -0.5 * (_distance(centre, azimuth) / width[:, None]) ** 2
    )


def _spot(
    rng: np.random.Generator, azimuth: int, height: float, width: float, lobes: float
) -> np.ndarray:
    """Relative loss (rows, azimuth) of a spot: standard deviations in rows and columns, outline
    uneven by the fraction `lobes`.
    """
    down = np.arange(-np.ceil(3 * height), np.ceil(3 * height) + 1)[:, None] / height
    across = _distance(np.full(len(down), rng.uniform(0, PATCH)), azimuth) / width
    bearing = np.arctan2(down, across)
    outline = 1 + lobes * sum(
        np.cos(k * bearing + rng.uniform(0, 2 * np.pi)) / np.sqrt(k) for k in (2, 3, 5)
    )
    return np.exp(-0.5 * (down**2 + across**2) / np.maximum(outline, 0.3) ** 2)


def _thin(
    image: np.ndarray, top: int, profile: np.ndarray, loss: float, mask: np.ndarray | None = None
) -> None:
    """Take up to `loss` off the wall from row `top` down, in the shape of the profile; annotate
    it if a mask is given.
    """
    visible = profile[: len(image) - top] / profile.max()
    image[top : top + len(visible)] -= loss * visible
    if mask is not None:
        mask[top : top + len(visible)] |= visible > ANNOTATED


def _add_grooves(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, contrast: float
) -> None:
    """One groove, sometimes two, over a part of each section of the well: between them stretches
    without a groove remain.
    """
    depth, azimuth = image.shape
    coverage = rng.uniform(*COVERAGE)
    sections = max(1, round(depth / SECTION_ROWS))
    edges = np.cumsum([0, *rng.dirichlet(np.full(sections, 6.0)) * depth]).astype(int)
    for top, bottom in itertools.pairwise(edges):
        rows = max(int(coverage * (bottom - top)), PATCH // 2)
        start = int(rng.integers(top, max(bottom - rows, top) + 1))
        for _ in range(1 + int(rng.random() < SECOND_GROOVE)):
            _thin(
                image,
                start,
                _line(rng, rows, azimuth, rng.normal(0, 0.01)),
                contrast * rng.uniform(0.8, 1.3),
                mask,
            )


def _add_spots(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, contrast: float
) -> None:
    """Pits and irregular wall loss, anywhere on the pipe."""
    depth, azimuth = image.shape
    means = rng.uniform(*FREQUENCY) * depth / PATCH * np.array([PITS, BLOBS])
    pits, blobs = rng.poisson(means)
    for radius in rng.uniform(0.9, 2.0, size=pits):
        _thin(
            image,
            int(rng.integers(depth)),
            _spot(rng, azimuth, radius, radius, 0),
            contrast * rng.uniform(1.2, 2),
            mask,
        )
    for height, width in rng.uniform(2.5, 6, size=(blobs, 2)):
        _thin(
            image,
            int(rng.integers(depth)),
            _spot(rng, azimuth, height, width, 0.25),
            contrast * rng.uniform(0.9, 1.4),
            mask,
        )


def _add_lookalikes(rng: np.random.Generator, image: np.ndarray, contrast: float) -> None:
    """Marks that are no corrosion: wide shallow bands, and thin streaks that wind round the
    pipe.
    """
    depth, azimuth = image.shape
    bands, streaks = rng.poisson(depth / PATCH * np.array([BANDS, STREAKS]))
    slope, strength = rng.uniform(*STREAK_SLOPE), contrast * rng.uniform(*STREAK_STRENGTH)
    for height in rng.uniform(8, 20, size=bands):
        band = _spot(rng, azimuth, height, rng.uniform(7, 11), 0.1)
        _thin(image, int(rng.integers(depth)), band, contrast * rng.uniform(0.3, 0.8))
    for rows in rng.integers(30, 80, size=streaks):
        streak = _line(rng, rows, azimuth, slope + rng.normal(0, 0.02))
        _thin(image, int(rng.integers(depth)), streak, strength * rng.uniform(0.8, 1.2))
