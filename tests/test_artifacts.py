"""Artifacts: whole or absent, and knowing what they were made from."""

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from src import artifacts
from src.artifacts import files, streams
from src.recipe import Data, Folds
from src.terminal.errors import UserError

ARRAYS = {
    "train/name": np.array(["Bohrung_ä_1", "井戸_2", "", "a" * 300], object),
    "train/image": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    "half": np.array([0.1, 0.5], np.float16),
    "fold": np.array([-1, 3], np.int8),
    "valid": np.array([[True, False]]),
    "empty": np.empty((0, 3), np.uint8),
    "strided": np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException], before: bytes | None
) -> None:
    path = tmp_path / "artifact"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), artifacts.replacing(path) as partial:
        partial.write_bytes(b"half of the new")
        raise error("stop")
    assert contents(tmp_path) == ({} if before is None else {"artifact": before})


def test_a_complete_write_replaces_the_old_file_only_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "artifact"
    with artifacts.replacing(path) as partial:
        partial.write_bytes(b"old")
    with artifacts.replacing(path) as partial:
        assert partial.parent == path.parent
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert contents(path.parent) == {"artifact": b"new"}


def test_a_full_disk_is_one_line_for_the_user(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="no space left on the device"),
        artifacts.replacing(tmp_path / "artifact"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "folder"
    if existing:
        path.mkdir()
        (path / "old").write_text("")
    with pytest.raises(ValueError, match="stop"), files.replacing_folder(path) as partial:
        (partial / "new").write_text("")
        raise ValueError("stop")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == (
        ["folder", "folder/old"] if existing else []
    )
    with files.replacing_folder(path) as partial:
        (partial / "new").write_text("")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == [
        "folder",
        "folder/new",
    ]


def test_arrays_read_back_with_their_types_and_notes(tmp_path: Path) -> None:
    path = tmp_path / "arrays.h5"
    content = artifacts.write_arrays(path, ARRAYS, {"raw": "1"}, center=[0.5], text="ü")
    read = artifacts.read_arrays(path, ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype, name
        np.testing.assert_array_equal(read[name], array)
    assert all(type(name) is str for name in read["train/name"])
    assert artifacts.read_notes(path) == {"center": [0.5], "text": "ü"}
    assert artifacts.content_digest(path) == content
    assert artifacts.created_from(path) == {"raw": "1"}


def test_splits_are_written_side_by_side_and_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "splits.h5"
    artifacts.write_splits(path, {"train": {"a": np.arange(3)}, "test": {"a": np.arange(2)}}, {})
    assert artifacts.read_split(path, "train", ["a"])["a"].tolist() == [0, 1, 2]
    assert artifacts.read_split(path, "test", ["a"])["a"].tolist() == [0, 1]


def test_equal_content_gives_equal_bytes_and_digests(tmp_path: Path) -> None:
    digests = {
        artifacts.write_arrays(tmp_path / name, ARRAYS, {"raw": "1"}, note=1)
        for name in ("a.h5", "b.h5")
    }
    assert len(digests) == 1
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert artifacts.write_arrays(tmp_path / "a.h5", ARRAYS, {"raw": "1"}, note=2) not in digests
    assert (
        artifacts.write_arrays(
            tmp_path / "a.h5", {**ARRAYS, "fold": np.array([-1, 2], np.int8)}, {"raw": "1"}, note=1
        )
        not in digests
    )


def test_weights_read_back(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "steps": np.array(3)}
    artifacts.write_weights(path, weights, {"recipe": "x"})
    read = artifacts.read_weights(path)
    assert read.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(read[name], array)
    assert artifacts.up_to_date(path, {"recipe": "x"})
    assert not artifacts.up_to_date(path, {"recipe": "y"})


def write_any(path: Path, inputs: dict[str, str]) -> None:
    if path.suffix == ".h5":
        artifacts.write_arrays(path, ARRAYS, inputs)
    elif path.suffix == ".safetensors":
        artifacts.write_weights(path, {"w": np.zeros(100, np.float32)}, inputs)
    else:
        artifacts.write_json(path, {"score": 0.5}, inputs)


@pytest.mark.parametrize("name", ["a.h5", "a.safetensors", "a.json"])
def test_an_artifact_is_up_to_date_only_whole_and_with_equal_inputs(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    inputs = {"raw": "1", "data": "2"}
    assert not artifacts.up_to_date(path, inputs)
    write_any(path, inputs)
    assert artifacts.up_to_date(path, dict(reversed(inputs.items())))
    for other in ({"raw": "1"}, {**inputs, "raw": "9"}, {**inputs, "more": "3"}, {}):
        assert not artifacts.up_to_date(path, other)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"\x00" * len(whole)):
        path.write_bytes(damaged)
        assert not artifacts.up_to_date(path, inputs)
    path.unlink()
    path.mkdir()
    assert not artifacts.up_to_date(path, inputs)


def test_a_file_that_says_nothing_of_its_inputs_is_not_up_to_date(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w"):
        pass
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("[]")
    save_file({"w": np.zeros(3)}, tmp_path / "a.safetensors")
    for name in ("a.h5", "a.json", "b.json", "a.safetensors"):
        assert not artifacts.up_to_date(tmp_path / name, {}), name


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_reading_a_truncated_file_is_one_line_that_names_it(tmp_path: Path, share: float) -> None:
    for path, read in (
        (tmp_path / "a.h5", lambda path: artifacts.read_arrays(path, ARRAYS)),
        (tmp_path / "b.h5", artifacts.read_notes),
        (tmp_path / "c.h5", artifacts.content_digest),
        (tmp_path / "d.safetensors", artifacts.read_weights),
    ):
        write_any(path, {})
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} cannot be read")
        assert "\n" not in str(caught.value)


def test_reading_what_is_absent_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(UserError, match=r"a\.h5 is missing"):
        artifacts.read_arrays(path, ["x"])
    artifacts.write_arrays(path, ARRAYS, {})
    with pytest.raises(UserError, match=r"a\.h5 cannot be read .*nothing_such"):
        artifacts.read_arrays(path, ["nothing_such"])
    # the stages make one line of it, with the name that it carries
    with pytest.raises(FileNotFoundError) as caught:
        artifacts.digest_files([tmp_path / "raw"])
    assert str(caught.value.filename) == str(tmp_path / "raw")


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
    digests = [artifacts.digest(part) for part in (array, *others)]
    assert len(set(digests)) == len(digests)
    assert artifacts.digest(array.copy()) == digests[0]
    # memory layout is no content
    assert artifacts.digest(np.arange(12, dtype=np.int32)[::2] // 2) == digests[0]
    assert artifacts.digest(Folds(count=3)) == artifacts.digest(Folds.model_validate({"count": 3}))


def test_digest_of_files_covers_names_contents_and_order(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    digests = [
        artifacts.digest_files([a, b]),
        artifacts.digest_files([b, a]),
        artifacts.digest_files([a]),
    ]
    b.write_bytes(b"3")
    digests.append(artifacts.digest_files([a, b]))
    b.rename(tmp_path / "c")
    digests.append(artifacts.digest_files([a, tmp_path / "c"]))
    assert len(set(digests)) == len(digests)
    (tmp_path / "c").write_bytes(b"2")
    (tmp_path / "c").rename(b)
    assert artifacts.digest_files([a, b]) == digests[0]


def test_digest_of_files_takes_any_name_and_no_pipe(tmp_path: Path) -> None:
    odd, pipe = tmp_path / "\udcff.npy", tmp_path / "pipe"
    odd.write_bytes(b"1")
    assert len(artifacts.digest_files([odd])) == 64
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe is no plain file: put the file itself there"):
        artifacts.digest_files([odd, pipe])


def test_what_a_killed_process_left_is_swept_and_what_a_running_one_writes_is_not(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    path = tmp_path / "a.txt"
    left, running, foreign = (
        tmp_path / f".a.txt.{part}.partial" for part in (gone.pid, os.getppid(), "notes.1")
    )
    for file in (left, running, foreign):
        file.write_text("half")
    artifacts.write_text(path, "whole")
    assert path.read_text() == "whole"
    assert not left.exists() and running.exists() and foreign.exists()


@pytest.mark.parametrize("name", ["a.h5", "a.safetensors", "a.json"])
def test_no_flipped_bit_goes_unnoticed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    write_any(path, {"raw": "1"})
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert not artifacts.up_to_date(path, {"raw": "1"}), place
        assert capsys.readouterr().out.startswith(f"{path} is damaged"), place
    path.write_bytes(whole)
    assert artifacts.up_to_date(path, {"raw": "1"})


def test_a_reader_notices_flipped_bits_in_what_it_reads(tmp_path: Path) -> None:
    """By themselves, without a look at the rest: arrays written whole or by rows, and what an
    artifact says of itself.
    """
    path, rows = tmp_path / "a.h5", np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    with streams.streaming(path, {"raw": "1"}, threshold=0.5) as stream:
        stream.put("name", np.array(["a", "b", "c"], object))
        stream.create("image", rows.shape, np.float32)
        for row, image in enumerate(rows):
            stream.write("image", row, image)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        stored = [file[name].id.get_chunk_info(0) for name in ("name", "image")]
        assert all(file[name].fletcher32 for name in ("name", "image"))
    assert artifacts.read_notes(path) == {"threshold": 0.5}
    for place, read in (
        (stored[0].byte_offset, lambda: artifacts.read_arrays(path, ["name"])),
        (stored[1].byte_offset + 7, lambda: artifacts.read_arrays(path, ["image"])),
        (whole.index(b'{"threshold": 0.5}') + 15, lambda: artifacts.read_notes(path)),
        (whole.index(b'{"threshold": 0.5}') + 15, lambda: artifacts.content_digest(path)),
    ):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.h5 cannot be read"):
            read()


def test_wherever_a_disk_is_full_it_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    """In children that may write so many bytes and no more: HDF5 once crashed when the rest of
    its cache did not fit.
    """
    arrays = {
        "name": np.array(["a", "b"]),
        "image": np.random.default_rng(0).normal(size=(60, 36, 36)).astype(np.float32),
    }
    for limit in (600, 3_000, 10_000, 100_000, 200_000, 300_000):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                artifacts.write_arrays(tmp_path / "a.h5", arrays, {})
            except UserError as error:
                os._exit(2 if "no space left" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2, limit
        assert not list(tmp_path.iterdir()), limit


def test_arrays_that_are_written_in_parts_are_those_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "CHUNK", 1000)
    rng = np.random.default_rng(0)
    arrays = {
        "a/name": np.array(["x", "\u00e9", ""] * 30, object),
        "a/image": rng.random((90, 5, 6)),
        "b/valid": rng.random((90, 7)) < 0.5,
    }
    once = artifacts.write_arrays(tmp_path / "once.h5", arrays, {"from": "x"}, note=[1, 2])
    with streams.filling(tmp_path / "parts.h5", {"from": "x"}) as file:
        file.put("a/name", arrays["a/name"])
        for name in ("a/image", "b/valid"):
            file.create(name, arrays[name].shape, arrays[name].dtype)
            for first in (60, 0, 50, 45):  # in any order, and again
                file.write(name, first, arrays[name][first : first + 45])
            np.testing.assert_array_equal(file.read(name, slice(10, 20)), arrays[name][10:20])
        file.notes["note"] = [1, 2]
    assert artifacts.content_digest(tmp_path / "parts.h5") == once
    assert artifacts.up_to_date(tmp_path / "parts.h5", {"from": "x"}) and artifacts.read_notes(
        tmp_path / "parts.h5"
    ) == {"note": [1, 2]}


@pytest.mark.parametrize("rows", [[3, 4, 5], [89, 0, 7, 6, 0], []])
def test_some_rows_come_in_the_order_asked_for(tmp_path: Path, rows: list[int]) -> None:
    arrays = {
        "image": np.random.default_rng(0).random((90, 5, 6)).astype(np.float16),
        "valid": np.arange(90) % 3 == 0,
    }
    artifacts.write_arrays(tmp_path / "a.h5", arrays, {})
    some = artifacts.read_rows(tmp_path / "a.h5", ["image", "valid"], np.array(rows, int))
    for name, array in some.items():
        np.testing.assert_array_equal(array, arrays[name][rows])
        assert array.dtype == arrays[name].dtype
