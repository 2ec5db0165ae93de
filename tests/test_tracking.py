"""What TensorBoard and MLflow are given, as their own readers find it. Where a library is not
installed its tests are skipped.
"""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from src.artifacts import hdf5
from src.report.live import Followed
from src.report.tracking import Tracking, held_out_picture
from src.tasks.progress import Now
from tests import tiny
from tests.workplace import STAGES, Workplace

SHORT = ["--set", "member.phase.epochs=2", "--set", "member.eval_every=2"]


@pytest.fixture(scope="module")
def board():
    """Reads the event files of one folder."""
    pytest.importorskip("tensorboard", reason="needs tensorboard, which requirements.txt lacks")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return lambda folder: EventAccumulator(str(folder)).Reload()


@pytest.fixture(scope="module")
def mlflow():
    """A client of the local store of a run's folder."""
    pytest.importorskip("mlflow", reason="needs mlflow-skinny, which requirements.txt lacks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        yield lambda folder: MlflowClient((folder / "mlruns").as_uri())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("prepared"))
    place.run(STAGES[0])
    return place


@pytest.fixture(scope="module")
def plain(prepared) -> dict[str, bytes]:
    """What a training writes that nobody tracks."""
    prepared.run(STAGES[1], *SHORT)
    return made(prepared)


def made(place: Workplace, recipe: str = "tiny") -> dict[str, bytes]:
    """The weights and out-of-fold predictions of a recipe, by their places in its folder."""
    kinds = ("weights.safetensors", "oof.h5")
    found = [place.files(f"data/runs/{recipe}/**/{kind}") for kind in kinds]
    return {name.split(recipe)[1]: content for own in found for name, content in own.items()}


@pytest.fixture(scope="module", params=["tensorboard", "mlflow"])
def tracked(request, plain, prepared) -> tuple[str, Workplace]:
    """The same, tracked from the beginning to the scores."""
    request.getfixturevalue({"tensorboard": "board"}.get(request.param, request.param))
    options = [*SHORT, "--track", request.param]
    prepared.run(STAGES[1], "--force", *options)
    assert made(prepared) == plain
    for stage in STAGES[2:]:
        prepared.run(stage, *options)
    return request.param, prepared


def lines(folder) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "net/fold1_seed0/history.csv").open()))


def runs_of(client) -> dict[str, object]:
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    found = client.search_runs([experiment.experiment_id])
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return named


def test_readers_find_curves_settings_pictures_and_scores(tracked, request):
    name, place = tracked
    folder = place.folder / "data/runs/tiny"
    history, scores = (
        lines(folder),
        json.loads((place.folder / "submissions/tiny.json").read_text()),
    )
    check = {"tensorboard": in_board, "mlflow": in_mlflow}[name]
    reader = request.getfixturevalue({"tensorboard": "board"}.get(name, name))
    check(reader, folder, history, scores)
    # run again nothing is lost and nothing is there twice
    for stage in (STAGES[1], STAGES[4]):
        place.run(stage, *SHORT, "--track", name)
    check(reader, folder, history, scores)


def in_board(board, folder, history, scores) -> None:
    from tensorboard.plugins.hparams import metadata

    own = board(folder / "tensorboard/net/fold1_seed0")
    for column in ("loss", "learning_rate", "held_out_score"):
        expected = [(int(row["epoch"]), float(row[column])) for row in history if row[column]]
        found = [(event.step, event.value) for event in own.Scalars(column)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    told = own.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(told).hparams
    assert settings["phase.0.learning_rate"].number_value == 0.01
    assert settings["network.name"].string_value == "ring_unet"
    (picture,) = own.Images("out_of_fold")
    assert (picture.width, picture.height) == (900, 1200)
    of_all = board(folder / "tensorboard/scores")
    for key, value in wanted(scores).items():
        assert of_all.Scalars(key)[-1].value == pytest.approx(value)


def in_mlflow(mlflow, folder, history, scores) -> None:
    client = mlflow(folder)
    runs = runs_of(client)
    assert runs.keys() == {*(f"net/fold{fold}_seed0" for fold in range(3)), "scores"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    own = runs["net/fold1_seed0"]
    for column in ("loss", "learning_rate", "held_out_score"):
        expected = [(int(row["epoch"]), float(row[column])) for row in history if row[column]]
        found = client.get_metric_history(own.info.run_id, column)
        assert [(metric.step, metric.value) for metric in found] == expected
    assert own.data.params["phase.0.learning_rate"] == "0.01"
    assert runs["scores"].data.params["member.0.network.name"] == "ring_unet"
    (kept,) = client.list_artifacts(own.info.run_id)
    with Image.open(client.download_artifacts(own.info.run_id, kept.path)) as picture:
        assert kept.path == "out_of_fold.png" and picture.size == (900, 1200)
    for key, value in wanted(scores).items():
        assert runs["scores"].data.metrics[key] == value


def wanted(scores: dict) -> dict[str, float]:
    well, row = next(iter(scores["oof_by_group"].items()))
    return {
        "oof_score": scores["oof_score"],
        "test_score": scores["test_score"],
        "expected_interval/high": scores["expected_interval"][1],
        f"oof_by_group/{well}": row["score"],
        "baselines_on_test/all_empty": scores["baselines_on_test"]["all_empty"],
    }


def test_a_training_that_goes_on_goes_on_in_the_same_run(mlflow, tmp_path):
    run = tiny.run_of(tmp_path, tiny.tiny(), tiny.wells(2, 2))
    followed, (task, _) = Followed(run, run.tasks()), run.tasks()
    path = run.history(task)
    path.parent.mkdir(parents=True)
    now = Now(0.5, "", {}, set())
    with pytest.raises(InterruptedError), Tracking(followed, "mlflow") as tracking:
        tracking(now)
        path.write_text("epoch,loss\n1,4.0\n")
        tracking(now)
        raise InterruptedError
    client = mlflow(run.folder)
    assert runs_of(client)["net/fold0_seed0"].info.status == "KILLED"
    path.write_text("epoch,loss\n1,4.0\n2,3.0\n")
    tracking = Tracking(followed, "mlflow")
    tracking(now)
    own = runs_of(client)["net/fold0_seed0"]
    assert own.info.status == "RUNNING"
    found = client.get_metric_history(own.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in found] == [(1, 4.0), (2, 3.0)]
    # other settings are another run, also one that changes no weights
    for number, changed in enumerate(({"batch_size": 2}, {"margin": 2}), 2):
        other = run.with_recipe(tiny.tiny(**changed))
        Tracking(Followed(other, []), "mlflow")(now)
        assert len(client.search_runs([own.info.experiment_id])) == number


def test_a_picture_shows_what_is_most_corroded_beside_its_truth(tmp_path):
    """One patch of five has a defect, its left half; the probability is the truth turned around."""
    train = tiny.wells(5, 2)
    train["mask"][:] = 0
    train["mask"][3, :, :18] = 1
    run = tiny.run_of(tmp_path, tiny.tiny(), train)
    own = train["fold"] == 0
    likely = 1 - train["mask"][own][:, None].astype(np.float16)
    order = [4, 2, 0, 1, 3]  # of the names
    hdf5.write(
        run.oof(tiny.TASK),
        {"name": train["name"][own][order], "probability": likely[order]},
        {},
    )
    picture = held_out_picture(run, tiny.TASK).astype(int)
    assert picture.shape == (1200, 900, 3)
    middle = picture[150]  # through the first row of panels
    truth, probability = middle[310:590], middle[610:890]
    white, bright = (np.flatnonzero(part.sum(1) > 3 * 128) for part in (truth, probability))
    white, bright = (places[(places > 10) & (places < 270)] for places in (white, bright))
    assert len(white) and len(bright) and white.max() < 150 and bright.min() > 130


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("tensorboard", "tensorboard"),
        ("mlflow", "mlflow-skinny"),
    ],
)
def test_a_missing_library_is_one_line_before_anything_is_trained(
    prepared, tmp_path, monkeypatch, name, package
):
    monkeypatch.setitem(sys.modules, name, None)
    for stage in (STAGES[1], STAGES[4]):
        line = prepared.refused(stage, "--set", "name=other", "--track", name)
        assert line.startswith(f"error: --track {name}: the library is not there")
        assert f"pip install {package}" in line
    assert not prepared.files("data/runs/other/**/*.safetensors")


def test_a_tracker_that_fails_is_told_last_and_takes_nothing_with_it(mlflow, prepared, plain):
    blocked = prepared.folder / "data/runs/blocked/mlruns"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("no folder")
    options = [*SHORT, "--set", "name=blocked", "--track", "mlflow"]
    line = prepared.refused(STAGES[1], *options)
    assert line.startswith("error: --track mlflow: ") and "all tasks are trained" in line
    assert made(prepared, "blocked") == plain
    live = (blocked.parent / "live.html").read_text()
    assert "all tasks are trained" in live and "refresh" not in live
    blocked.unlink()
    prepared.run(STAGES[1], *options)
    assert blocked.is_dir()
