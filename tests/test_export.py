"""Exported networks: they say the same as torch's, and the table of what they cost is measured."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from benchmarks import pruning
from src import networks
from src.artifacts import hdf5
from src.cli import export
from src.terminal import command
from src.training import task as training
from tests.tiny import CPU, TASK, held_out, run_of, tiny, wells


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A wells' network with half of its channels gone, trained for an epoch."""
    place = tmp_path_factory.mktemp("exported")
    pruning = {"method": "linear", "sparsity": 0.5, "steps": 1, "channels": True}
    chosen, train = tiny(height=72, phase=[{"epochs": 1, "pruning": pruning}]), wells(3, 2)
    run = run_of(place / "data", chosen)
    hdf5.write(run.prepared("train"), train, {}, classes=["corrosion"])
    training.run_task(run, TASK, CPU, 1)
    return run.task(TASK)


def test_onnx_agrees_with_torch_and_the_table_tells_every_form(folder, capsys, monkeypatch):
    monkeypatch.setattr(export, "measure", lambda *_: {"latency (ms)": 1.0})
    export.main(export.parser().parse_args([str(folder), "--onnx", "--int8"]))
    said = capsys.readouterr().out
    assert "1x72x36" in said and all(f"| {name} " in said for name in ("torch", "onnx", "int8"))
    trained = export.Trained.open(folder)
    image = torch.randn(1, 1, 72, 36)
    with torch.inference_mode():
        expected = trained.network(image).numpy()
    plain, small = (
        export.session(folder / name).run(None, {"image": image.numpy()})[0]
        for name in ("network.onnx", "network_int8.onnx")
    )
    np.testing.assert_allclose(plain, expected, atol=1e-4)
    assert 0 < np.abs(small - expected).max() < 1
    props = {entry.key: entry.value for entry in onnx.load(folder / "network.onnx").metadata_props}
    assert (
        json.loads(props["center"]) == pytest.approx(trained.scaling.center.tolist())
        and props["activation"] == "sigmoid"
    )
    types = {
        initial.data_type for initial in onnx.load(folder / "network_int8.onnx").graph.initializer
    }
    assert onnx.TensorProto.INT8 in types


@pytest.mark.parametrize("name", ["fpn", "linknet"])
def test_networks_for_photographs_can_be_exported(name, tmp_path):
    network = networks.create(
        {"name": name, "encoder": "test_resnet", "classes": 3, "channels": 3}
    ).eval()
    difference = export.to_onnx(network, torch.randn(1, 3, 40, 56), tmp_path / "network.onnx", {})
    assert 0 <= difference < 1e-4


def test_a_file_that_disagrees_with_torch_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "disagreement", lambda *_: 2e-4)
    with pytest.raises(export.UserError, match="differs from torch by"):
        export.to_onnx(
            nn.Conv2d(1, 1, 1).eval(), torch.randn(1, 1, 4, 4), tmp_path / "network.onnx", {}
        )
    assert not list(tmp_path.iterdir())


class Asks:
    """The other end of a stopwatch's connection, in this process: it asks for so many images."""

    def __init__(self, images: int) -> None:
        self.left, self.told = images, []

    def recv(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def send(self, costs: tuple[float, float]) -> None:
        self.told.append(costs)


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_costs_are_measured(folder, form, tmp_path):
    file = folder / "weights.safetensors"
    if form == "onnx":
        file = tmp_path / "network.onnx"
        export.to_onnx(export.Trained.open(folder).network, torch.randn(1, 1, 72, 36), file, {})
    asks = Asks(4)
    export._serve(asks, file, folder, (1, 1, 72, 36))
    assert len(asks.told) == 4 and all(
        milliseconds > 0 and megabytes >= 0 for milliseconds, megabytes in asks.told
    )


def test_how_many_times_faster_is_the_median_over_pairs(monkeypatch, tmp_path):
    """The machine grows slower all the time; own and other take 1 and 4, 2 and 8, ... but once
    another task takes the machine.
    """

    class Watch:
        def __init__(self, *_: object) -> None:
            self.laps = 0

        def lap(self) -> tuple[float, float]:
            self.laps += 1
            return float(self.laps), 10.0 * self.laps

        def stop(self) -> None:
            pass

    class Slower(Watch):
        def lap(self) -> tuple[float, float]:
            milliseconds, memory = super().lap()
            return 1e6 if self.laps == 7 else 4 * milliseconds, memory

    monkeypatch.setattr(export, "Stopwatch", Watch)
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    costs = export.measure(tmp_path / "file", tmp_path, (1,), beside=Slower())
    assert (
        costs["times faster"] == 4
        and costs["latency (ms)"] == 15.5
        and costs["peak memory (MB)"] == 300
        and costs["file (MB)"] == 1
    )
    assert "times faster" not in export.measure(tmp_path / "file", tmp_path, (1,))


def test_networks_are_told_side_by_side(folder, capsys, monkeypatch):
    """The scores of all forms are those of the same network; in torch, those of its own
    predictions.
    """
    monkeypatch.setattr(export, "measure", lambda *_: {"latency (ms)": 1.0})
    (plain, onnx_line, small) = pruning.rows(folder, True, None, None)
    assert plain["IoU corrosion"] == pytest.approx(onnx_line["IoU corrosion"], abs=1e-3)
    assert small["IoU corrosion"] == pytest.approx(plain["IoU corrosion"], abs=0.1)
    trained, train = export.Trained.open(folder), wells(3, 2)
    _, probability = held_out(trained.network, trained.scaling, trained.run)
    marked, truth = probability[:, 0] > 0.5, train["mask"][:3] > 0
    assert plain["IoU corrosion"] == pytest.approx((marked & truth).sum() / (marked | truth).sum())
    assert plain["parameters (M)"] == onnx_line["parameters (M)"] and plain["operations (G)"] > 0


def test_calibration_sees_other_windows_than_the_held_out_ones(folder):
    trained = export.Trained.open(folder)
    images = list(trained.images(5))
    assert len(images) == 5 and all(image.shape == (1, 1, 72, 36) for image in images)
    train = wells(3, 2)
    strip = trained.scaling.apply(train["image"][train["fold"] == 1]).reshape(-1, 36)
    np.testing.assert_allclose(images[0][0, 0], strip[:72])
    np.testing.assert_allclose(images[-1][0, 0], strip[-72:])


BROKEN = {
    "no recipe": lambda run: (run / "recipe.toml").unlink(),
    "no TOML": lambda run: (run / "recipe.toml").write_text("name = ["),
    "no text": lambda run: (run / "recipe.toml").write_bytes(b"\xff\xfe"),
    "no competition": lambda run: (run / "recipe.toml").write_text("name = 1"),
    "another recipe": lambda run: edit(run / "recipe.toml", 'name = "tiny"', 'name = "other"'),
    "another member": lambda run: run.parent.rename(run.parents[1] / "other"),
    "no such fold": lambda run: run.rename(run.with_name("fold2_seed0")),
    "no such seed": lambda run: run.rename(run.with_name("fold0_seed1")),
    "a seed of 40 digits": lambda run: run.rename(run.with_name("fold0_seed" + 40 * "9")),
    "another form": lambda run: run.rename(run.with_name("fold0")),
    "no weights": lambda run: (run / "weights.safetensors").unlink(),
    "other bytes as weights": lambda run: (run / "weights.safetensors").write_bytes(b"weights"),
    "no prepared data": lambda run: next(run.parents[3].glob("prepared/*/*")).unlink(),
    "another height": lambda run: edit(run / "recipe.toml", "height = 72", "height = 35"),
}


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_no_run_is_refused_in_one_line(folder, tmp_path, capsys, monkeypatch, change):
    shutil.copytree(folder.parents[3], tmp_path / "data", ignore=shutil.ignore_patterns("*.onnx"))
    run = tmp_path / "data" / folder.relative_to(folder.parents[3])
    change(run)
    found = next((tmp_path / "data/runs").glob("*/*/fold*"))
    refused(found, tmp_path, capsys, monkeypatch)


def test_a_folder_beside_no_data_is_refused_in_one_line(folder, tmp_path, capsys, monkeypatch):
    refused(tmp_path, tmp_path, capsys, monkeypatch)
    refused(tmp_path / "gone" / "fold0_seed0", tmp_path, capsys, monkeypatch)
    with tempfile.TemporaryDirectory() as shallow:
        lone = Path(shallow) / "fold0_seed0"
        lone.mkdir()
        shutil.copy(folder / "recipe.toml", lone)
        refused(lone, Path(shallow), capsys, monkeypatch)


def refused(run: Path, place: Path, capsys, monkeypatch) -> None:
    """Exit code 2, one line that names a file of the place, and nothing written."""
    monkeypatch.setattr(sys, "argv", ["export", str(run), "--onnx"])
    with pytest.raises(SystemExit) as caught:
        command.run(export.main, export.parser())
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and line.startswith(f"error: {place}")
    assert not list(place.rglob("*.onnx"))
