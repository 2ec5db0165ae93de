"""Exported networks: they say the same as torch's, and the table of what they cost is measured."""

import importlib.util
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
from src import networks, recipe
from src.artifacts import hdf5
from src.cli import export
from src.modality import open_run
from src.networks import engines
from src.networks.scaling import Scaling
from src.terminal import command
from src.terminal.errors import UserError
from src.training import task as training
from tests.tiny import CPU, TASK, held_out, run_of, tiny, wells

METADATA = {"classes": ["corrosion"], "center": 50.0, "scale": 2.0}
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="needs OpenVINO, which requirements.txt leaves out",
)
FORMATS = ["onnx", pytest.param("openvino", marks=needs_openvino)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A wells' network with half of its channels gone, trained for an epoch."""
    place = tmp_path_factory.mktemp("exported")
    pruning = {"method": "linear", "sparsity": 0.5, "steps": 1, "channels": True}
    chosen, train = tiny(height=72, phase=[{"epochs": 1, "pruning": pruning}]), wells(3, 2)
    run = run_of(place / "data", chosen)
    hdf5.write(run.prepared("train"), train, {}, **METADATA)
    training.run_task(run, TASK, CPU, 1)
    return run.task(TASK)


def test_onnx_agrees_with_torch_and_the_table_tells_every_form(folder, capsys, monkeypatch):
    monkeypatch.setattr(export, "measure", lambda *_: {"latency (ms)": 1.0})
    export.main(export.parser().parse_args([str(folder), "--onnx", "--int8"]))
    said = capsys.readouterr().out
    assert "1x72x36" in said and all(f"| {name} " in said for name in ("torch", "onnx", "int8"))
    raw, expected = windows_before_scaling(folder)
    plain, small = (
        engines.opened(folder / name)(raw) for name in ("network.onnx", "network_int8.onnx")
    )
    np.testing.assert_allclose(plain, expected, atol=1e-4)
    assert 0 < np.abs(small - expected).max() < 1
    props = {entry.key: entry.value for entry in onnx.load(folder / "network.onnx").metadata_props}
    assert props["activation"] == "sigmoid" and json.loads(props["classes"]) == ["corrosion"]
    types = {
        initial.data_type for initial in onnx.load(folder / "network_int8.onnx").graph.initializer
    }
    assert onnx.TensorProto.INT8 in types


@needs_openvino
def test_openvino_agrees_with_torch_and_keeps_32_bits(folder, capsys, monkeypatch):
    import openvino

    monkeypatch.setattr(export, "measure", lambda *_: {"latency (ms)": 1.0})
    export.main(export.parser().parse_args([str(folder), "--openvino"]))
    assert "| openvino " in capsys.readouterr().out
    raw, expected = windows_before_scaling(folder)
    file = folder / "network_openvino" / "network.xml"
    np.testing.assert_allclose(engines.opened(file)(raw), expected, atol=1e-4)
    model = openvino.Core().read_model(file)
    assert model.get_rt_info("activation").value == "sigmoid"
    assert model.input("image").shape == [1, 1, 72, 36] and model.output("logits")
    kinds = {node.output(0).element_type.to_string() for node in model.get_ordered_ops()}
    assert "f32" in kinds and "f16" not in kinds


def windows_before_scaling(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A window as the organisers hand it out, which is 50 + 2 times that of train.h5, and torch's
    logits for it.
    """
    trained = export.Trained.open(folder)
    stored = wells(3, 2)["image"][3:5].reshape(1, 1, 72, 36)
    with torch.inference_mode():
        logits = trained.network(torch.from_numpy(trained.scaling.apply(stored))).numpy()
    return (50 + 2 * stored).astype(np.float32), logits


@pytest.mark.parametrize("absent", [["--openvino"], ["--onnx", "--openvino"]])
def test_openvino_that_is_not_installed_is_asked_for_before_any_work(
    folder, absent, capsys, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["export", str(folder), *absent])
    with pytest.raises(SystemExit) as caught:
        command.run(export.main, export.parser())
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and "pip install openvino" in line


@pytest.mark.parametrize("nothing", [[], ["--int8"]])
def test_a_command_that_would_write_nothing_says_what_to_ask_for(folder, nothing):
    with pytest.raises(UserError, match=r"--onnx .* --openvino"):
        export.main(export.parser().parse_args([str(folder), *nothing]))


@pytest.mark.parametrize("per_pixel", [False, True])
def test_a_wells_whole_scaling_is_that_of_its_file_and_of_its_task(per_pixel, tmp_path):
    """By hand for each pixel: a window of 50 rows takes the positions of a patch in turn."""
    draw, shape = np.random.default_rng(0), (36, 36) if per_pixel else ()
    file, own = (
        Scaling(draw.normal(size=shape), draw.uniform(1, 2, shape)) for _ in ("file", "task")
    )
    run, train = run_of(tmp_path, tiny(height=50)), wells(3, 2)
    fitted = {"center": file.center.tolist(), "scale": file.scale.tolist()}
    hdf5.write(run.prepared("train"), train, {}, **fitted)
    whole = run.modality.whole_scaling(run, TASK, own)
    pairs = list(run.modality.examples(run, TASK, own, 9))
    assert len(pairs) == 2
    for first, (raw, seen) in zip((3, 4), pairs, strict=True):
        rows = train["image"][first : first + 2].reshape(72, 36)[:50]
        for row, column in [(0, 0), (35, 7), (36, 7), (49, 35)]:
            at = (row % 36, column) if per_pixel else ()
            before = rows[row, column] * file.scale[at] + file.center[at]
            after = (rows[row, column] - own.center[at]) / own.scale[at]
            assert raw[0, 0, row, column] == pytest.approx(before, rel=1e-5, abs=1e-5)
            assert seen[0, 0, row, column] == pytest.approx(after, rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(whole.apply(raw.numpy()), seen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("name", "kind", "white"), [("fpn", np.uint8, 255), ("linknet", np.uint16, 65535)]
)
def test_a_photographs_file_takes_the_values_of_its_file(name, kind, white, form, tmp_path):
    table = {"name": name, "encoder": "test_resnet"}
    member = {"name": "net", "network": table, "phase": [{"epochs": 1}]}
    chosen = recipe.parse({"name": "tiny", "competition": "nea", "member": [member]}, "test")
    run, draw = open_run(chosen, tmp_path, tmp_path), np.random.default_rng(0)
    image, known = draw.integers(0, white + 1, (3, 40, 56, 3)).astype(kind), np.zeros((3, 2, 3))
    hdf5.write(
        run.prepared("train"),
        {
            "name": np.array(["a", "b", "c"], object),
            "image": image,
            "size": np.full((3, 2), (40, 56)),
            "group": np.arange(3),
            "moments": known,
            "fold": np.array([0, 1, 2]),
            "shows": np.ones((3, 1), bool),
        },
        {},
        classes=["rust"],
        white=white,
    )
    network = networks.create(table | {"classes": 1, "channels": 3}).eval()
    center, scale = np.array([0.3, 0.5, 0.6], np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    trained = export.Trained(tmp_path, run, TASK, network, Scaling(center, scale))
    (file,) = export.export(trained, [form]).values()
    x = torch.from_numpy((image[1:2] / white - center) / scale).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network(x.contiguous()).numpy()
    raw = image[1:2].astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(engines.opened(file)(raw), expected, atol=1e-4)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_disagrees_with_torch_is_not_written(form, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "disagreement", lambda *_: 2e-4)
    network = engines.Scaled(nn.Conv2d(1, 1, 1), Scaling(np.zeros(()), np.ones(()))).eval()
    image, write = torch.randn(1, 1, 4, 4), getattr(export, f"to_{form}")
    with pytest.raises(UserError, match="differ from torch's by"):
        write(network, [(image, image)], tmp_path / "network", {})
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


@pytest.mark.parametrize("form", ["torch", *FORMATS])
def test_costs_are_measured(folder, form):
    file = folder / "weights.safetensors"
    if form != "torch":
        file = export.export(export.Trained.open(folder), [form])[form]
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


def test_examples_are_other_windows_than_the_held_out_ones(folder):
    trained = export.Trained.open(folder)
    first, last = (seen for _, seen in trained.images(5))
    train = wells(3, 2)
    strip = trained.scaling.apply(train["image"][train["fold"] == 1]).reshape(-1, 36)
    np.testing.assert_allclose(first[0, 0], strip[:72])
    np.testing.assert_allclose(last[0, 0], strip[-72:])


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
