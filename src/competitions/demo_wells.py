"""A small challenge in the raw format of CorroSeg, generated from a seed.

Pipes are drawn as unrolled cylinders (rows = depth, columns = azimuth; the last column touches the
first), given defects and look-alikes, cut into 36x36 patches and written under the names, layouts
and quirks of the original release. Values are deviations from the nominal wall thickness: corrosion
is negative. Widths are in 36ths of a turn, so that a defect is the same on a pipe scanned with 36
or 72 azimuths.
"""

import io
import itertools
import string
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from src.competitions.corroseg import SHIFT, masks_as_csv
from src.competitions.corroseg import SIZE as PATCH
from src.competitions.formats.masks import PackedMasks, pack

GAP, OTHER_GAP = -999.25, -999.0
TRAIN_SHARES = (0.22, 0.17, 0.14, 0.11, 0.09, 0.08, 0.06, 0.05, 0.04, 0.04)
TEST_SHARES = (0.36, 0.28, 0.21, 0.15)
LEAST_PATCHES = 2
DAMAGED_STRETCHES, LOST_STRETCHES = 0.03, 0.004  # shares of stretches with rows lost, and all lost
# rows of well_0; patches of the pipe whose masks fill all rows without an image
STRANGERS, LENDING_PATCHES = 60, 40
ZIP_DATE = (2024, 1, 1, 0, 0, 0)
TRAIN, TEST, LENDER, LAYOUT, DAMAGE, RELEASE = range(6)  # independent random streams of one seed

# Each well draws its own value from these ranges: this is the shift between wells.
TEXTURE, RIPPLE = (0.004, 0.009), (0.2, 1.0)  # thickness; ripple as a multiple of texture
# thickness: of pixels, rows, and columns
NOISE, BANDING, STRIPES = (0.001, 0.006), (0.0003, 0.005), (0.0005, 0.006)
GRAIN = (2, 14)  # rows
HELIX = (0.0, 0.35)  # 36ths of a turn a row
CONTRAST = (3.4, 7.0)  # depth of a groove over the standard deviation of the sound pipe
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


@dataclass(frozen=True)
class Plan:
    """Size of a well in patches, whether it was scanned with 72 azimuths, and whether it is free
    of defects.
    """

    patches: int
    interleaved: bool = False
    clean: bool = False


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


def cut(well: Well) -> tuple[np.ndarray, np.ndarray]:
    """Patches (n, 36, 36) float32 and masks (n, 36, 36) uint8 in the order of the challenge.

    They follow down the well; of each interleaved stretch come first the even columns (patch 2i),
    then the odd ones (patch 2i + 1).
    """
    return _cut_strip(well.image), _cut_strip(well.mask)


def _cut_strip(strip: np.ndarray) -> np.ndarray:
    twins = strip.shape[1] // PATCH
    return strip.reshape(-1, PATCH, PATCH, twins).transpose(0, 3, 1, 2).reshape(-1, PATCH, PATCH)


def plan_wells(seed: int, train_patches: int, test_patches: int) -> tuple[list[Plan], list[Plan]]:
    """The training wells 1..10 and the test wells 1..4 of a seed, in order.

    The smallest contiguous training well is clean. Raises ValueError where a well would get fewer
    than 2 patches.
    """
    rng = np.random.default_rng([seed, LAYOUT])
    wells = np.arange(len(TRAIN_SHARES))
    interleaved = np.isin(
        wells, [rng.integers(2), *rng.choice(wells[2:], size=rng.integers(1, 3), replace=False)]
    )
    sizes = _sizes(rng.permutation(TRAIN_SHARES), train_patches, interleaved)
    clean = wells == np.argmin(np.where(interleaved, train_patches, sizes))
    train = [
        Plan(*fields)
        for fields in zip(sizes.tolist(), interleaved.tolist(), clean.tolist(), strict=True)
    ]
    test_sizes = _sizes(
        rng.permutation(TEST_SHARES), test_patches, np.zeros(len(TEST_SHARES), bool)
    )
    return train, [Plan(size) for size in test_sizes.tolist()]


def _sizes(shares: np.ndarray, patches: int, interleaved: np.ndarray) -> np.ndarray:
    """Patches of each well by its share, even for the interleaved; what rounding leaves goes to
    the largest contiguous well.
    """
    least = LEAST_PATCHES * len(shares)
    if patches < least:
        raise ValueError(f"{len(shares)} wells need at least {least} patches, not {patches}.")
    sizes = LEAST_PATCHES + np.floor(shares * (patches - least)).astype(int)
    sizes[interleaved] -= sizes[interleaved] % 2
    sizes[np.argmax(np.where(interleaved, 0, sizes))] += patches - sizes.sum()
    return sizes


def draw_patches(seed: int, split: int, number: int, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Undamaged patches and masks, as from `cut`, of well `number` of a split (TRAIN or TEST) of
    a seed.
    """
    return cut(
        make_well(
            np.random.default_rng([seed, split, number]), plan.patches, plan.interleaved, plan.clean
        )
    )


def _draw_split(
    seed: int, split: int, plans: list[Plan]
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Names, damaged patches and masks of one well after the other, in the natural order."""
    damage = _draw_damage(
        np.random.default_rng([seed, DAMAGE, split]), plans, missing_numbers=split == TRAIN
    )
    first = 0  # stretch of the well
    for number, plan in enumerate(plans, start=1):
        patches, masks = draw_patches(seed, split, number, plan)
        twins = 2 if plan.interleaved else 1
        for stretch in range(plan.patches // twins):
            if first + stretch in damage:
                own = slice(twins * stretch, twins * (stretch + 1))
                damage[first + stretch](patches[own], masks[own])
        first += plan.patches // twins
        yield [f"well_{number}_patch_{patch}" for patch in range(plan.patches)], patches, masks


def _draw_damage(
    rng: np.random.Generator, plans: list[Plan], missing_numbers: bool
) -> dict[int, Callable[[np.ndarray, np.ndarray], None]]:
    """What befalls a few stretches, twins alike: some are all lost, mask included, some lose rows,
    one gets NaN.

    Returns:
        By the stretch's number in its split, what damages its patches (1 or 2, 36, 36) and masks in
        place.
    """
    stretches = sum(plan.patches // (2 if plan.interleaved else 1) for plan in plans)
    lost, damaged = (
        int(np.ceil(share * stretches)) for share in (LOST_STRETCHES, DAMAGED_STRETCHES)
    )
    victims = rng.permutation(stretches)[: lost + damaged + 1].tolist()
    result = dict.fromkeys(victims[:lost], _lose)
    for stretch in victims[lost:-1]:
        top, rows = rng.integers(PATCH), rng.integers(1, PATCH // 2)
        result[stretch] = partial(
            _lose_rows, slice(top, top + rows), rng.choice([GAP, OTHER_GAP], p=[0.8, 0.2])
        )
    if missing_numbers:
        result[victims[-1]] = partial(_lose_numbers, rng.integers(PATCH), rng.integers(3, 12))
    return result


def _lose(patches: np.ndarray, masks: np.ndarray) -> None:
    patches[:], masks[:] = GAP, 0


def _lose_rows(rows: slice, value: float, patches: np.ndarray, masks: np.ndarray) -> None:
    patches[:, rows] = value


def _lose_numbers(row: int, columns: int, patches: np.ndarray, masks: np.ndarray) -> None:
    patches[0, row, :columns] = np.nan


def _as_released(
    rng: np.random.Generator, seed: int, names: list[str], bits: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The training masks (N, 162), as bits, as first released: well 1 shifted, rows that belong
    to no image, and no order.
    """
    _, lent = draw_patches(seed, LENDER, 0, Plan(LENDING_PATCHES))
    homeless = [f"well_0_patch_{patch}" for patch in range(STRANGERS)] + [
        f"well_1_patch_{patch}" for patch in range(SHIFT)
    ]
    released = list(homeless)
    for name in names:
        well, patch = name.split("_patch_")
        released.append(f"well_1_patch_{SHIFT + int(patch)}" if well == "well_1" else name)
    order = rng.permutation(len(released))
    every = np.concatenate([pack(lent)[np.arange(len(homeless)) % LENDING_PATCHES], bits])
    return [released[index] for index in order], every[order]


def write_images(
    path: Path, wells: Iterable[tuple[list[str], np.ndarray, np.ndarray]]
) -> tuple[list[str], np.ndarray]:
    """Write the patches of wells, each with its names, patches and masks, into a zip; returns
    all names, and the masks as bits.
    """
    every_name, bits = [], []
    with zipfile.ZipFile(path, "w") as archive:
        for names, images, masks in wells:
            for name, image in zip(names, images, strict=True):
                entry, content = zipfile.ZipInfo(f"images/{name}.npy", ZIP_DATE), io.BytesIO()
                np.save(content, image)
                archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED)
            every_name += names
            bits.append(pack(masks))
    return every_name, np.concatenate(bits)


def write_masks(path: Path, names: list[str], bits: np.ndarray) -> None:
    """Write masks (N, 162), as bits, in the organisers' layout (*.csv.gz)."""
    squeeze = zlib.compressobj(level=9, wbits=31)  # as a gzip file without a date
    with open(path, "wb") as file:
        file.writelines(
            squeeze.compress(part)
            for part in masks_as_csv(names, PackedMasks(bits, (PATCH, PATCH)))
        )
        file.write(squeeze.flush())


def generate(folder: Path, truth: Path, seed: int, train_patches: int, test_patches: int) -> None:
    """Write a challenge of 10 training wells and 4 test wells; the same seed gives the same bytes.

    Into the existing `folder`: X_train_*.zip and X_test_*.zip (images/well_{n}_patch_{k}.npy,
    float32 (36, 36)) and y_train_*.csv.gz as first released, where * is drawn from the seed. To
    `truth` (*.csv.gz, in an existing folder): the masks of the test patches. Raises ValueError for
    fewer than 20 training or 8 test patches.
    """
    train, test = plan_wells(seed, train_patches, test_patches)
    rng = np.random.default_rng([seed, RELEASE])
    suffix = "".join(rng.choice(list(string.ascii_letters + string.digits), size=7))
    names, bits = write_images(folder / f"X_train_{suffix}.zip", _draw_split(seed, TRAIN, train))
    write_masks(folder / f"y_train_{suffix}.csv.gz", *_as_released(rng, seed, names, bits))
    write_masks(
        truth, *write_images(folder / f"X_test_{suffix}.zip", _draw_split(seed, TEST, test))
    )
