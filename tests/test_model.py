"""A trained run by itself: a model folder predicts new wells and photographs."""

import csv
import io
import json
import pickle
import re
import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from src.artifacts import sealed
from src.competitions import new_photographs
from src.competitions.formats import rle
from src.modality import open_model
from src.model import Model
from src.scoring.unlike import familiar, unlike
from tests.test_notebook import INFERENCE, Kernel, sources
from tests.test_photo_stages import workplace as photographs_workplace
from tests.test_photo_stages import write_raw
from tests.workplace import RECIPE, ROOT, STAGES, Workplace


def call(module: str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, run inside this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


@dataclass
class Finished:
    """A run with a submission, and its model folder."""

    place: Workplace
    model: Path

    def apply(self, new: Path, output: Path, *more: str, model: Path | None = None) -> str:
        """What `apply` says, of the data that it all could read."""
        code, out, err = call_apply(model or self.model, new, output, *more)
        assert code == 0, err
        return out

    def refused(self, new: Path, output: Path, model: Path | None = None) -> tuple[str, str]:
        """What it says on stdout, and the one line of the error."""
        code, out, err = call_apply(model or self.model, new, output)
        lines = [line for line in err.splitlines() if line and "% |" not in line]
        assert (code, len(lines)) == (2, 1), err
        return out, lines[0]


def call_apply(model: Path, new: Path, output: Path, *more: str) -> tuple[int, str, str]:
    return call("src.cli.apply", model, new, output, "--device", "cpu", "--jobs", "1", *more)


def finish(place: Workplace) -> Finished:
    for stage in STAGES:
        place.run(stage)
    _, recipe, *options = place.command("")
    models = place.folder / "models"
    code, _, err = call("src.cli.bundle", recipe, *options, "--models-dir", models, "--zip")
    assert code == 0, err
    return Finished(place, models / "tiny")


@pytest.fixture(scope="module")
def wells(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("wells")
    return finish(Workplace(folder, RECIPE.replace("epochs = 30", "epochs = 6")))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("photographs")
    write_raw(folder / "data/raw/blobs")
    return finish(photographs_workplace(folder))


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_alone_makes_the_masks_of_the_submission(wells, tmp_path, packed):
    model = tmp_path / "elsewhere"
    if packed:
        model = shutil.copy(wells.model.with_suffix(".zip"), tmp_path / "elsewhere.zip")
    else:
        shutil.copytree(wells.model, model)
    (new,) = (wells.place.folder / "data/raw/demo").glob("X_test*")
    out = wells.apply(new, tmp_path / "out", model=model)
    for ending in (".csv", "_official.csv"):
        expected = (wells.place.folder / f"submissions/tiny{ending}").read_bytes()
        assert (tmp_path / f"out/tiny{ending}").read_bytes() == expected
    lines = json.loads((tmp_path / "out/tiny.json").read_text())["images"]
    for well, line in lines.items():  # the masks as files hold the same pixels as the codes
        mask = np.load(tmp_path / f"out/masks/well_{well}.npy")
        assert mask.mean() == pytest.approx(line["corroded"])
        assert mask.sum() == marked_in(tmp_path / "out/tiny.csv", f"well_{well}_")
        assert f"well {well:>5}" in out


def marked_in(path: Path, beginning: str) -> int:
    """Pixels that a run-length CSV marks in all patches whose names begin so."""
    with open(path) as file:
        codes = [row["rle"].split() for row in csv.DictReader(file) if beginning in row["name"]]
    return sum(int(length) for code in codes for length in code[1::2])


def test_what_is_done_stays_and_probabilities_may_follow(wells, tmp_path):
    (new,) = (wells.place.folder / "data/raw/demo").glob("X_test*")
    wells.apply(new, tmp_path)
    before = (tmp_path / "tiny.json").read_bytes()
    assert "3 of them up to date" in wells.apply(new, tmp_path)
    assert (tmp_path / "tiny.json").read_bytes() == before
    assert not (tmp_path / "probabilities").exists()
    wells.apply(new, tmp_path, "--probabilities")
    for path in (tmp_path / "masks").iterdir():
        likely = np.load(tmp_path / "probabilities" / path.name)
        assert likely.shape == np.load(path).shape and likely.min() >= 0 and likely.max() <= 1


def well(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.02, (rows, columns)).astype(np.float32)


def write_patches(path: Path, image: np.ndarray, number: int) -> None:
    """A well (rows, 36 or 72) as the challenge cuts it: interleaved where it has 72 columns."""
    with zipfile.ZipFile(path, "w") as archive:
        k = 0
        for top in range(0, len(image), 36):
            for half in range(image.shape[1] // 36):
                content = io.BytesIO()
                np.save(content, image[top : top + 36, half :: image.shape[1] // 36])
                archive.writestr(f"well_{number}_patch_{k}.npy", content.getvalue())
                k += 1


@pytest.mark.parametrize("ending", [".npy", ".csv"])
def test_a_whole_well_is_predicted_as_its_patches_are(wells, tmp_path, ending):
    image = well(108, 36)
    image[40:50, 5:9] = np.nan
    if ending == ".npy":
        np.save(tmp_path / "new.npy", image.astype(np.float64))
    else:
        np.savetxt(tmp_path / "new.csv", image, delimiter=",")
    write_patches(tmp_path / "patches.zip", image, 7)
    out = wells.apply(tmp_path / f"new{ending}", tmp_path / "whole", "--probabilities")
    assert f"new{ending} is well 1" in out
    wells.apply(tmp_path / "patches.zip", tmp_path / "cut", "--probabilities")
    for kind in ("masks", "probabilities"):
        whole, cut = tmp_path / f"whole/{kind}/new.npy", tmp_path / f"cut/{kind}/well_7.npy"
        np.testing.assert_array_equal(np.load(whole), np.load(cut))


@pytest.mark.parametrize("rows, columns", [(50, 36), (1, 36), (70, 72)])
def test_a_mask_is_as_large_as_its_well(wells, tmp_path, rows, columns):
    np.save(tmp_path / "new.npy", well(rows, columns))
    wells.apply(tmp_path / "new.npy", tmp_path / "out")
    assert np.load(tmp_path / "out/masks/new.npy").shape == (rows, columns)
    line = json.loads((tmp_path / "out/tiny.json").read_text())["images"]["1"]
    assert line["interleaved"] == (columns == 72) and line["file"] == "new.npy"


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def bad_wells(folder: Path) -> None:
    """A sound well among files that each have something else wrong."""
    np.save(folder / "good.npy", well(72, 36))
    np.save(folder / "wide.npy", well(72, 37))
    np.save(folder / "dot.npy", well(1, 1))
    np.save(folder / "gaps.npy", np.full((72, 36), np.nan, np.float32))
    np.save(folder / "three.npy", np.zeros((2, 36, 36), np.float32))
    np.save(folder / "none.npy", np.zeros((0, 36), np.float32))
    np.save(folder / "words.npy", np.full((36, 36), "thick"))
    (folder / "empty.npy").touch()
    (folder / "noise.zip").write_bytes(b"PK" + bytes(100))
    np.save(folder / "bomb.npy", np.array([Bomb()], object), allow_pickle=True)
    (folder / "cells.csv").write_text("\n".join([",".join(["0.1"] * 36), ",".join(["x"] * 36)]))
    np.save(folder / "well_3_patch_0.npy", well(36, 37))
    (folder / "gone.npy").symlink_to(folder / "nowhere")
    with open(folder / "several.npy", "wb") as file:
        np.savez(file, a=well(36, 36))
    (folder / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\x0c\x00{'descr': (  ")
    header = ",".join(map(str, range(36)))
    np.savetxt(folder / "headed.csv", well(36, 36), delimiter=",", header=header, comments="")
    (folder / "more").mkdir()
    np.save(folder / "more/good.npy", well(72, 36))


def test_what_cannot_be_read_is_told_a_line_each_and_the_others_are_predicted(wells, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    bad_wells(new)
    for _ in range(2):  # also when there is nothing left to do
        out, error = wells.refused(new, tmp_path / "out")
        told = [line for line in out.splitlines() if line.startswith("not predicted: ")]
        assert len(told) == 16 and "16 files could not be read" in error
        bad = {str(path) for path in new.rglob("*.*")} - {str(new / "good.npy")}
        assert all(any(name in line for line in told) for name in bad)
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["good.npy"]


def test_a_patch_in_two_folders_is_told_and_all_others_are_predicted(wells, tmp_path):
    new = tmp_path / "new"
    for place in (new / "a/well_1_patch_0", new / "a/well_1_patch_1", new / "b/well_1_patch_0"):
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, well(36, 36))
    out, error = wells.refused(new, tmp_path / "out")
    assert "b/well_1_patch_0.npy: well_1_patch_0 stands in two folders" in out and "1 file" in error
    assert np.load(tmp_path / "out/masks/well_1.npy").shape == (72, 36)


def test_results_of_other_data_do_not_stay(wells, tmp_path):
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    for name in "ab":
        np.save(new / name, well(36, 36))
    wells.apply(new, out, "--probabilities")
    (new / "b.npy").unlink()
    wells.apply(new, out)
    assert [path.name for path in (out / "masks").iterdir()] == ["a.npy"]
    assert not (out / "probabilities").exists()
    (out / "masks/a.npy").write_bytes(b"damaged")
    assert "damaged or was changed" in wells.apply(new, out)
    assert np.load(out / "masks/a.npy").shape == (36, 36)


def test_results_may_not_lie_among_the_new_data(wells, tmp_path):
    np.save(tmp_path / "new.npy", well(36, 36))
    _, error = wells.refused(tmp_path, tmp_path / "out")
    assert "would be taken for new data" in error and not (tmp_path / "out").exists()


def test_a_well_that_ends_within_a_patch_is_described_without_what_fills_it_up(wells, tmp_path):
    np.save(tmp_path / "new.npy", well(37, 36))
    wells.apply(tmp_path / "new.npy", tmp_path / "out")
    line = json.loads((tmp_path / "out/tiny.json").read_text())["images"]["1"]
    assert "not measured" not in line["unlike"]
    assert line["corroded"] == np.load(tmp_path / "out/masks/new.npy").mean()


@pytest.mark.parametrize("content", [None, b"", b"not an array"])
def test_nothing_that_can_be_read_is_one_line(wells, tmp_path, content):
    new = tmp_path / "new"
    new.mkdir()
    if content is not None:
        (new / "a.npy").write_bytes(content)
    out, error = wells.refused(new, tmp_path / "out")
    assert str(new) in error and not out


def test_what_is_unlike_the_training_wells_is_said(wells, tmp_path):
    np.save(tmp_path / "new.npy", 40 * well(72, 36))
    out = wells.apply(tmp_path / "new.npy", tmp_path / "out")
    assert "unlike the training wells: " in out and "spread of thickness" in out


def test_unlike_is_what_lies_more_than_a_quarter_of_the_range_beyond_it():
    known = familiar({"a": {"mean": 1.0, "size": 5.0}, "b": {"mean": 3.0, "size": 5.0}})
    assert known == {"mean": (1.0, 3.0), "size": (5.0, 5.0)}
    new = {"in": {"mean": 3.5, "size": 5.0}, "out": {"mean": 3.6, "size": 4.0}}
    told = unlike(new, known)
    assert told["in"] == ""
    assert told["out"] == "mean 3.6 (training 1 to 3), size 4 (training 5 to 5)"


def test_a_model_in_python_says_what_apply_does(wells, tmp_path):
    image = well(60, 36)
    np.save(tmp_path / "new.npy", image)
    wells.apply(tmp_path / "new.npy", tmp_path / "out", "--probabilities")
    found = Model.load(wells.model, device="cpu").predict(image)
    np.testing.assert_array_equal(found.mask, np.load(tmp_path / "out/masks/new.npy"))
    np.testing.assert_array_equal(
        found.probability, np.load(tmp_path / "out/probabilities/new.npy").astype(np.float32)
    )


def change(folder: Path, name: str, value: object) -> None:
    """Another value in decisions.json, sealed anew as by someone who means it."""
    path = folder / "decisions.json"
    content = json.loads(path.read_text())
    inputs = content.pop("created_from")
    del content["checksum"]
    sealed.write_json(path, content | {name: value}, inputs)


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap(folder: Path) -> None:
    one, other = (folder / f"weights/net/fold{fold}_seed0.safetensors" for fold in (0, 1))
    shutil.copy(other, one)


def other_network(folder: Path) -> None:
    """A recipe of a larger network, its digest mended."""
    path = folder / "recipe.toml"
    path.write_text(path.read_text().replace("8,", "64,"))
    files = json.loads((folder / "decisions.json").read_text())["files"]
    change(folder, "files", files | sealed.listed([path]))


def climb(folder: Path) -> None:
    files = json.loads((folder / "decisions.json").read_text())["files"]
    change(folder, "files", files | {"../../secret": "0"})


def pickled(folder: Path) -> None:
    path = folder / "weights/net/fold0_seed0.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    files = json.loads((folder / "decisions.json").read_text())["files"]
    name = "weights/net/fold0_seed0.safetensors"
    change(folder, "files", files | {name: sealed.digest_files([path])})


def training(folder: Path) -> dict[str, object]:
    return json.loads((folder / "decisions.json").read_text())["training"]


def climbing(folder: Path) -> dict[str, object]:
    return training(folder) | {"classes": ["corrosion", "/../../evil"]}


def nameless(folder: Path) -> None:
    """Weights without a record, their digest mended."""
    path = folder / "weights/net/fold0_seed0.safetensors"
    path.write_bytes(save(load(path.read_bytes())))
    files = json.loads((folder / "decisions.json").read_text())["files"]
    name = "weights/net/fold0_seed0.safetensors"
    change(folder, "files", files | {name: sealed.digest_files([path])})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no decisions": lambda folder: (folder / "decisions.json").unlink(),
    "a byte of decisions": lambda folder: flip(folder / "decisions.json", 300),
    "decisions that are no JSON": lambda folder: (folder / "decisions.json").write_text("{"),
    "decisions of another kind": lambda folder: change(folder, "decisions", {"threshold": [0.5]}),
    "decisions of words": lambda folder: change(folder, "decisions", "half"),
    "no number for a score": lambda folder: change(folder, "oof_score", "high"),
    "a class that climbs": lambda folder: change(folder, "training", climbing(folder)),
    "half a shape": lambda folder: change(folder, "training", training(folder) | {"shape": [4]}),
    "a score in words": lambda folder: change(folder, "expected_score", "high"),
    "another scaling": lambda folder: change(folder, "training", {"center": "left"}),
    "missing weights": lambda folder: (folder / "weights/net/fold1_seed0.safetensors").unlink(),
    "a byte of the weights": lambda folder: flip(folder / "weights/net/fold1_seed0.safetensors"),
    "weights of another fold": swap,
    "a byte of the recipe": lambda folder: flip(folder / "recipe.toml"),
    "a recipe of another network": other_network,
    "a path that climbs": climb,
    "a pickle for weights": pickled,
    "weights without a record": nameless,
    "a spare file": lambda folder: (folder / "weights/run.py").write_text("raise SystemExit"),
    "no card": lambda folder: (folder / "card.md").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_folder_that_is_not_whole_is_refused_in_one_line(wells, tmp_path, damage):
    model = tmp_path / "model"
    shutil.copytree(wells.model, model)
    DAMAGES[damage](model)
    np.save(tmp_path / "new.npy", well(36, 36))
    out, error = wells.refused(tmp_path / "new.npy", tmp_path / "out", model=model)
    assert str(model) in error and "executed" not in error and not out


@pytest.mark.parametrize("name", ["../climbs.txt", "/etc/passwd", "weights/x.pkl", "run.py"])
def test_a_zip_that_holds_anything_else_is_refused(wells, tmp_path, name):
    packed = shutil.copy(wells.model.with_suffix(".zip"), tmp_path / "model.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, "x")
    np.save(tmp_path / "new.npy", well(36, 36))
    _, error = wells.refused(tmp_path / "new.npy", tmp_path / "out", model=packed)
    assert name.strip("./") in error
    assert not list(tmp_path.rglob("climbs.txt")) and not list(tmp_path.rglob("*.py"))


def test_a_run_that_is_not_finished_is_not_packed(wells, tmp_path):
    place = Workplace(tmp_path)
    shutil.copytree(wells.place.folder / "data", tmp_path / "data")
    shutil.copy(wells.place.recipe, tmp_path / "tiny.toml")
    _, recipe, *options = place.command("")
    code, _, err = call("src.cli.bundle", recipe, *options, "--models-dir", tmp_path / "models")
    assert code == 2 and "run 04_postprocess.py" in err
    assert not (tmp_path / "models").exists()


def test_photographs_get_the_masks_of_the_submission(photographs, tmp_path):
    images = photographs.place.folder / "data/raw/blobs/test/images"
    photographs.apply(images, tmp_path / "out", "--probabilities")
    for ending in (".csv", "_official.csv"):
        expected = (photographs.place.folder / f"submissions/tiny{ending}").read_bytes()
        assert (tmp_path / f"out/tiny{ending}").read_bytes() == expected
    with open(tmp_path / "out/tiny.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    for row in rows:  # the PNG of each photograph and class holds what the code says
        name = f"{Path(row['name']).stem}_{row['class']}.png"
        mask = np.array(Image.open(tmp_path / "out/masks" / name))
        (coded,) = rle.decode([row["rle"]], *mask.shape, "column")
        np.testing.assert_array_equal(mask, 255 * coded)
        likely = Image.open(tmp_path / "out/probabilities" / name)
        assert likely.size == mask.shape[::-1] and likely.mode.startswith("I")


def test_new_photographs_are_read_on_other_machines_too(photographs):
    of_model = open_model(photographs.model, Path("new"), Path("out")).competition
    assert pickle.loads(pickle.dumps(of_model)).read == of_model.read


def test_of_photographs_that_fit_together_only_without_some_the_fewest_are_left_out():
    sizes = {Path("a"): (300, 1), Path("b"): (20, 30), Path("c"): (30, 20)}
    assert new_photographs._too_large(sizes, 900) == [Path("a")]
    assert new_photographs._too_large(sizes, 899) == [Path("a"), Path("b")]


def test_photographs_of_other_sizes_and_files_that_are_none(photographs, tmp_path):
    rng, new = np.random.default_rng(0), tmp_path / "new"
    new.mkdir()
    for name, size in (("a.png", (33, 90)), ("b.jpg", (128, 40)), ("dot.png", (1, 1))):
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(new / name)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(new / "colour.png")
    (new / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    whole = (new / "a.png").read_bytes()
    (new / "cut.png").write_bytes(whole[: len(whole) // 2])
    (new / "empty.tif").touch()
    out, error = photographs.refused(new, tmp_path / "out")
    told = [line for line in out.splitlines() if line.startswith("not predicted: ")]
    assert len(told) == 4 and "4 files could not be read" in error
    found = {path.name: Image.open(path).size for path in (tmp_path / "out/masks").iterdir()}
    sizes = {"a": (90, 33), "b": (40, 128), "dot": (1, 1)}
    assert found == {f"{name}_{k}.png": size for name, size in sizes.items() for k in (1, 2)}
    line = json.loads((tmp_path / "out/tiny.json").read_text())["images"]["dot.png"]
    assert "rows 1 (training 40 to 48)" in line["unlike"]


def test_a_zip_opened_in_python_predicts_again_and_again(wells):
    model, image = Model.load(wells.model.with_suffix(".zip"), device="cpu"), well(40, 36)
    first, other = model.predict(image), model.predict(well(50, 72, seed=1))
    assert other.mask.shape == (50, 72)
    np.testing.assert_array_equal(model.predict(image).probability, first.probability)


def test_the_lines_of_the_readme_run(wells, tmp_path, monkeypatch, capsys):
    (lines,) = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "README.md").read_text())
    monkeypatch.chdir(tmp_path)
    shutil.copytree(wells.model, "models/demo")
    Path("new_wells").mkdir()
    np.save("new_wells/a.npy", well(40, 72))
    exec(lines, {})
    assert capsys.readouterr().out.startswith("(40, 72) ")


def test_the_notebook_makes_a_submission_without_training(wells, tmp_path, monkeypatch):
    settings, *others = sources(INFERENCE)
    monkeypatch.chdir(tmp_path)
    kernel = Kernel(monkeypatch)
    kernel.run(settings)
    assert kernel.names.keys() >= {"PROJECT", "MODEL", "NEW", "WHEELS", "OUTPUT", "OPTIONS"}
    (new,) = (wells.place.folder / "data/raw/demo").glob("X_test*")
    kernel.names |= {"PROJECT": str(ROOT), "MODEL": str(wells.model), "NEW": str(new)}
    kernel.names |= {"OUTPUT": str(tmp_path / "out"), "OPTIONS": "--device cpu"}
    for source in others:
        kernel.run(source)
    expected = wells.place.folder / "submissions/tiny_official.csv"
    assert (tmp_path / "submission.csv").read_bytes() == expected.read_bytes()


def test_a_photograph_in_python(photographs, tmp_path):
    images = photographs.place.folder / "data/raw/blobs/test/images"
    image = np.array(Image.open(images / "t1.png"))
    Image.fromarray(image).save(tmp_path / "t1.png")
    photographs.apply(tmp_path / "t1.png", tmp_path / "out")
    found = Model.load(photographs.model, device="cpu").predict(image)
    assert found.probability.shape == found.mask.shape == (2, *image.shape)
    for k in (1, 2):
        mask = np.array(Image.open(tmp_path / f"out/masks/t1_{k}.png"))
        np.testing.assert_array_equal(255 * found.mask[k - 1], mask)


def test_the_card_tells_the_score_and_what_it_was_trained_on(wells):
    card, scores = (
        (wells.model / "card.md").read_text(),
        json.loads((wells.place.folder / "submissions/tiny.json").read_text()),
    )
    assert f"**{scores['oof_score']:.4f}**" in card
    assert f"out of fold: {scores['calibration']['error']:.4f}." in card
    assert ("**Judgement:**" in card) == ("judgement" in scores)
    for name, own in scores["oof_by_group"].items():
        assert f"| {name} | {own['patches']} | {own['score']:.3f} |" in card
    assert sealed.fingerprint(wells.place.folder / "data/prepared/demo/train.h5") in card
