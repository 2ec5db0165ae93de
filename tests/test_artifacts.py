"""Artifacts: whole or absent, and knowing what they were made from."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from src.artifacts import hdf5, lineage, sealed
from src.artifacts.digests import digest, digest_files
from src.recipe import Data, Folds, Task
from src.terminal.errors import UserError
from tests import tiny
from tests.tiny import rewrite

KINDS = pytest.mark.parametrize("name", ["a.h5", "a.safetensors", "a.json"])
DAMAGED = "is damaged (its checksum does not fit)"


def test_weights_read_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "steps": np.array(3)}
    sealed.write_weights(path, weights, {"recipe": "x"})
    read = sealed.read_weights(path)
    assert read.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(read[name], array)
    assert sealed.up_to_date(path, {"recipe": "x"})
    assert not sealed.up_to_date(path, {"recipe": "y"})


def write_any(path: Path, inputs: dict[str, str]) -> None:
    if path.suffix == ".h5":
        hdf5.write(path, {"w": np.arange(100), "name": np.array(["a", "ü"])}, inputs)
    elif path.suffix == ".safetensors":
        sealed.write_weights(path, {"w": np.zeros(100, np.float32)}, inputs)
    else:
        sealed.write_json(path, {"score": 0.5}, inputs)


@KINDS
def test_an_artifact_is_up_to_date_only_whole_and_with_equal_inputs(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    inputs = {"raw": "1", "data": "2"}
    assert not sealed.up_to_date(path, inputs)
    write_any(path, inputs)
    assert sealed.up_to_date(path, dict(reversed(inputs.items())))
    for other in ({"raw": "1"}, {**inputs, "raw": "9"}, {**inputs, "more": "3"}, {}):
        assert not sealed.up_to_date(path, other)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"\x00" * len(whole)):
        rewrite(path, damaged)
        assert not sealed.up_to_date(path, inputs)
    path.unlink()
    path.mkdir()
    assert not sealed.up_to_date(path, inputs)


def test_a_file_that_says_nothing_of_its_inputs_is_not_up_to_date(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w"):
        pass
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("[]")
    save_file({"w": np.zeros(3)}, tmp_path / "a.safetensors")
    for name in ("a.h5", "a.json", "b.json", "a.safetensors"):
        assert not sealed.up_to_date(tmp_path / name, {}), name


def test_digest_differs_by_type_shape_and_content() -> None:
    array = np.arange(6, dtype=np.int32)
    others = [
        array.astype(np.float32),
        array.view(np.uint32),
        array.astype(np.int64),
        array.reshape(2, 3),
        array.reshape(3, 2),
        array[::-1],
        np.array(["a", "b"], object),
        np.array(["a", "c"], object),
        np.array(["ab"], object),
        "text",
        b"bytes",
        Folds(count=3),
        Folds(count=4),
        Data(),
    ]
    digests = [digest(part) for part in (array, *others)]
    assert len(set(digests)) == len(digests)
    assert digest(array.copy()) == digests[0]
    # memory layout is no content
    assert digest(np.arange(12, dtype=np.int32)[::2] // 2) == digests[0]
    assert digest(Folds(count=3)) == digest(Folds.model_validate({"count": 3}))


@KINDS
def test_the_fingerprint_is_the_sum_of_a_file_with_zeros_in_its_place(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    write_any(path, {"raw": "1", "train": 64 * "a"})
    whole = path.read_bytes()
    ((start, stop),) = [found.span() for found in re.finditer(rb"(?<=sha256:)[0-9a-f]{64}", whole)]
    by_hand = hashlib.sha256(whole[:start] + 64 * b"0" + whole[stop:]).hexdigest()
    assert sealed.fingerprint(path) == by_hand == whole[start:stop].decode()
    assert sealed.inputs_of(path) == {"raw": "1", "train": 64 * "a"}
    other = tmp_path / f"other_{name}"
    write_any(other, {"raw": "2", "train": 64 * "a"})
    assert sealed.fingerprint(other) != by_hand


def test_a_file_without_a_sum_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.h5 is missing: run the stage that makes it"):
        sealed.fingerprint(tmp_path / "a.h5")
    (tmp_path / "a.h5").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"a\.h5 is damaged \(no checksum\)"):
        sealed.fingerprint(tmp_path / "a.h5")


@KINDS
def test_what_stands_in_anothers_place_is_named(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, inputs = tmp_path / name, {"task": "net, fold 0, seed 1", "train": "a"}
    write_any(path, inputs | {"task": "net, fold 1, seed 1"})
    told = f"{path} belongs to net, fold 1, seed 1, not to net, fold 0, seed 1: it is made again\n"
    assert not sealed.up_to_date(path, inputs, quiet=True)
    assert capsys.readouterr().out == ""
    assert not sealed.up_to_date(path, inputs)
    assert capsys.readouterr().out == told
    # of other data: as it happens whenever a recipe changes, and nothing to talk about
    write_any(path, inputs | {"train": "b"})
    assert not sealed.up_to_date(path, inputs)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("fold", "seed"), [(1, 0), (0, 7), (1, 7)])
def test_weights_of_another_task_are_found_and_named(
    tmp_path: Path, fold: int, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny.run_of(tmp_path, train=tiny.wells(2, 2)).with_seeds([0, 7])
    for task in run.tasks():
        weights = {"w": np.full(3, 10 * task.fold + task.seed, np.float32)}
        sealed.write_weights(run.weights(task), weights, lineage.weights(run, task))
    assert all(
        sealed.up_to_date(run.weights(task), lineage.weights(run, task)) for task in run.tasks()
    )
    assert capsys.readouterr().out == ""
    here, other = Task("net", 0, 0), Task("net", fold, seed)
    shutil.copy(run.weights(other), run.weights(here))
    assert not sealed.up_to_date(run.weights(here), lineage.weights(run, here))
    told = f"belongs to net, fold {fold}, seed {seed}, not to net, fold 0, seed 0"
    assert capsys.readouterr().out == f"{run.weights(here)} {told}: it is made again\n"
    assert not lineage.is_trained(run, here)


def test_listed_files_that_are_missing_or_changed_are_found(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(name)
    files = sealed.listed([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert list(files) == ["a.csv", "b.csv"] and sealed.changed(tmp_path, files) is None
    (tmp_path / "b.csv").write_text("b.csV")
    assert sealed.changed(tmp_path, files) == tmp_path / "b.csv"
    (tmp_path / "a.csv").unlink()
    assert sealed.changed(tmp_path, files) == tmp_path / "a.csv"


def test_json_reads_back_and_says_what_it_is_made_from(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    sealed.write_json(path, {"score": 0.5, "of": ["ü"]}, {"raw": "1"})
    read = sealed.read_json(path)
    assert read.pop("checksum").startswith("sha256:")
    assert read == {"score": 0.5, "of": ["ü"], "created_from": {"raw": "1"}}
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 0.5
    rewrite(path, path.read_bytes().replace(b"0.5", b"0.6"))
    with pytest.raises(UserError, match=r"a\.json is damaged: run the stage that makes it again"):
        sealed.read_json(path)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_reading_truncated_weights_is_one_line_that_names_them(
    tmp_path: Path, share: float
) -> None:
    path = tmp_path / "a.safetensors"
    write_any(path, {})
    whole = path.read_bytes()
    rewrite(path, whole[: int(share * len(whole))])
    with pytest.raises(UserError) as caught:
        sealed.read_weights(path)
    assert str(caught.value) == f"{path} is damaged: run the stage that makes it again"


def test_digest_of_files_covers_names_contents_and_order(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    digests = [
        digest_files([a, b]),
        digest_files([b, a]),
        digest_files([a]),
    ]
    b.write_bytes(b"3")
    digests.append(digest_files([a, b]))
    b.rename(tmp_path / "c")
    digests.append(digest_files([a, tmp_path / "c"]))
    assert len(set(digests)) == len(digests)
    (tmp_path / "c").write_bytes(b"2")
    (tmp_path / "c").rename(b)
    assert digest_files([a, b]) == digests[0]


def test_digest_of_files_takes_any_name_and_no_pipe(tmp_path: Path) -> None:
    odd, pipe = tmp_path / "\udcff.npy", tmp_path / "pipe"
    odd.write_bytes(b"1")
    assert len(digest_files([odd])) == 64
    # the stages make one line of it, with the name that it carries
    with pytest.raises(FileNotFoundError) as caught:
        digest_files([tmp_path / "raw"])
    assert str(caught.value.filename) == str(tmp_path / "raw")
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe is no plain file: put the file itself there"):
        digest_files([odd, pipe])


@KINDS
def test_no_flipped_bit_goes_unnoticed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    write_any(path, {"raw": "1"})
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        rewrite(path, damaged)
        assert not sealed.up_to_date(path, {"raw": "1"}), place
        assert capsys.readouterr().out == f"{path} {DAMAGED}: it is made again\n", place
    rewrite(path, whole)
    assert sealed.up_to_date(path, {"raw": "1"})
