"""The demo challenge: geometry, defects, damage and the quirks of the raw files."""

import csv
import gzip
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.competitions.demo_wells import (
    LEAST_PATCHES,
    PATCH,
    SHIFT,
    TEST,
    TRAIN,
    Plan,
    cut,
    draw_patches,
    generate,
    make_well,
    plan_wells,
)

SEED, TRAIN_PATCHES, TEST_PATCHES = 5, 60, 40
SPLITS = ("train", "test")


def written(folder: Path, seed: int = SEED) -> dict[str, bytes]:
    folder.mkdir()
    generate(folder, folder / "truth.csv.gz", seed, TRAIN_PATCHES, TEST_PATCHES)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_images(folder: Path, split: str) -> dict[str, np.ndarray]:
    (path,) = folder.glob(f"X_{split}_*.zip")
    with zipfile.ZipFile(path) as archive:
        return {
            Path(entry).stem: np.load(io.BytesIO(archive.read(entry)))
            for entry in archive.namelist()
        }


def read_masks(folder: Path, pattern: str) -> dict[str, np.ndarray]:
    (path,) = folder.glob(pattern)
    with gzip.open(path, "rt", newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header == ["", *map(str, range(PATCH * PATCH))]
    masks = {row[0]: np.array(row[1:], np.uint8).reshape(PATCH, PATCH) for row in rows}
    assert len(masks) == len(rows)
    return masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "raw"
    written(path)
    return path


def is_lost(image: np.ndarray) -> bool:
    return bool((image < -100).all())


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    first, again, other = (
        written(tmp_path / "first"),
        written(tmp_path / "again"),
        written(tmp_path / "other", SEED + 1),
    )
    assert first == again
    assert len(first) == 4
    assert not set(first.values()) & set(other.values())
    assert set(first) & set(other) == {"truth.csv.gz"}


def test_wells_depend_on_seed_split_and_number() -> None:
    plan = Plan(4)
    wells = [
        draw_patches(*stream, plan)[0]
        for stream in ((0, TRAIN, 1), (1, TRAIN, 1), (0, TEST, 1), (0, TRAIN, 2))
    ]
    assert not any((first == second).any() for first, second in itertools.combinations(wells, 2))


def test_files_carry_one_random_looking_suffix(folder: Path) -> None:
    suffixes = {
        path.name.split(".")[0]
        .removeprefix("X_train_")
        .removeprefix("X_test_")
        .removeprefix("y_train_")
        for path in folder.glob("[Xy]_*")
    }
    (suffix,) = suffixes
    assert len(suffix) == 7
    assert suffix.isalnum()


@pytest.mark.parametrize("totals", [(20, 8), (40, 12), (41, 13), (900, 300)])
@pytest.mark.parametrize("seed", range(6))
def test_plan_adds_up(seed: int, totals: tuple[int, int]) -> None:
    train, test = plan_wells(seed, *totals)
    assert (len(train), len(test)) == (10, 4)
    assert (sum(well.patches for well in train), sum(well.patches for well in test)) == totals
    assert min(well.patches for well in train + test) >= LEAST_PATCHES
    assert all(well.patches % 2 == 0 for well in train if well.interleaved)
    assert 2 <= sum(well.interleaved for well in train) <= 3
    assert train[0].interleaved or train[1].interleaved
    assert not any(well.interleaved for well in test)
    assert sum(well.clean for well in train) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_every_planned_patch_is_written(folder: Path, split: str) -> None:
    images = read_images(folder, split)
    plans = plan_wells(SEED, TRAIN_PATCHES, TEST_PATCHES)[SPLITS.index(split)]
    assert set(images) == {
        f"well_{number}_patch_{patch}"
        for number, plan in enumerate(plans, 1)
        for patch in range(plan.patches)
    }
    assert all(
        image.shape == (PATCH, PATCH) and image.dtype == np.float32 for image in images.values()
    )


def test_interleaved_cut_is_even_and_odd_columns() -> None:
    well = make_well(np.random.default_rng(0), 6, interleaved=True)
    assert well.image.shape == well.mask.shape == (3 * PATCH, 2 * PATCH)
    for ring, pieces in zip((well.image, well.mask), cut(well), strict=True):
        rebuilt = np.empty_like(ring)
        for stretch in range(3):
            rows = slice(stretch * PATCH, (stretch + 1) * PATCH)
            rebuilt[rows, 0::2], rebuilt[rows, 1::2] = pieces[2 * stretch], pieces[2 * stretch + 1]
        np.testing.assert_array_equal(rebuilt, ring)
        assert pieces.dtype == ring.dtype


def test_contiguous_cut_continues_downwards() -> None:
    well = make_well(np.random.default_rng(0), 5, interleaved=False)
    assert well.image.shape == (5 * PATCH, PATCH)
    for strip, pieces in zip((well.image, well.mask), cut(well), strict=True):
        np.testing.assert_array_equal(np.concatenate(list(pieces)), strip)


@pytest.mark.parametrize("interleaved", [False, True])
def test_texture_closes_across_the_seam(interleaved: bool) -> None:
    image = make_well(np.random.default_rng(1), 40, interleaved, clean=True).image
    assert np.abs(image[:, 0] - image[:, -1]).mean() < 1.25 * np.abs(np.diff(image, axis=1)).mean()


def test_grooves_run_through_patch_edges_and_the_seam() -> None:
    masks = [
        make_well(np.random.default_rng(seed), 40, interleaved=False).mask.astype(bool)
        for seed in range(6)
    ]
    above, below = (
        np.concatenate([mask[rows::PATCH][:39] for mask in masks]) for rows in (PATCH - 1, PATCH)
    )
    assert (above & below).any(axis=1).mean() > 0.3
    assert any((mask[:, 0] & mask[:, -1]).any() for mask in masks)


def test_corrosion_is_thin_wall() -> None:
    for seed in range(4):
        well = make_well(np.random.default_rng(seed), 40, interleaved=False)
        corroded, defect_free = well.image[well.mask == 1], well.image[well.mask == 0]
        assert np.median(corroded) < np.percentile(defect_free, 25)
        assert abs(np.median(well.image)) < 0.008
        assert 0.005 < np.subtract(*np.percentile(well.image, [75, 25])) < 0.05


def test_corrosion_shares_resemble_the_challenge() -> None:
    for seed in range(4):
        plans = plan_wells(seed, 300, 100)
        for split, wells in zip((TRAIN, TEST), plans, strict=True):
            masks = np.concatenate(
                [draw_patches(seed, split, number, plan)[1] for number, plan in enumerate(wells, 1)]
            )
            assert 0.45 < masks.any(axis=(1, 2)).mean() < 0.85
            assert 0.03 < masks.mean() < 0.12


def test_clean_well_has_lookalikes_but_no_mask() -> None:
    well = make_well(np.random.default_rng(3), 20, interleaved=False, clean=True)
    assert not well.mask.any()
    assert well.image.std() > 0


def test_wells_differ_in_texture_and_groove_contrast() -> None:
    wells = [make_well(np.random.default_rng(seed), 40, interleaved=False) for seed in range(12)]
    steps = [np.median(np.abs(np.diff(well.image, axis=0))) for well in wells]
    depths = [np.median(well.image) - np.median(well.image[well.mask == 1]) for well in wells]
    assert max(steps) > 2.5 * min(steps)
    assert max(depths) > 3 * min(depths)


@pytest.mark.parametrize("split", SPLITS)
def test_placeholders_are_present(folder: Path, split: str) -> None:
    images = np.stack(list(read_images(folder, split).values()))
    gaps = images < -100
    assert set(np.unique(images[gaps])) <= {np.float32(-999.25), np.float32(-999)}
    shares = gaps.mean(axis=(1, 2))
    assert (shares == 1).any()
    assert ((shares > 0) & (shares < 1)).any()
    assert (shares > 0).mean() < 0.2


def test_one_training_stretch_has_nan_and_no_test_patch(folder: Path) -> None:
    assert sum(bool(np.isnan(image).any()) for image in read_images(folder, "train").values()) == 1
    assert not any(np.isnan(image).any() for image in read_images(folder, "test").values())


def test_twins_lose_the_same_rows(tmp_path: Path) -> None:
    partly = 0
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        generate(folder, folder / "truth.csv.gz", seed, 300, 8)
        images = read_images(folder, "train")
        for number, plan in enumerate(plan_wells(seed, 300, 8)[0], 1):
            for patch in range(0, plan.patches if plan.interleaved else 0, 2):
                even, odd = (
                    images[f"well_{number}_patch_{twin}"] < -100 for twin in (patch, patch + 1)
                )
                np.testing.assert_array_equal(even, odd)
                partly += even.any() and not even.all()
    assert partly


def test_foreign_rows_are_named_as_first_released(folder: Path) -> None:
    names = set(read_masks(folder, "y_train_*"))
    images = set(read_images(folder, "train"))
    shifted = {
        f"well_1_patch_{SHIFT + int(name.split('_')[-1])}"
        for name in images
        if name.startswith("well_1_")
    }
    foreign = names - shifted - {name for name in images if not name.startswith("well_1_")}
    zero = {name for name in foreign if name.startswith("well_0_")}
    assert zero == {f"well_0_patch_{patch}" for patch in range(len(zero))} != set()
    assert foreign - zero == {f"well_1_patch_{patch}" for patch in range(450)}
    assert shifted <= names


def test_training_masks_match_the_wells_as_cut(folder: Path) -> None:
    released, images = read_masks(folder, "y_train_*"), read_images(folder, "train")
    for number, plan in enumerate(plan_wells(SEED, TRAIN_PATCHES, TEST_PATCHES)[0], 1):
        _, masks = draw_patches(SEED, TRAIN, number, plan)
        shift = 450 if number == 1 else 0
        for patch, mask in enumerate(masks):
            expected = (
                np.zeros_like(mask) if is_lost(images[f"well_{number}_patch_{patch}"]) else mask
            )
            np.testing.assert_array_equal(
                released[f"well_{number}_patch_{patch + shift}"], expected
            )


def test_truth_names_every_test_patch_and_is_empty_where_lost(folder: Path) -> None:
    truth, images = read_masks(folder, "truth*"), read_images(folder, "test")
    assert list(truth) == list(images)
    lost = 0
    for number, plan in enumerate(plan_wells(SEED, TRAIN_PATCHES, TEST_PATCHES)[1], 1):
        for patch, mask in enumerate(draw_patches(SEED, TEST, number, plan)[1]):
            name = f"well_{number}_patch_{patch}"
            lost += is_lost(images[name])
            np.testing.assert_array_equal(
                truth[name], np.zeros_like(mask) if is_lost(images[name]) else mask
            )
    assert lost


@pytest.mark.parametrize("totals", [(19, 8), (20, 7)])
def test_too_few_patches(tmp_path: Path, totals: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="need at least"):
        generate(tmp_path, tmp_path / "truth.csv.gz", SEED, *totals)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("patches", "interleaved"), [(1, False), (0, True), (3, True)])
def test_impossible_well(patches: int, interleaved: bool) -> None:
    with pytest.raises(ValueError, match="at least 2 patches"):
        make_well(np.random.default_rng(0), patches, interleaved)
