"""make runs and make compare, on runs whose files are written by hand: nothing is trained."""

import base64
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import browser
import h5py
import numpy as np
import pytest
from PIL import Image

from src import recipe
from src.artifacts import files, hdf5, lineage, sealed
from src.artifacts.run import Run
from src.cli import compare, records, runs
from src.modality import open_run
from src.terminal.errors import UserError
from tests.markup import Balanced
from tests.tiny import Arrays, rewrite, tiny, wells
from tests.workplace import ROOT

LOG = """2026-11-20 08:00:00+0000  $ python 01_train_folds.py {0}
2026-11-20 08:00:00+0000  commit 0123456789ab; Python 3.11
2026-11-20 08:30:00+0000  trained 2 of 2 tasks in 30 min: data/runs/{0}
2026-11-21 09:00:00+0000  $ python 01_train_folds.py {0}
2026-11-21 09:00:00+0000  commit fedcba987654-dirty; Python 3.11
2026-11-21 09:00:01+0000  trained 0 of 2 tasks in 1 s: data/runs/{0}
"""
SCORES = {
    "metric": "mean patch IoU",
    "oof_score": 0.75,
    "expected_score": 0.7,
    "expected_interval": [0.5, 0.875],
}


def named(name: str, **member: object) -> recipe.Recipe:
    return tiny(**member).model_copy(update={"name": name})


def pipes() -> Arrays:
    """Wells 1, 2 and 3 of four patches each; the true groove is columns 0 to 3 everywhere."""
    arrays = wells(4, 3)
    arrays["fold"] = (arrays["group"] == 3).astype(np.int8)
    arrays["mask"][:] = 0
    arrays["mask"][:, :, :4] = 1
    return arrays


def finish(folder: Path, chosen: recipe.Recipe, train: Arrays, masks: np.ndarray) -> Run:
    """A run as five stages leave it, with these masks (N, K, H, W) out of fold."""
    run = open_run(chosen, folder / "data", folder / "submissions")
    if not run.prepared("train").exists():
        facts = {"classes": ["scratch", "rust"], "white": 255}
        hdf5.write(run.prepared("train"), train, {}, **facts)
    for task in run.tasks():
        weights = {"layer": np.arange(4, dtype=np.float32)}
        sealed.write_weights(run.weights(task), weights, lineage.weights(run, task))
        own = train["name"][train["fold"] == task.fold]
        hdf5.write(run.oof(task), {"name": own}, lineage.oof(run, task))
        toml = recipe.to_toml(chosen, run.competition.kind)
        files.write_text(run.saved_recipe(task), toml)
        files.write_text(run.history(task), "epoch,loss,seconds\n1,0.5,100.5\n2,0.4,20.0\n")
    files.write_text(run.log, LOG.format(chosen.name))
    hdf5.write(run.selection, {}, lineage.selection(run))
    predicted = {"oof/name": train["name"], "oof/mask": masks}
    predicted |= {"oof/size": train["size"]} if "size" in train else {}
    made = {"oof": lineage.oof_as_found(run)}
    hdf5.write(run.ensemble, predicted, made)
    sealed.write_json(run.submission(".json"), {"recipe": chosen.name, **SCORES}, made)
    return run


@pytest.fixture
def first(tmp_path) -> Run:
    """A run that finds every pixel."""
    train = pipes()
    return finish(tmp_path, named("first"), train, train["mask"][:, None])


@pytest.fixture
def second(tmp_path, first) -> Run:
    """Nothing in well 1, one column beside in well 2, as the first in well 3; a recipe of its
    own.
    """
    train = pipes()
    mask, well = train["mask"].copy(), train["group"]
    mask[well == 1], mask[well == 2] = 0, np.roll(mask[well == 2], 1, axis=2)
    chosen = named("second", batch_size=8, phase=[{"epochs": 3, "learning_rate": 0.01}])
    return finish(tmp_path, chosen, train, mask[:, None])


def rows(folder: Path) -> dict[str, records.Row]:
    found = records.rows(folder / "data", folder / "submissions", folder / "models")
    return {f"{row.kind} {row.recipe}": row for row in found}


def told(capsys, main, parser, *arguments: str) -> str:
    main(parser().parse_args(list(arguments)))
    return capsys.readouterr().out


def folders(folder: Path) -> list[str]:
    return [f"--{name}-dir={folder / name}" for name in ("data", "submissions")]


def test_a_row_tells_what_the_files_of_a_run_hold(tmp_path, first, capsys):
    options = [*folders(tmp_path), f"--models-dir={tmp_path / 'models'}", "--json"]
    (row,) = json.loads(told(capsys, runs.main, runs.parser, *options))
    places = [first.folder, first.ensemble, first.selection, first.submissions]
    sizes = [p.stat().st_size for at in places for p in (at, *at.rglob("*")) if p.is_file()]
    assert row == {
        "kind": "run",
        "recipe": "first",
        "state": "2 of 2 tasks, ensembled, submitted",
        "tasks": 2,
        "trained": 2,
        "when": "2026-11-20 08:30:00+0000",
        "seconds": 241.0,
        "commit": "0123456789ab",
        **SCORES,
        "test_score": None,
        "bytes": sum(sizes),
        "problems": [],
    }
    head, line = told(capsys, runs.main, runs.parser, *options[:-1]).splitlines()
    assert (
        line.split()
        == (
            "run first 2 of 2 tasks, ensembled, submitted 2026-11-20 08:30 0123456789ab 0:04:01 "
            f"0.7500 0.70 (0.50 to 0.88) - {sum(sizes) / 1e6:.1f} MB"
        ).split()
    )
    assert head.index("commit") == line.index("0123456789ab")


def test_where_there_is_nothing_one_line_says_so(tmp_path, capsys):
    out = told(capsys, runs.main, runs.parser, *folders(tmp_path))
    assert "make all trains the demo" in out and len(out.splitlines()) == 1


def test_the_state_counts_what_is_there_and_of_these_data_and_settings(tmp_path, first):
    task, _ = first.tasks()
    first.oof(task).unlink()
    row = rows(tmp_path)["run first"]
    assert row.state == "1 of 2 tasks" and row.seconds == 120.5
    assert [str(first.oof(task)) in problem for problem in row.problems] == [True, True]
    hdf5.write(first.oof(task), {"name": np.array(["new"])}, lineage.oof(first, task))
    row = rows(tmp_path)["run first"]
    assert row.state == "2 of 2 tasks" and row.trained == 2
    assert all("of other networks than those here" in problem for problem in row.problems)
    hdf5.write(first.prepared("train"), pipes(), {"raw": "another"})
    assert rows(tmp_path)["run first"].state == "2 of 2 tasks, 2 of other data or settings"


def test_a_run_that_was_only_prepared_or_has_no_log(tmp_path, first):
    files.write_text(tmp_path / "data/runs/early/log.txt", LOG.format("early").partition("\n")[0])
    first.log.unlink()
    found = rows(tmp_path)
    assert found["run early"].state == "no task trained" and found["run early"].trained is None
    assert found["run early"].problems == [] and found["run first"].commit is None
    assert found["run first"].when > "2026" and found["run first"].problems == []


def test_files_of_another_run_or_of_no_run_are_named(tmp_path, first):
    shutil.copytree(first.folder, first.folder.with_name("copied"))
    task = first.tasks()[0]
    with h5py.File(first.oof(task), "w") as file:
        file["name"] = [b"one"]
    found = rows(tmp_path)
    assert found["run first"].trained == 1 and "no checksum" in found["run first"].problems[0]
    assert "is the recipe of first" in found["run copied"].problems[0]


def test_who_has_read_enough_sees_no_traceback(tmp_path, first):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "src.cli.runs", *folders(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


CUT, CHANGED, FOREIGN = (
    lambda old: old[: len(old) // 2],
    lambda old: old[:-9] + bytes([old[-9] ^ 1]) + old[-8:],
    lambda old: b"\x00\xffnot this\n",
)


@pytest.mark.parametrize("damage", [CUT, CHANGED, FOREIGN], ids=["cut", "changed", "foreign"])
@pytest.mark.parametrize("what", ["weights", "oof", "ensemble", "scores", "history", "recipe"])
def test_damaged_and_foreign_files_are_named_in_the_row(tmp_path, first, second, what, damage):
    task = first.tasks()[1]
    path = {
        "weights": first.weights(task),
        "oof": first.oof(task),
        "ensemble": first.ensemble,
        "scores": first.submission(".json"),
        "history": first.history(task),
        "recipe": max(first.folder.rglob("recipe.toml")),
    }[what]
    rewrite(path, damage(path.read_bytes()))
    found = rows(tmp_path)
    quiet = damage is CHANGED and what in ("oof", "ensemble", "history", "recipe")
    assert quiet or any(str(path) in problem for problem in found["run first"].problems)
    assert all(len(problem.splitlines()) == 1 for problem in found["run first"].problems)
    assert found["run second"].state == "2 of 2 tasks, ensembled, submitted"


@pytest.mark.parametrize(
    "content", ['["SUM"]', '"SUM"', '{"a": "SUM", "oof_score": "much"}', '{"a": "SUM"}']
)
def test_scores_that_are_whole_but_of_another_form_are_named_too(tmp_path, first, content):
    path = first.submission(".json")
    path.write_text(content.replace("SUM", sealed.NO_SUM))
    sealed.seal(path)
    row = rows(tmp_path)["run first"]
    assert any(str(path) in problem for problem in row.problems) and row.oof_score is None


def test_studies_and_models_have_rows_and_what_is_none_is_named(tmp_path, first):
    study, title = tmp_path / "data/studies/losses", "wells held out, official score"
    heads = f'variation,soft,"soft, deviation over seeds","{title}","{title}, deviation over seeds"'
    table = f"{heads},training (s)\nplain,0.9,,0.5,,60\nfocal,0.8,,0.625,,30\n"
    files.write_text(study / "table.csv", table)
    files.write_text(study / "log.txt", LOG.replace("01_train_folds.py {0}", "study.py losses"))
    decisions = {**SCORES, "recipe": "first", "commit": "commit 77aa"}
    sealed.write_json(tmp_path / "models/small/decisions.json", decisions, {})
    weights = tmp_path / "models/small/weights/net/fold0_seed0.safetensors"
    files.write_text(weights, "")
    os.utime(weights, (1_795_300_000, 1_795_300_000))
    sealed.write_json(tmp_path / "models/bare/decisions.json", {}, {})
    (tmp_path / "models/empty").mkdir()
    files.write_text(tmp_path / "data/runs/stray.txt", "")
    files.write_text(tmp_path / "data/studies/odd/table.csv", "variation\n")
    found = rows(tmp_path)
    losses, small = found["study losses"], found["model small"]
    assert (losses.state, losses.oof_score, losses.metric, losses.seconds) == (
        "2 variations, best: focal",
        0.625,
        title,
        90.0,
    )
    assert losses.when == "2026-11-20 08:30:00+0000" and losses.commit == "0123456789ab"
    assert (small.oof_score, small.commit) == (0.75, "77aa")
    assert datetime.strptime(small.when, "%Y-%m-%d %H:%M:%S%z").timestamp() == 1_795_300_000
    assert small.expected_interval == [0.5, 0.875] and small.state == "of first"
    assert found["model bare"].oof_score is None and found["model bare"].problems == []
    assert "no decisions.json" in found["model empty"].problems[0]
    assert "is no run" in found["run stray.txt"].problems[0]
    assert "table.csv" in found["study odd"].problems[0]


def test_scores_differences_and_disagreement_are_those_of_the_masks(tmp_path, first, second):
    found = compare.compare(["first", "second"], first.data, first.submissions).found
    lines = found.by_group()
    assert [(line["group"], line["images"]) for line in lines] == [("1", 4), ("2", 4), ("3", 4)]
    # one column beside: 3 of 5 columns are shared
    np.testing.assert_allclose([line["scores"] for line in lines], [[1, 0], [1, 3 / 5], [1, 1]])
    assert found.overall()["scores"] == pytest.approx([1, (0 + 3 / 5 + 1) / 3])
    differences = [-1, -2 / 5, 0]
    (spread,) = found.spread()
    assert spread["mean"] == pytest.approx(statistics.mean(differences))
    assert spread["deviation"] == pytest.approx(statistics.stdev(differences))
    assert (spread["higher"], spread["lower"], spread["equal"]) == (0, 2, 1)
    # 4 of 36 columns in well 1, 2 of them in well 2
    assert [(line["view"], pytest.approx(line["share"])) for line in found.views(9)] == [
        ("well 1", 4 / 36),
        ("well 2", 2 / 36),
    ]


def picture(uri: str) -> np.ndarray:
    """The colours (H, W, 3) of a picture in a page."""
    content = base64.b64decode(uri.partition(",")[2])
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def test_of_a_long_well_the_stretch_is_drawn_where_the_masks_disagree_most(tmp_path):
    train = wells(30, 2)
    train["depth"] += 100  # patches of a well are not counted from 0
    masks = [train["mask"].copy(), train["mask"].copy()]
    masks[1][25:29], masks[1][2] = 0, 0  # of well 1
    masks[1][30] = 0  # the first of well 2
    for name, mask in zip("ab", masks, strict=True):
        run = finish(tmp_path, named(name), train, mask[:, None])
    found = compare.compare(["a", "b"], run.data, run.submissions).found
    beside = found.pictures("well 1")
    assert [panel.title for panel in beside.panels] == ["thickness", "a", "b"]
    # the last 20 of 30 patches have four that differ; patches 9 to 28 too, and come first
    truth = np.concatenate(train["mask"][9:29]) > 0
    colours = {name: bytes.fromhex(own[1:]) for name, own in beside.legend.items()}
    own = [picture(panel.picture) for panel in beside.panels]
    assert {one.shape for one in own} == {(36, 720, 3)}
    for name, drawn in zip("ab", own[1:], strict=True):
        met = np.concatenate(masks["ab".index(name)][9:29]) > 0
        for kind, where in (("found", truth & met), ("missed", truth & ~met)):
            is_kind = (drawn == np.frombuffer(colours[kind], np.uint8)).all(2)
            np.testing.assert_array_equal(is_kind.T, where)
    assert picture(found.pictures("well 2").panels[1].picture).shape == (36, 720, 3)


def test_several_runs_are_compared_with_the_first(tmp_path, first, second):
    train = pipes()
    finish(tmp_path, named("third"), train, np.zeros_like(train["mask"][:, None]))
    names = ["first", "second", "third"]
    found = compare.compare(names, first.data, first.submissions).found
    assert [line["mean"] for line in found.spread()] == pytest.approx([-1.4 / 3, -1])
    # what the third lacks is columns 0 to 3; the second has column 4 beside
    assert [pytest.approx(line["share"]) for line in found.views(9)] == [5 / 36, 4 / 36, 4 / 36]


def test_recipes_are_compared_key_by_key(first, second):
    other = named("other").model_copy(update={"members": [*second.recipe.members, extra()]})
    three = [first, second, first.with_recipe(other)]
    lines = compare.comparison.recipe_differences(three)
    assert {line["key"]: line["values"] for line in lines} == {
        "member.net.batch_size": ["4", "8", "8"],
        "member.net.phase.0.epochs": ["2", "3", "3"],
        "member.far": ["-", "-", "network ring_unet"],
    }
    assert compare.comparison.recipe_differences([first, first]) == []


def extra() -> recipe.Member:
    return tiny(name="far").members[0]


def test_a_section_that_was_changed_after_training_is_the_one_that_was_used(
    tmp_path, first, monkeypatch
):
    used = first.recipe.model_copy(
        update={"postprocess": recipe.Postprocess(min_sizes=[9])}, deep=True
    )
    hdf5.write(first.selection, {}, lineage.selection(first.with_recipe(used)))
    run, notes = compare.as_made(first)
    assert notes == ["first: [postprocess] was another one than its tasks have saved"]
    monkeypatch.setattr(recipe, "load", lambda name: used)
    run, notes = compare.as_made(first)
    assert run.recipe.postprocess.min_sizes == [9] and notes == []


def test_only_images_that_all_have_count(tmp_path, first, second):
    with hdf5.reading(second.ensemble) as file:
        kept = {name: file[f"oof/{name}"][:] for name in ("name", "mask")}
    part = {f"oof/{name}": own[::-1][:6] for name, own in kept.items()}  # well 3, half of well 2
    part["oof/name"] = part["oof/name"].astype(str)
    hdf5.write(second.ensemble, part, {"oof": lineage.oof_as_found(second)})
    found = compare.compare(["first", "second"], first.data, first.submissions).found
    assert found.images == [12, 6] and len(found.group) == 6
    assert [line["scores"] for line in found.by_group()] == [
        pytest.approx([1, 3 / 5]),
        pytest.approx([1, 1]),
    ]


def refused(first: Run, *names: str) -> str:
    with pytest.raises(UserError) as error:
        compare.compare(list(names), first.data, first.submissions)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, first, second):
    assert "at least two different runs" in refused(first, "first")
    assert "at least two different runs" in refused(first, "first", "first")
    assert "did you mean 'second'?" in refused(first, "first", "secund")
    assert "no run '../runs/first'" in refused(first, "second", "../runs/first")
    files.write_text(tmp_path / "data/runs/early/log.txt", "")
    assert "no trained task" in refused(first, "first", "early")
    photographs(tmp_path, "photo", 0)
    assert "first has wells, scored by" in refused(first, "first", "photo")
    hdf5.write(second.ensemble, {"oof/name": pipes()["name"]}, sealed.inputs_of(second.ensemble))
    assert "has no out-of-fold masks" in refused(first, "first", "second")


def test_runs_of_other_data_or_networks_are_refused(tmp_path, first, second):
    train = pipes()
    train["mask"][5] = 0  # the same names, another truth
    chosen = named("third").model_copy(update={"prepared": "relabelled"})
    finish(tmp_path, chosen, train, train["mask"][:, None])
    assert "has other masks than" in refused(first, "first", "third")
    train["name"] = np.array([f"b{n}" for n in range(12)])
    chosen = named("fourth").model_copy(update={"prepared": "others"})
    finish(tmp_path, chosen, train, train["mask"][:, None])
    assert "first and fourth have no image in common" in refused(first, "first", "fourth")
    task = second.tasks()[0]
    hdf5.write(second.oof(task), {"name": train["name"]}, lineage.oof(second, task))
    assert "of other networks than those" in refused(first, "first", "second")
    hdf5.write(first.prepared("train"), pipes(), {"raw": "another"})
    assert "was trained on another" in refused(first, "first", "second")


HOSTILE = "<img src=x onerror=alert(1)>.png"


def photographs(folder: Path, name: str, shift: int) -> Run:
    """Two photographs of two sizes and two classes; the first shows class 1 in two rows, of which
    `shift` are marked as class 2 instead, and as many rows more.
    """
    names, size = np.array([HOSTILE, "plain.png"]), np.array([[10, 20], [16, 32]], np.int32)
    mask = np.zeros((2, 2, 16, 32), np.uint8)
    mask[0, 0, :2, :20] = 1
    train = {
        "name": names,
        "size": size,
        "group": np.array([7, 8], np.int32),
        "fold": np.array([0, 1], np.int8),
        "shows": mask.any((2, 3)),
        "moments": np.zeros((2, 2, 1)),
        "image": np.full((2, 16, 32, 1), 90, np.uint8),
        "mask": mask,
    }
    member = {"name": "net", "network": {"name": "unet", "encoder": "test_resnet"}}
    member["phase"] = [{"epochs": 1}]
    tree = {"name": name, "competition": "folder", "member": [member]}
    tree |= {"data": {"folder": "blobs"}, "folds": {"count": 2}}
    predicted = mask.copy()
    predicted[0, 0, :shift, :20], predicted[0, 1, :shift, :20] = 0, 1
    predicted[0, 1, 8 : 8 + shift, :20] = 1
    return finish(folder, recipe.parse(tree, "test"), train, predicted)


def test_photographs_are_compared_by_their_own_sizes_and_classes(tmp_path):
    photographs(tmp_path, "a", 0)
    run = photographs(tmp_path, "b", 1)
    told = compare.compare(["a", "b"], run.data, run.submissions)
    (line,) = told.found.views(9)
    # 40 of 200 pixels; Dice 2/3 of class 1, 0 of class 2
    assert line["view"] == HOSTILE and line["share"] == pytest.approx(0.2)
    assert line["scores"] == pytest.approx([1, 1 / 3])
    assert [own["group"] for own in told.found.by_group()] == ["7", "8"]
    text = told.page()
    page = Balanced(text)
    assert HOSTILE not in text and any(HOSTILE in part for part in page.text)
    assert [image["alt"].removeprefix(f"{HOSTILE}: ") for image in page.all("img")] == [
        "photograph",
        "truth",
        "a",
        "b",
    ]


def test_masks_lie_in_arrays_as_large_as_their_own_run_needs(tmp_path):
    """The second run has the smaller photograph alone."""
    photographs(tmp_path, "a", 0)
    run = photographs(tmp_path, "b", 1)
    with hdf5.reading(run.ensemble) as file:
        mask, size = file["oof/mask"][:1, :, :10, :20], file["oof/size"][:1]
    part = {"oof/name": np.array([HOSTILE]), "oof/mask": mask, "oof/size": size}
    hdf5.write(run.ensemble, part, {"oof": lineage.oof_as_found(run)})
    for names in (["a", "b"], ["b", "a"]):
        told = compare.compare(names, run.data, run.submissions)
        (line,) = told.found.views(9)
        assert line["share"] == pytest.approx(0.2) and len(Balanced(told.page()).all("img")) == 4


def test_the_command_tells_and_writes_what_was_found(tmp_path, first, second, capsys):
    out = told(capsys, compare.main, compare.parser, "first", "second", *folders(tmp_path))
    assert "member.net.phase.0.epochs  2      3" in out
    assert (
        "second - first: mean over groups -0.4667, standard deviation 0.5033; "
        "higher in 0, lower in 2, equal in 1"
    ) in out
    lines = [line.split() for line in out.splitlines()]
    assert ["2", "4", "1.0000", "0.6000", "-0.4000"] in lines
    assert ["well", "1", "11.11%", "1.0000", "0.0000"] in lines
    path = tmp_path / "submissions/compare_first_second.html"
    page = Balanced(path.read_text())
    shown = {float(element["value"]) for element in page.all("data")}
    assert {-0.4, -1.4 / 3, 0.0, 1.0} <= {round(value, 12) for value in shown} | shown
    # two wells, each its thickness and a mask of each run
    assert len(page.all("img")) == 6
    assert str(path) in lines[-1]
    before = path.read_bytes()
    told(capsys, compare.main, compare.parser, "first", "second", *folders(tmp_path))
    assert path.read_bytes() == before


def test_of_many_groups_those_that_differ_most_are_shown():
    groups = [{"group": str(n), "differences": [n / 100]} for n in (*range(30, 60), *range(30))]
    shown = [int(line["group"]) for line in compare.listed(groups)]
    assert shown == [*range(10), *range(50, 60)]
    assert compare.listed(groups[:20]) == groups[:20]


@pytest.mark.skipif(
    browser.FOUND is None,
    reason="needs Chromium (chromium, chromium-browser or google-chrome on the PATH)",
)
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page_within_its_window(tmp_path, first, second, width):
    page = tmp_path / "page.html"
    page.write_text(compare.compare(["first", "second"], first.data, first.submissions).page())
    with browser.browser() as one:
        one.open(browser.url(page), width=width)
        assert one.value("document.documentElement.scrollWidth") <= width
        assert one.value("[...document.images].every((i) => i.complete && i.naturalWidth > 8)")
        assert one.troubles == []
