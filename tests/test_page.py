"""The page of a submission: whole, self-contained, true to the scores, and safe to open."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from src import recipe
from src.artifacts import hdf5, lineage
from src.competitions.formats import rle
from src.modality import open_run
from src.report import charts, checks, pictures, rendering
from src.scoring.calibration import errors
from src.terminal.errors import UserError
from src.wells import geometry, submission
from src.wells import page as wells_page
from src.wells.blocks import Blocks
from src.wells.postprocess.refinement import Refinement
from src.wells.postprocess.selection import THRESHOLDS, Selection
from tests.markup import Balanced
from tests.tiny import patch_iou

RECIPE = {
    "name": "tiny",
    "competition": "corroseg",
    "member": [{"name": "net", "network": {"name": "ring_unet"}, "phase": [{"epochs": 3}]}],
}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>.png"


def split(wells_of: dict[int, int], seed: int, first: str = "") -> dict[str, np.ndarray]:
    """Patches of some wells, the second of them interleaved and with a patch that is missing;
    `first` renames one.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(list(wells_of), list(wells_of.values())).astype(np.int32)
    number = np.concatenate([np.arange(count) for count in wells_of.values()])
    second = group == list(wells_of)[1]
    number[second & (number > 3)] += 2
    image = rng.normal(0, 1, (len(group), 36, 36)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[::2, :, 5:9] = 1
    image -= 3 * mask
    valid = rng.random(image.shape) > 0.01
    valid[-1] = False
    name = np.array([f"well_{g}_patch_{n}" for g, n in zip(group, number, strict=True)], object)
    name[0] = first or name[0]
    probability = (0.9 * mask + 0.1 * rng.random(image.shape)).astype(np.float16)
    prediction = (probability > 0.5).astype(np.uint8)
    prediction[1, :3], prediction[-1], prediction[4] = 1, 0, 0
    arrays = {
        "name": name,
        "image": image,
        "valid": valid,
        "group": group,
        "mask": mask,
        "probability": probability,
    }
    arrays |= {
        "depth": np.where(second, number // 2, number).astype(np.int32),
        "parity": np.where(second, number % 2, 0).astype(np.int32),
    }
    arrays["deviation"] = (0.5 * rng.random(image.shape)).astype(np.float16)
    return arrays | {"prediction": prediction, "score": patch_iou(prediction, mask)}


LARGE = ("image", "valid", "mask", "probability", "prediction", "deviation")
PREPARED = ("name", "image", "valid", "group", "depth", "parity", "mask", "fold")


def in_blocks(arrays: dict[str, np.ndarray]) -> Blocks:
    """A split as the stage has it, with what it counts on each patch."""
    marked, index = (
        arrays["prediction"] > 0,
        {name: array for name, array in arrays.items() if name not in LARGE},
    )
    index |= {"repaired": (~arrays["valid"]).sum((1, 2)), "marked": marked.sum((1, 2))}
    if "mask" in arrays:
        true = arrays["mask"] > 0
        index |= {
            "true": true.sum((1, 2)),
            "right": (true & marked).sum((1, 2)),
            "wrong": (true != marked).sum((1, 2)),
        }
    return Blocks(
        index, lambda place: {name: arrays[name][place] for name in LARGE if name in arrays}
    )


def rows_of(arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """The rows of a run-length CSV."""
    codes = rle.encode(arrays["prediction"], "row")
    return pd.DataFrame({"name": arrays["name"], "rle": codes})


def by(key: np.ndarray, score: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        str(k): {
            "patches": int((key == k).sum()),
            "score": float(score[key == k].mean()),
            "all_empty": 0.25,
            "intensity": 0.125,
        }
        for k in np.unique(key).tolist()
    }


@pytest.fixture
def made(tmp_path, monkeypatch):
    return make(tmp_path, monkeypatch)


def make(
    folder: Path, monkeypatch, first: str = "", **more: object
) -> tuple[str, dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The page of a submission that was not trained, its scores and both splits; `more` joins the
    scores.
    """
    chosen = recipe.parse(RECIPE, "here")
    run = open_run(chosen, folder / "data", folder / "submissions")
    train, test = split({1: 5, 2: 10, 7: 30}, 0, first), split({3: 4, 4: 6}, 1)
    train["fold"] = (train["group"] == 7).astype(np.int8)
    del test["mask"], test["score"]
    for part, arrays in (("train", train), ("test", test)):
        own = {name: arrays[name] for name in PREPARED if name in arrays}
        hdf5.write(run.prepared(part), own, {})
    table = rows_of(test)
    run.submission().parent.mkdir(parents=True)
    for path in (run.submission(), run.submission("_official.csv")):
        table.to_csv(path, index=False, lineterminator="\n")
    passed = checks.submission(run.submission(), table, run.submission())
    size = test["image"][0].size
    passed.append(submission.unmeasured(in_blocks(test).index, size))
    for task in chosen.tasks()[:3]:
        path = run.history(task)
        path.parent.mkdir(parents=True)
        losses = [1.0 + task.fold, 0.5, 0.25]
        frame = pd.DataFrame(
            {
                "epoch": [1, 2, 3],
                "loss": losses,
                "learning_rate": 0.1,
                "seconds": 40.0,
                "device": "Some CPU, 2 threads",
            }
        )
        frame.to_csv(path, index=False)
    monkeypatch.setattr(lineage, "submission", lambda run: {"oof": "a1", "selection": "b2"})
    score = train["score"]
    result = {
        "recipe": "tiny",
        "metric": run.competition.metric.name,
        "oof_score": float(score.mean()),
        "oof_score_unrefined": 0.123456789,
        "oof_by_group": by(train["group"], score),
        "oof_by_fold": by(train["fold"], score),
        "threshold": 0.5,
        "refined": True,
        "selected": "threshold and refinement selected on the other folds",
        "refinement": "threshold 0.50, components of 4 pixels or more",
        "refinements_tried": {
            "threshold 0.50": 0.61,
            "threshold 0.50, components of 4 pixels or more": 0.625,
        },
        "baselines_on_train": {"all_empty": 0.25, "intensity": 0.375},
        "expected_score": 0.7654321,
        "expected_interval": [0.61, 0.87],
        "removed_by_averaging": 0.05,
    }
    plain = Refinement(0.5)
    selected = Selection(
        final={False: plain, True: plain},
        without={},
        plain={0: 0.5, 1: 0.45},
        threshold=0.5,
        table={},
        score=0.6,
        unrefined=0.5,
        at_thresholds=np.linspace(0, 1, 3 * len(THRESHOLDS)).reshape(3, -1),
    )
    parts = {"Well": submission.tallies(in_blocks(train))}
    result |= {"calibration": errors(parts)} | more
    page = wells_page.page(run, result, selected, in_blocks(train), in_blocks(test), passed, parts)
    return page, result, train, test


def numbers(tree) -> list[float]:
    if isinstance(tree, dict):
        return [number for value in tree.values() for number in numbers(value)]
    return (
        [number for value in tree for number in numbers(value)]
        if isinstance(tree, list)
        else [tree]
        if isinstance(tree, float)
        else []
    )


def test_the_page_is_well_formed_and_needs_nothing_else(made):
    page = Balanced(made[0])
    for image in page.all("img"):
        assert image["src"].startswith("data:image/") and image["alt"]
    without_data = re.sub(r"data:image/(png|webp);base64,[A-Za-z0-9+/=]*", "", made[0])
    assert not re.search(r"https?:|[^:]//[a-z]|@import|url\(", without_data)
    assert not page.all("link") and not any("src" in script for script in page.all("script"))
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1
    targets = [link["href"][1:] for link in page.all("a") if "=" not in link["href"]]
    assert targets and set(targets) <= set(page.ids)


def test_the_numbers_are_those_of_the_scores(made):
    text, result, *_ = made
    shown = {
        float(element["value"]) for element in Balanced(text).all("data") if "value" in element
    }
    told = numbers(
        {
            key: value
            for key, value in result.items()
            if key not in ("threshold", "removed_by_averaging")
        }
    )
    assert len(told) > 20 and set(told) <= shown
    assert f">{result['oof_score']:.4f}</data>" in text and ">0.61</data> to" in text


def test_every_well_and_patch_is_there(made):
    text, _, train, test = made
    for id, arrays, count in (
        ("train-1", train, 5),
        ("train-2", train, 10),
        ("train-7", train, 30),
        ("test-3", test, 4),
        ("test-4", test, 6),
    ):
        data = json.loads(re.search(rf'id="data-{id}">(.*?)</script>', text)[1])
        own = arrays["name"][arrays["group"] == int(id.partition("-")[2])]
        assert (
            sorted(name for at in data["names"] for name in at if name) == sorted(own)
            and len(own) == count
        )
        assert data["truth"] == ("train" in id)


def test_of_very_many_wells_the_best_and_the_worst_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(wells_page, "DRAWN", 2)
    text, result, *_ = make(tmp_path, monkeypatch)
    scores = {well: row["score"] for well, row in result["oof_by_group"].items()}
    middle = sorted(scores, key=scores.get)[1]
    drawn = {f"train-{well}" for well in scores if well != middle} | {"test-3", "test-4"}
    assert (
        set(re.findall(r'id="data-([^"]*)"', text))
        == drawn
        == set(re.findall(r'<option value="([^"]*)"', text))
    )
    assert "2 of 3 training wells are drawn: those with the highest and the lowest scores" in text
    assert text.count('<img class="pixels glance"') == 4 and "test wells are drawn" not in text
    links = {
        link["href"].partition("&")[0] for link in Balanced(text).all("a") if "=" in link["href"]
    }
    assert links == {f"#well={well}" for well in drawn}
    # in the table, and among the best and worst patches
    assert f">Well {middle}</th>" in text and f"well_{middle}_patch" in text
    assert wells_page.drawn_wells([5, 6, 7], {}) == [5, 6]


def test_the_same_inputs_give_the_same_bytes(tmp_path, monkeypatch):
    assert make(tmp_path / "a", monkeypatch)[0] == make(tmp_path / "b", monkeypatch)[0]


def test_a_hostile_name_stays_a_name(tmp_path, monkeypatch):
    text, _, train, _ = make(tmp_path, monkeypatch, HOSTILE)
    page = Balanced(text)
    assert train["name"][0] == HOSTILE and HOSTILE not in text and "<script>alert" not in text
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert json.loads(re.search(r'id="data-train-1">(.*?)</script>', text)[1])["names"][0] == [
        HOSTILE
    ]


def test_a_well_is_unrolled_as_its_strips_are(made):
    """Against src.wells.geometry: a plain well is its strip, an interleaved one the ring of its
    two.
    """
    train = made[2]
    strips = {
        (strip.group, strip.parity): strip
        for strip in geometry.strips(train["group"], train["depth"], train["parity"])
    }
    np.testing.assert_array_equal(
        pictures.Unrolled.of(train, 7).stack(train["image"]), strips[7, 0].stack(train["image"])
    )
    even, odd = (strips[2, parity].stack(train["image"]) for parity in (0, 1))
    ring = np.stack([even, odd], axis=2).reshape(len(even), -1)
    np.testing.assert_array_equal(pictures.Unrolled.of(train, 2).stack(train["image"]), ring)
    assert (ring[72:108] == 0).all(), "the third depth of the interleaved well has no patch"


def decoded(uri: str) -> np.ndarray:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    return np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_tiles_hold_thickness_probability_and_labels(made, monkeypatch):
    train = made[2]
    monkeypatch.setattr(pictures, "TILE_ROWS", 100)
    data, unrolled = pictures.well(train, 2, pictures.labels(train)), pictures.Unrolled.of(train, 2)
    assert [decoded(tile[2]).shape[0] for tile in data["tiles"]] == [72, 72, 72]
    grey, step, label, apart = (
        np.concatenate([decoded(tile[i])[:, :, 0] for tile in data["tiles"]]).astype(float)
        for i in range(4)
    )
    there = np.repeat(np.repeat(unrolled.index >= 0, 36, 0), 36, 1)
    probability = unrolled.stack(train["probability"]).astype(float)
    assert np.abs(step / 255 - probability)[there].max() <= 0.5 / 15 + 1e-3
    deviation = unrolled.stack(train["deviation"]).astype(float)
    assert np.abs(apart / 255 / 2 - deviation)[there].max() <= 0.25 / 15 + 1e-3
    bits = label / 17
    assert (bits[~there] == pictures.MISSING).all()
    wanted = (
        1 * unrolled.stack(train["prediction"])
        + 2 * unrolled.stack(train["mask"])
        + 4 * ~unrolled.stack(train["valid"])
    )
    np.testing.assert_array_equal(bits[there], wanted[there])
    value = data["low"] + grey / 255 * (data["high"] - data["low"])
    image = unrolled.stack(train["image"]).clip(data["low"], data["high"])
    assert np.corrcoef(value[there], image[there])[0, 1] > 0.9  # WebP keeps it roughly


def test_points_lost_add_up_to_what_the_score_lacks(made):
    _, result, train, _ = made
    lines = wells_page.lost(train["score"], train["mask"].any((1, 2)))
    assert sum(line["lost"] for line in lines) == pytest.approx(1 - result["oof_score"])
    assert sum(line["patches"] for line in lines) == len(train["score"])
    assert lines[1]["patches"] == 1 and lines[2]["patches"] == 2  # rows 1; 4 and the last


def test_best_and_worst_are_few_of_each_well():
    order, group = np.arange(40), np.repeat([1, 2, 3, 4, 5], 8)
    assert wells_page.few_of_each(order, group) == [0, 1, 2, 8, 9, 10, 16, 17, 18, 24, 25, 26]


def test_learning_curves_span_all_tasks(made):
    assert (
        "net: training loss, mean of 3 tasks, 2 after the first epoch, 0.25 after the last"
        in made[0]
    )
    row = made[0][made[0].index('<th scope="row">net</th>') :].partition("</tr>")[0]
    # 3 tasks of 3 epochs of 40 s
    assert "6\u2009min for 3 of them" in row and "Some CPU, 2 threads" in row


def test_ticks_are_round_and_within():
    assert charts._ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert str(charts._ticks(-0.01, 1)[0]) == "0.0"
    assert charts._ticks(1, 3, least=1) == [1, 2, 3]
    assert charts._ticks(0.5821, 0.7133) == [0.6, 0.62, 0.64, 0.66, 0.68, 0.7]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5.4, "5 s"), (150, "2 min"), (3600 + 59.9 * 60, "2 h 0 min"), (5000, "1 h 23 min")],
)
def test_durations(seconds, said):
    assert rendering.duration(seconds).replace("\u2009", " ") == said


def swapped(text: str) -> str:
    head, a, b, *rest = text.splitlines()
    return "\n".join([head, b, a, *rest]) + "\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "a row for each"),
        (swapped, "in the test set's order"),
        (lambda text: text + text.splitlines()[1] + "\n", "a row for each"),
        (lambda text: re.sub(r",\d+ \d+", ",1 9999", text, count=1), "run lengths"),
        (lambda text: re.sub(r",(\d+) 4", r",\1 3", text, count=1), "run lengths"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, made, damage, said):
    table = rows_of(made[3])
    path = tmp_path / "a.csv"
    table.to_csv(path, index=False, lineterminator="\n")
    assert all(check.passed for check in checks.submission(path, table, path))
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=said):
        checks.submission(path, table, path)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    table = pd.DataFrame({"name": ["a", "a"], "rle": ["1 1", ""]})
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match="no name twice"):
        checks.submission(tmp_path / "a.csv", table, tmp_path / "a.csv")


def test_checks_tell_of_masks_that_cannot_be(tmp_path, made):
    test, path = made[3], tmp_path / "a.csv"
    table = rows_of(test | {"prediction": np.zeros_like(test["prediction"])})
    table.to_csv(path, index=False)
    passed = {check.what: check.passed for check in checks.submission(path, table, path)}
    assert passed.pop("Not every mask is empty") is False and all(passed.values())
    assert submission.unmeasured(in_blocks(test).index, 36 * 36).passed
    marked = test["prediction"].copy()
    marked[-1, 0, 0] = 1  # where nothing was measured
    assert not submission.unmeasured(in_blocks(test | {"prediction": marked}).index, 36 * 36).passed


def test_checks_of_photographs_go_by_name_and_class(tmp_path):
    rows = [("a.png", "1", "1 4"), ("a.png", "2", ""), ("b.png", "1", "1 42"), ("b.png", "2", "")]
    table, path = pd.DataFrame(rows, columns=["name", "class", "rle"]), tmp_path / "a.csv"
    table.to_csv(path, index=False)
    assert all(check.passed for check in checks.submission(path, table, path))
    table.iloc[[1, 0, 2, 3]].to_csv(path, index=False)
    with pytest.raises(UserError, match="order"):
        checks.submission(path, table, path)


def test_the_picture_shows_the_best_and_the_worst_of_the_wells_that_show_corrosion(monkeypatch):
    index = {
        "group": np.repeat([1, 2, 3, 4], 2),
        "depth": np.tile([0, 1], 4),
        "parity": np.zeros(8, int),
        "true": np.array([1, 0, 0, 2, 3, 3, 0, 0]),
    }
    maps = np.arange(8)[:, None, None] * np.ones((8, 36, 36))
    train = Blocks(
        index,
        lambda place: dict.fromkeys(("image", "mask", "probability", "prediction"), maps[place]),
    )
    shown = []
    monkeypatch.setattr(wells_page, "wells_picture", lambda wells: shown.extend(wells) or Figure())
    result = {
        "oof_by_group": {
            "1": {"score": 0.5},
            "2": {"score": 0.9},
            "3": {"score": 0.3},
            "4": {"score": 1.0},
        }
    }
    assert wells_page.picture(result, train)
    assert [well.title for well in shown] == ["best well: 2, 0.900", "worst well: 3, 0.300"]
    assert [np.unique(well.panels["truth"]).tolist() for well in shown] == [[2, 3], [4, 5]]
    result = {"oof_by_group": {"4": {"score": 1.0}}}
    wells_page.picture(
        result, Blocks({name: array[6:] for name, array in index.items()}, train.read)
    )
    assert [well.title for well in shown[2:]] == ["best well: 4, 1.000"]
