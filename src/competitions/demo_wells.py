"""A small challenge in the raw format of CorroSeg, generated from a seed.

Pipes (`demo_pipes`) are cut into 36x36 patches and written under the names, layouts and quirks of
the original release.
"""

import io
import string
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from src.competitions.corroseg import SHIFT, masks_as_csv
from src.competitions.demo_pipes import LEAST_PATCHES, Well, make_well
from src.competitions.formats.masks import PackedMasks, pack
from src.competitions.formats.patches import SIZE as PATCH

GAP, OTHER_GAP = -999.25, -999.0
TRAIN_SHARES = (0.22, 0.17, 0.14, 0.11, 0.09, 0.08, 0.06, 0.05, 0.04, 0.04)
TEST_SHARES = (0.36, 0.28, 0.21, 0.15)
DAMAGED_STRETCHES, LOST_STRETCHES = 0.03, 0.004  # shares of stretches with rows lost, and all lost
# rows of well_0; patches of the pipe whose masks fill all rows without an image
STRANGERS, LENDING_PATCHES = 60, 40
ZIP_DATE = (2024, 1, 1, 0, 0, 0)
TRAIN, TEST, LENDER, LAYOUT, DAMAGE, RELEASE = range(6)  # independent random streams of one seed


@dataclass(frozen=True)
class Plan:
    """Size of a well in patches, whether it was scanned with 72 azimuths, and whether it is free
    of defects.
    """

    patches: int
    interleaved: bool = False
    clean: bool = False


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
    """What befalls a few stretches, both parities alike: some are all lost, mask included, some
    lose rows, one gets NaN.

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
