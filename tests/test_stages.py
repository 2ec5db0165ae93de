"""The five scripts, end to end on a tiny demo, as a user runs them."""

import csv
import gzip
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.artifacts import sealed
from src.competitions import corroseg
from src.competitions.formats import rle
from src.modality import open_run
from src.recipe import load
from src.stages import prepare
from tests.moments import LIMIT, ending, parent, runs, wait_for
from tests.workplace import ROOT, STAGES, Workplace


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("finished"))
    place.output = {stage: place.run(stage) for stage in STAGES}
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
        "data/prepared/demo/train.h5",
        "data/prepared/demo/test.h5",
        "data/ensembles/tiny_selection.h5",
        "data/ensembles/tiny.h5",
        "submissions/tiny.csv",
        "submissions/tiny.json",
        "submissions/tiny.html",
    ):
        assert (finished.folder / path).is_file()


def prepared(place: Workplace, split: str) -> h5py.File:
    return h5py.File(place.folder / f"data/prepared/demo/{split}.h5")


def test_prepared_arrays_have_the_shapes_and_types_of_the_contract(finished):
    for split, count in (("train", 60), ("test", 16)):
        with prepared(finished, split) as file:
            assert file["image"].shape == (count, 36, 36) and file["image"].dtype == np.float32
            assert file["valid"].dtype == bool
            assert {file[name].dtype for name in ("group", "depth", "parity")} == {
                np.dtype(np.int32)
            }
            assert ("mask" in file, "fold" in file) == (split == "train", split == "train")
    with prepared(finished, "train") as file:
        assert file["mask"].dtype == np.uint8 and file["fold"].dtype == np.int8
        groups = [set(file["group"][:][file["fold"][:] == fold]) for fold in range(3)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_who_knows_the_contract_alone_computes_the_score_from_the_masks_of_the_ensemble(finished):
    scores = json.loads((finished.folder / "submissions/tiny.json").read_text())
    with h5py.File(finished.folder / "data/ensembles/tiny.h5") as file:
        names, masks = file["oof/name"].asstr()[:], file["oof/mask"][:]
        assert masks.dtype == np.uint8 and masks.shape == file["oof/probability"].shape
        assert file["test/mask"].shape == file["test/probability"].shape == (16, 1, 36, 36)
    with prepared(finished, "train") as file:
        truth = dict(zip(file["name"].asstr()[:], file["mask"][:], strict=True))
    iou = []
    for name, (mask,) in zip(names, masks, strict=True):
        union = (mask | truth[name]).sum()
        iou.append((mask & truth[name]).sum() / union if union else 1.0)
    assert f"{np.mean(iou):.6f}" == f"{scores['oof_score']:.6f}"


def test_the_data_report_is_named_and_made_again_alone(finished, copy):
    report = "data/prepared/demo/report.html"
    assert f"data report: {finished.folder / report}" in finished.output["00_prepare_data.py"]
    before = copy.files("data/prepared/demo/*")
    assert str(report) in before
    page = before[report].decode()
    (copy.folder / report).unlink()
    copy.run("00_prepare_data.py")
    assert copy.files("data/prepared/demo/*") == before
    (copy.folder / report).write_text(page.replace("digest", "")[:2000])  # of other files
    assert "is up to date" not in copy.run("00_prepare_data.py")
    assert copy.files("data/prepared/demo/*") == before
    assert "is up to date" in copy.run("00_prepare_data.py")


def test_one_test_patch_fewer_leaves_what_was_trained_alone(copy):
    """A new test image touches no weight: weights are made from nothing of the test set."""
    raw = copy.folder / "data/raw/demo"
    (archive,) = raw.glob("X_test*.zip")
    with zipfile.ZipFile(archive) as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    dropped = max(name for name in entries if name.endswith(".npy"))
    with zipfile.ZipFile(archive, "w") as fewer:
        for name, content in entries.items():
            if name != dropped:
                fewer.writestr(name, content)
    truth = copy.folder / "data/truth/demo.csv.gz"
    lines = gzip.decompress(truth.read_bytes()).splitlines(keepends=True)
    gone = Path(dropped).stem.encode() + b","
    truth.write_bytes(gzip.compress(b"".join(line for line in lines if not line.startswith(gone))))
    vouch_for(copy)
    before = copy.files("data/runs/**/weights.safetensors") | copy.files("data/runs/**/oof.h5")
    train = (copy.folder / "data/prepared/demo/train.h5").read_bytes()
    copy.run("00_prepare_data.py")
    assert (copy.folder / "data/prepared/demo/train.h5").read_bytes() == train
    assert "3 tasks on cpu, 3 of them up to date" in copy.run("01_train_folds.py")
    assert "0 of them up to date" in copy.run("02_predict.py")
    assert "15 test images" in copy.run("03_ensemble.py")
    copy.run("04_postprocess.py")
    after = copy.files("data/runs/**/weights.safetensors") | copy.files("data/runs/**/oof.h5")
    assert after == before
    with open(copy.folder / "submissions/tiny.csv") as file:
        assert len(list(csv.DictReader(file))) == 15


def vouch_for(place: Workplace) -> None:
    """Let the record beside generated raw files fit what they are now."""
    run = open_run(load(str(place.recipe)), place.folder / "data", place.folder / "submissions")
    files = prepare._digest_generated(run, run.raw, run.truth)
    sealed.write_json(run.generated, {"files": files}, sealed.inputs_of(run.generated))


@pytest.mark.parametrize(("source", "what"), [("fold1_seed0", "fold 1"), ("fold2_seed0", "fold 2")])
def test_weights_of_another_fold_put_in_place_are_named_and_made_again(copy, source, what):
    runs = copy.folder / "data/runs/tiny/net"
    own = (runs / "fold0_seed0/weights.safetensors").read_bytes()
    shutil.copy(runs / source / "weights.safetensors", runs / "fold0_seed0/weights.safetensors")
    said = copy.run("01_train_folds.py")
    assert f"belongs to net, {what}, seed 0, not to net, fold 0, seed 0" in said
    assert "2 of them up to date" in said
    assert (runs / "fold0_seed0/weights.safetensors").read_bytes() == own


def test_the_submission_holds_every_test_patch_in_both_layouts(finished):
    with prepared(finished, "test") as file:
        names = list(file["name"].asstr()[:])
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
    copy.run("01_train_folds.py", "--set", "inference.flips=false")
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
    epochs, flips = ("--set", "member.phase.epochs=2"), ("--set", "inference.flips=false")
    for stage in STAGES[2:]:
        assert "01_train_folds.py" in copy.refused(stage, *epochs)
    copy.run("01_train_folds.py", *flips)
    for stage in STAGES[3:]:
        assert "02_predict.py" in copy.refused(stage, *flips)
    copy.run("02_predict.py", *flips)
    assert "03_ensemble.py" in copy.refused("04_postprocess.py", *flips)


def test_force_trains_again_to_the_same_bytes(copy):
    again = ("--set", "name=again", "--set", "member.phase.epochs=3")
    copy.run("01_train_folds.py", *again)
    before = copy.files("data/runs/again/**/weights.safetensors")
    assert "0 of them up to date" in copy.run("01_train_folds.py", *again, "--force")
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
    """With two workers, as one process makes it without a break."""
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
        ("00_prepare_data.py", ["--set", "data.scaling=per_pixel"], "train.h5"),
        ("01_train_folds.py", ["--force"], "checkpoint.pt"),
    ],
)
def test_no_space_left_is_one_line_and_what_was_there_stays(copy, stage, redo, artifact):
    before = copy.files("data/prepared/**/*")
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
    assert copy.files("data/prepared/**/*") == before
