"""The five scripts, end to end on a tiny demo, as a user runs them."""

import csv
import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from src.competitions import corroseg
from src.competitions.formats import rle
from tests.moments import LIMIT, ending, parent, runs, wait_for
from tests.workplace import ROOT, STAGES, Workplace


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("finished"))
    place.run(STAGES[0])
    assert place.start(STAGES[1]).wait(LIMIT) == 0
    place.output = {stage: place.run(stage) for stage in STAGES[2:]}
    return place


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run of its own for a test that changes it."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Workplace(tmp_path / "copy")


def test_every_artifact_is_where_the_design_says(finished):
    for fold in range(3):
        folder = finished.folder / f"data/runs/tiny/net/fold{fold}_seed0"
        assert {path.name for path in folder.iterdir()} - {".lock"} == {
            "weights.safetensors",
            "recipe.toml",
            "history.csv",
            "oof.h5",
            "test.h5",
        }
    for path in (
        "data/prepared/demo.h5",
        "data/ensembles/tiny.h5",
        "submissions/tiny.csv",
        "submissions/tiny.json",
        "submissions/tiny.html",
    ):
        assert (finished.folder / path).is_file()


def test_prepared_arrays_have_the_shapes_and_types_of_the_contract(finished):
    with h5py.File(finished.folder / "data/prepared/demo.h5") as file:
        for split, count in (("train", 60), ("test", 16)):
            assert (
                file[f"{split}/image"].shape == (count, 36, 36)
                and file[f"{split}/image"].dtype == np.float32
            )
            assert file[f"{split}/valid"].dtype == bool
            assert {file[f"{split}/{name}"].dtype for name in ("group", "depth", "phase")} == {
                np.dtype(np.int32)
            }
        assert file["train/mask"].dtype == np.uint8 and file["train/fold"].dtype == np.int8
        groups = [set(file["train/group"][:][file["train/fold"][:] == fold]) for fold in range(3)]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_the_submission_holds_every_test_patch_in_both_layouts(finished):
    with h5py.File(finished.folder / "data/prepared/demo.h5") as file:
        names = list(file["test/name"].asstr()[:])
    with open(finished.folder / "submissions/tiny.csv") as file:
        rows = list(csv.DictReader(file))
    official_names, official = corroseg.read_masks(
        finished.folder / "submissions/tiny_official.csv"
    )
    assert [row["name"] for row in rows] == names == list(official_names)
    np.testing.assert_array_equal(rle.decode([row["rle"] for row in rows], 36, 36, "row"), official)


def test_the_scores_are_those_of_the_submission_on_the_hidden_truth(finished):
    scores = json.loads((finished.folder / "submissions/tiny.json").read_text())
    assert {
        "recipe",
        "metric",
        "oof_score",
        "oof_by_group",
        "threshold",
        "refined",
        "created_from",
    } <= scores.keys()
    names, masks = corroseg.read_masks(finished.folder / "submissions/tiny_official.csv")
    truth = dict(zip(*corroseg.read_masks(finished.folder / "data/truth/demo.csv.gz"), strict=True))
    iou = []
    for name, mask in zip(names, masks, strict=True):
        union = (mask | truth[name]).sum()
        iou.append((mask & truth[name]).sum() / union if union else 1.0)
    assert scores["test_score"] == pytest.approx(np.mean(iou))
    weighted = sum(row["patches"] * row["score"] for row in scores["oof_by_group"].values())
    assert scores["oof_score"] == pytest.approx(
        weighted / sum(row["patches"] for row in scores["oof_by_group"].values())
    )
    assert f"{scores['test_score']:.4f}" in finished.output["04_postprocess.py"]
    assert "baselines on test" in finished.output["04_postprocess.py"]


def test_running_again_changes_nothing(finished):
    before = finished.files("**/*.*")
    for stage in STAGES:
        assert "up to date" in finished.run(stage)
    assert finished.files("**/*.*") == before


def test_a_changed_prediction_setting_keeps_the_weights(copy):
    weights, oof = copy.files("data/runs/**/weights.safetensors"), copy.files("data/runs/**/oof.h5")
    copy.run("01_train_folds.py", "--set", "inference.rolls=[0, 1]")
    assert copy.files("data/runs/**/weights.safetensors") == weights
    assert all(copy.files("data/runs/**/oof.h5")[name] != content for name, content in oof.items())


def test_a_damaged_artifact_is_made_again(copy):
    before = copy.files("submissions/*.csv")
    test = copy.folder / "data/runs/tiny/net/fold1_seed0/test.h5"
    whole = test.read_bytes()
    test.write_bytes(whole[: len(whole) // 2])
    assert "2 of them up to date" in copy.run("02_predict.py")
    assert test.read_bytes() == whole
    copy.run("03_ensemble.py", "--force")
    copy.run("04_postprocess.py", "--force")
    assert copy.files("submissions/*.csv") == before


def test_a_changed_submission_is_written_again(copy):
    before = copy.files("submissions/*.csv")
    (copy.folder / "submissions/tiny.csv").write_text("name,rle\n")
    copy.run("04_postprocess.py")
    assert copy.files("submissions/*.csv") == before


def test_stages_out_of_order_say_which_comes_first(tmp_path):
    place = Workplace(tmp_path)
    assert "00_prepare_data.py" in place.refused("01_train_folds.py")
    place.run("00_prepare_data.py")
    assert "01_train_folds.py" in place.refused("02_predict.py")
    assert "01_train_folds.py" in place.refused("03_ensemble.py")
    assert "01_train_folds.py" in place.refused("04_postprocess.py")


def test_a_stage_refuses_what_an_earlier_one_has_not_caught_up_with(copy):
    """New settings must go through every stage that they matter to; old predictions are never
    taken for new ones.
    """
    epochs, rolls = ("--set", "member.phase.epochs=2"), ("--set", "inference.rolls=[0, 3]")
    for stage in STAGES[2:]:
        assert "01_train_folds.py" in copy.refused(stage, *epochs)
    copy.run("01_train_folds.py", *rolls)
    for stage in STAGES[3:]:
        assert "02_predict.py" in copy.refused(stage, *rolls)
    copy.run("02_predict.py", *rolls)
    assert "03_ensemble.py" in copy.refused("04_postprocess.py", *rolls)


def test_force_trains_again_to_the_same_bytes(copy):
    copy.run("01_train_folds.py", "--set", "name=again")
    before = copy.files("data/runs/again/**/weights.safetensors")
    assert "0 of them up to date" in copy.run("01_train_folds.py", "--set", "name=again", "--force")
    assert len(before) == 3 and copy.files("data/runs/again/**/weights.safetensors") == before


def test_a_missing_report_is_written_again(copy):
    (copy.folder / "submissions/tiny.html").unlink()
    copy.run("04_postprocess.py")
    assert (copy.folder / "submissions/tiny.html").exists()


def test_other_folds_than_prepared_are_refused(finished):
    before = finished.files("**/*.*")
    for stage in STAGES[1:]:
        assert "00_prepare_data.py" in finished.refused(stage, "--set", "folds.count=4")
    assert finished.files("**/*.*") == before


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--set", "member.phase.epoch=1"], "epochs"),
        (["--set", "competition=dem"], "demo"),
        (["--set", "generate.train_patches=3"], "patches"),
        (["--set", "folds.groups=[[1], [2]]"], "exclude each other"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_in_one_line(finished, more, hint):
    before = finished.files("**/*.*")
    assert hint in finished.refused("00_prepare_data.py", *more)
    assert finished.files("**/*.*") == before


def test_a_training_that_was_killed_goes_on_to_the_same_submission(finished, tmp_path, moment):
    place = Workplace(tmp_path)
    place.run("00_prepare_data.py")
    with ending(place.start("01_train_folds.py", environment=moment.environment)) as process:
        wait_for(lambda: len(moment.stopped()) == 2, process)  # both workers, after an epoch each
        assert {parent(worker) for worker in moment.stopped()} == {process.pid}
        process.kill()  # the stage alone, without a chance to tell its workers
        process.wait()
    wait_for(lambda: not any(map(runs, moment.stopped())))  # workers do not outlive their stage
    assert all(checkpoint.is_file() for checkpoint in moment.stopped().values())
    assert not place.files("data/runs/**/weights.safetensors")
    assert place.start("01_train_folds.py").wait(LIMIT) == 0
    for stage in STAGES[2:]:
        place.run(stage)
    assert place.files("data/runs/**/weights.safetensors") == finished.files(
        "data/runs/**/weights.safetensors"
    )
    assert place.files("submissions/*.csv") == finished.files("submissions/*.csv")


@pytest.mark.parametrize(
    ("stage", "redo", "artifact"),
    [
        ("00_prepare_data.py", ["--set", "data.scaling=per_pixel"], "demo.h5"),
        ("01_train_folds.py", ["--force"], "checkpoint.pt"),
    ],
)
def test_no_space_left_is_one_line_and_what_was_there_stays(copy, stage, redo, artifact):
    before = copy.files("data/prepared/*")
    limited = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *copy.command(stage, *redo, "--jobs", "1")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    message = done.stderr.splitlines()[-1]
    assert (
        done.returncode == 2 and message.startswith("error: ") and "Traceback" not in done.stderr
    ), done.stderr
    assert "no space left" in message and artifact in message
    assert copy.files("data/prepared/*") == before
