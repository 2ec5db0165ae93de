"""The data report: every trap that is laid is found, and nothing else; files stay as they are."""

import numpy as np
import pytest

from src import recipe
from src.artifacts import hdf5
from src.artifacts.run import Run
from src.competitions.formats.masks import slices
from src.modality import open_run
from src.photographs import duplicates
from src.report import data
from src.report.data import DataReport, Finding
from tests import tiny
from tests.markup import Balanced

HOSTILE = "<img src=x onerror=alert(1)>.png"


def found(report: DataReport) -> dict[str, int]:
    return {own.what: own.found for own in report.findings if own.found}


def one(report: DataReport, what: str) -> Finding:
    (own,) = [own for own in report.findings if own.what == what]
    return own


def rows(report: DataReport, caption: str) -> dict[str, list]:
    (table,) = [table for table in report.tables if table.caption.startswith(caption)]
    return {str(row[0]): dict(zip(table.head[1:], row[1:], strict=True)) for row in table.rows}


@pytest.fixture
def wells(tmp_path) -> Run:
    """Two training wells of eight patches in a fold each, a test well of five."""
    train, test = tiny.wells(8, 2), tiny.wells(5, 1, seed=1)
    return tiny.run_of(tmp_path, train=train, test=without_truth(test))


def without_truth(arrays: tiny.Arrays) -> tiny.Arrays:
    return {name: array for name, array in arrays.items() if name not in ("mask", "fold")}


def changed(run: Run, split: str, change) -> None:
    names = ("name", "image", "valid", "group", "depth", "parity")
    arrays = hdf5.read(run.prepared(split), *names, *(["mask", "fold"] if split == "train" else []))
    change(arrays)
    hdf5.write(run.prepared(split), arrays, {})


def test_wells_without_a_trap_have_no_finding_and_are_counted(wells):
    own = data.write(wells)
    assert found(own) == {} and own.found() == ""
    files = rows(own, "Files")
    assert files["train"] | {"Patches": 16, "Wells": 2, "Interleaved wells": 0} == files["train"]
    assert files["train"]["Corroded area"] == pytest.approx(4 / 36)  # four columns each
    assert files["test"]["Corroded area"] == "\u2013" and files["test"]["Patches"] == 5
    assert [line["Wells"] for line in rows(own, "Folds").values()] == ["1", "2"]


def lay_traps(train: tiny.Arrays) -> None:
    train["mask"][0] = 1
    train["mask"][1], train["mask"][1, 5, 7] = 0, 1
    train["mask"][4] = 0  # between two that are corroded; the next two are not
    train["mask"][7], train["mask"][8] = 0, 0
    train["image"][12, :, :9], train["valid"][12, :, :9] = 1.5, False
    train["valid"][6], train["mask"][6] = False, 0
    train["image"][13] = 0.25
    train["image"][14], train["valid"][14, 0, 0] = train["image"][2], False
    train["image"][9] = train["image"][3]
    train["image"][9, 0, 0], train["valid"][[3, 9], 0, 0] = 7, False  # filled in otherwise
    train["fold"][6], train["name"][0] = -1, HOSTILE


def test_every_trap_in_wells_is_found(wells, monkeypatch):
    changed(wells, "train", lay_traps)
    values = hdf5.read(wells.prepared("train"), "image", "valid")

    def twin(test: tiny.Arrays) -> None:
        test["image"][[1, 2]], test["valid"][[1, 2]] = (
            values[name][[15, 6]] for name in ("image", "valid")
        )  # the second without a measured pixel: that is no twin

    changed(wells, "test", twin)
    before = {split: wells.prepared(split).read_bytes() for split in ("train", "test")}
    own = data.write(wells)
    assert found(own) == {
        "test patches with the values of a training patch": 1,
        "training patches with the values of one in another fold": 1,
        "masks that are full": 1,
        "masks of a single pixel": 1,
        "empty masks between two corroded patches": 1,
        "patches without a measured pixel": 2,
        "patches of which more than 10% is not measured": 1,
        "patches whose measured pixels have all one value": 1,
    }
    assert one(own, "training patches with the values of one in another fold").pictures[0].name == (
        "well_2_patch_1 (train) and well_1_patch_3 (train)"
    )
    known = one(own, "test patches with the values of a training patch").pictures[0]
    assert known.name == "well_1_patch_1 (test) and well_2_patch_7 (train)"
    assert len(known.pictures) == 2
    assert before == {split: wells.prepared(split).read_bytes() for split in ("train", "test")}
    text = wells.data_report.read_text()
    page = Balanced(text)
    assert HOSTILE not in text and HOSTILE + " (train)" in page.text
    assert "in none" in page.text
    monkeypatch.setattr("src.wells.report.data.slices", lambda number: slices(number, 3))
    assert data.write(wells) == own, "however many patches are read at a time"


def test_a_mask_where_nothing_was_measured_is_found(wells):
    def blind(train: tiny.Arrays) -> None:
        train["valid"][3] = train["mask"][3] == 0

    changed(wells, "train", blind)
    assert found(data.write(wells)) == {
        "masks that lie mostly where nothing was measured": 1,
        "patches of which more than 10% is not measured": 1,
    }


def photographs(folder) -> tuple[Run, dict[str, tiny.Arrays]]:
    """Twelve training photographs of noise in two folds, and four to test, of two sizes."""
    chosen = recipe.parse(
        {
            "name": "tiny",
            "competition": "folder",
            "data": {"folder": "any"},
            "member": [{"name": "net", "network": {"name": "unet"}, "phase": [{"epochs": 1}]}],
        },
        "test",
    )
    rng, splits = np.random.default_rng(0), {}
    for split, count in (("train", 12), ("test", 4)):
        size = np.array([[20, 64], [16, 80]] * (count // 2), np.int32)
        image = np.zeros((count, 20, 80, 1), np.uint8)
        mask = np.zeros((count, 2, 20, 80), np.uint8)
        for row, (height, width) in enumerate(size):
            image[row, :height, :width, 0] = rng.integers(20, 200, (height, width))
            mask[row, row % 2, 2:6, 3:9] = 1
        name = np.array([f"{split}_{row}.png" for row in range(count)], object)
        splits[split] = {"name": name, "size": size, "image": image, "mask": mask}
        splits[split] |= {"group": np.arange(count, dtype=np.int32)}
        splits[split] |= {"fold": (np.arange(count) % 3).astype(np.int8)}
    return open_run(chosen, folder, folder), splits


def report_of(run: Run, splits: dict[str, tiny.Arrays]) -> DataReport:
    for split, own in splits.items():
        arrays = own | {
            "moments": np.full((len(own["name"]), 2, 1), 0.5),
            "shows": own["mask"].any((2, 3)),
        }
        keep = arrays if split == "train" else {"name", "size", "image", "group", "moments"}
        named = {name: arrays[name] for name in keep}
        hdf5.write(run.prepared(split), named, {}, classes=["scratch", "dent"], white=255.0)
    return data.write(run)


def test_photographs_without_a_trap_have_no_finding_and_are_counted(tmp_path):
    own = report_of(*photographs(tmp_path))
    assert found(own) == {}
    lines = rows(own, "Classes")
    pixels = 6 * (20 * 64 + 16 * 80)
    assert lines["dent"]["Photographs"] == 6
    assert lines["dent"]["Of the pixels"] == pytest.approx(6 * 24 / pixels)
    assert lines["scratch"]["Pixels, median where shown"] == 24
    assert rows(own, "Files")["train"]["Sizes"] == 2
    assert rows(own, "Files")["train"]["Largest"] == "20\u2009\u00d7\u200980"
    assert [line["Photographs"] for line in rows(own, "Folds").values()] == [4, 4, 4]
    assert len(rows(own, "Groups")) == 12


def test_every_trap_in_photographs_is_found(tmp_path):
    run, splits = photographs(tmp_path)
    train, test = splits["train"], splits["test"]
    train["mask"][0, 1, :20, :64] = 1
    train["mask"][1], train["mask"][1, 0, 9, 9] = 0, 1
    train["image"][2] = 90
    train["image"][3, :3] = 255
    train["image"][10], train["mask"][10] = train["image"][4] // 2 + 9, 0  # darker, and no defect
    test["image"][3, :16, :80] = train["image"][5, :16, :80]
    test["image"][0], train["name"][2] = 255, HOSTILE
    own = report_of(run, splits)
    assert found(own) == {
        "test photographs that look like a training photograph": 1,
        "empty masks where a photograph that looks alike shows a defect": 1,
        "masks that are full": 1,
        "masks of a single pixel": 1,
        "photographs of one value": 2,
        "photographs of which more than 10% is saturated": 1,
    }
    twins = one(own, "test photographs that look like a training photograph").pictures[0]
    assert twins.name == "test_3.png (test) and train_5.png (train)" and len(twins.pictures) == 3
    text = run.data_report.read_text()
    assert HOSTILE not in text and HOSTILE + " (train)" in Balanced(text).text
    train["fold"][10] = 0  # that of photograph 4 is another
    own = report_of(run, splits)
    assert found(own)["training photographs that look like one in another fold"] == 2


def test_a_set_without_test_photographs_has_a_report(tmp_path):
    run, splits = photographs(tmp_path)
    splits["test"] = {name: array[:0] for name, array in splits["test"].items()}
    assert rows(report_of(run, splits), "Files")["test"]["Photographs"] == 0


def test_the_nearest_is_that_of_all_correlations():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (9, 16, 64, 1))
    others = np.concatenate([images[[4, 1]], rng.integers(0, 255, (3, 16, 64, 1)), images[[4]]])
    others[0] = others[0] // 2
    small, more = (np.array([duplicates.thumbnail(own) for own in s]) for s in (images, others))
    cells = [[own.reshape(8, 2, 32, 2).mean((1, 3)).ravel() for own in s] for s in (images, others)]
    both = np.corrcoef(*[np.array(own) for own in cells])[:9, 9:]
    wanted = np.where(both.max(1) > duplicates.ALIKE, both.argmax(1), -1)
    assert sorted(set(wanted.tolist())) == [-1, 1, 5]
    np.testing.assert_array_equal(duplicates.nearest(small, more), wanted)
    assert duplicates.nearest(small, more[:0]).tolist() == [-1] * 9


def test_of_very_many_groups_the_first_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("src.photographs.report.data.GROUPS", 5)
    own = report_of(*photographs(tmp_path))
    assert any(t.caption.endswith("; the first 5 of 12") and len(t.rows) == 5 for t in own.tables)
