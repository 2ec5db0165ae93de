"""HDF5 artifacts: what is written reads back, whole, in parts and by rows."""

import os
import resource
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.artifacts import hdf5, sealed
from src.artifacts.mapped import mapped
from src.terminal.errors import UserError
from tests.tiny import rewrite

ARRAYS = {
    "train/name": np.array(["Bohrung_ä_1", "井戸_2", "", "a" * 300], object),
    "train/image": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    "half": np.array([0.1, 0.5], np.float16),
    "fold": np.array([-1, 3], np.int8),
    "valid": np.array([[True, False]]),
    "empty": np.empty((0, 3), np.uint8),
    "strided": np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
}


def test_arrays_read_back_with_their_types_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "arrays.h5"
    hdf5.write(path, ARRAYS, {"raw": "1"}, center=[0.5], text="ü")
    read = hdf5.read(path, *ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype, name
        np.testing.assert_array_equal(read[name], array)
        assert hdf5.holds(path, name)
        assert hdf5.shape(path, name) == array.shape
    assert all(type(name) is str for name in read["train/name"])
    assert not hdf5.holds(path, "test/name")
    assert hdf5.metadata(path) == {"center": [0.5], "text": "ü"}
    assert sealed.inputs_of(path) == {"raw": "1"}


def test_equal_content_gives_equal_bytes_and_fingerprints(tmp_path: Path) -> None:
    def made(name: str, fold: int = 3, note: int = 1, raw: str = "1") -> str:
        arrays = ARRAYS | {"fold": np.array([-1, fold], np.int8)}
        hdf5.write(tmp_path / name, arrays, {"raw": raw}, note=note)
        return sealed.fingerprint(tmp_path / name)

    assert made("a.h5") == made("b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    others = [made("c.h5", fold=2), made("d.h5", note=2), made("e.h5", raw="2")]
    assert len({made("a.h5"), *others}) == 4


def fill(path: Path, compressed: bool) -> dict[str, np.ndarray]:
    """An artifact written by rows, in any order and some again; and what it should hold."""
    rng = np.random.default_rng(0)
    arrays = {
        "a/name": np.array(["x", "\u00e9", ""] * 30, object),
        "a/image": rng.random((90, 5, 6)),
        "b/valid": rng.random((90, 7)) < 0.5,
    }
    with hdf5.writing(path, {"from": "x"}) as file:
        file.put("a/name", arrays["a/name"])
        for name in ("a/image", "b/valid"):
            file.create(name, arrays[name].shape, arrays[name].dtype, compressed)
            assert file.shape(name) == arrays[name].shape
            for first in (60, 0, 50, 45):
                file.write(name, first, arrays[name][first : first + 45])
            np.testing.assert_array_equal(file.read(name, slice(10, 20)), arrays[name][10:20])
            rows = np.array([3, 70])
            np.testing.assert_array_equal(file.read(name, rows), arrays[name][rows])
        file.metadata["note"] = [1, 2]
    return arrays


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_that_are_written_in_parts_are_those_written_at_once(
    tmp_path: Path, compressed: bool
) -> None:
    path = tmp_path / "parts.h5"
    arrays = fill(path, compressed)
    for name, array in hdf5.read(path, *arrays).items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    assert sealed.up_to_date(path, {"from": "x"}) and hdf5.metadata(path) == {"note": [1, 2]}
    with h5py.File(path) as file:
        assert file["a/image"].compression == ("lzf" if compressed else None)
        assert file["a/image"].chunks == ((1, 5, 6) if compressed else None)
    if not compressed:
        hdf5.write(tmp_path / "once.h5", arrays, {"from": "x"}, note=[1, 2])
        assert (tmp_path / "once.h5").read_bytes() == path.read_bytes()


def test_an_array_without_rows_can_be_compressed_too(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with hdf5.writing(path, {}) as file:
        file.create("mask", (0, 2, 3), np.uint8, compressed=True)
    assert hdf5.read(path, "mask")["mask"].shape == (0, 2, 3)


@pytest.mark.parametrize("compressed", [False, True])
def test_smaller_images_lie_in_the_upper_left_corner_and_zeros_beyond(
    tmp_path: Path, compressed: bool
) -> None:
    path, rng = tmp_path / "a.h5", np.random.default_rng(0)
    sizes = [(2, 5), (4, 3), (1, 1), (4, 5)]
    images = [rng.random((2, *size)).astype(np.float16) + 1 for size in sizes]
    with hdf5.writing(path, {}) as file:
        file.create("probability", (4, 2, 4, 5), np.float16, compressed)
        for row in (2, 0, 3, 1):
            file.write("probability", row, images[row][None])
    found = hdf5.read(path, "probability")["probability"]
    for row, (height, width) in enumerate(sizes):
        for plane, line, column in np.ndindex(2, 4, 5):
            inside = line < height and column < width
            expected = images[row][plane, line, column] if inside else 0
            assert found[row, plane, line, column] == expected


def test_a_copy_holds_the_same_arrays_as_they_were_stored(tmp_path: Path) -> None:
    source, copy = tmp_path / "source.h5", tmp_path / "copy.h5"
    arrays = fill(source, compressed=True)
    with hdf5.writing(copy, {"from": "y"}) as file:
        file.copy(source, "a/name", "a/image")
        file.create("a/mask", (90, 2), np.uint8)
    read = hdf5.read(copy, "a/name", "a/image", "a/mask")
    np.testing.assert_array_equal(read["a/name"], arrays["a/name"])
    np.testing.assert_array_equal(read["a/image"], arrays["a/image"])
    assert not read["a/mask"].any() and not hdf5.holds(copy, "b/valid")
    with h5py.File(source) as old, h5py.File(copy) as new:
        assert new["a/image"].compression == "lzf"
        stored = [file["a/image"].id.read_direct_chunk((7, 0, 0))[1] for file in (old, new)]
        assert stored[0] == stored[1]
    assert sealed.inputs_of(copy) == {"from": "y"}
    damaged = bytearray(source.read_bytes())
    damaged[-1] ^= 1
    rewrite(source, damaged)
    with (
        pytest.raises(UserError, match=r"source\.h5 is damaged"),
        hdf5.writing(copy, {}) as file,
    ):
        file.copy(source, "a/name")


@pytest.mark.parametrize("rows", [[3, 4, 5], [89, 0, 7, 6, 0], []])
def test_some_rows_come_in_the_order_asked_for(tmp_path: Path, rows: list[int]) -> None:
    arrays = {
        "image": np.random.default_rng(0).random((90, 5, 6)).astype(np.float16),
        "valid": np.arange(90) % 3 == 0,
    }
    hdf5.write(tmp_path / "a.h5", arrays, {})
    some = hdf5.read_rows(tmp_path / "a.h5", ["image", "valid"], np.array(rows, int))
    for name, array in some.items():
        np.testing.assert_array_equal(array, arrays[name][rows])
        assert array.dtype == arrays[name].dtype


READERS = {
    "rows": lambda path: hdf5.read_rows(path, ["fold"], np.array([0])),
    "read": lambda path: hdf5.read(path, "fold"),
    "mapped": lambda path: mapped(path, "fold"),
    "shape": lambda path: hdf5.shape(path, "fold"),
    "holds": lambda path: hdf5.holds(path, "fold"),
    "metadata": hdf5.metadata,
}


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("reader", READERS)
def test_reading_a_truncated_file_is_one_line_that_names_it(
    tmp_path: Path, reader: str, share: float
) -> None:
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, {})
    whole = path.read_bytes()
    rewrite(path, whole[: int(share * len(whole))])
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    assert str(caught.value).startswith(f"{path} is damaged")
    assert "\n" not in str(caught.value)


def test_reading_what_is_absent_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(UserError, match=r"a\.h5 is missing"):
        hdf5.read(path, "x")
    hdf5.write(path, ARRAYS, {})
    with pytest.raises(UserError, match=r"a\.h5 cannot be read .*nothing_such"):
        hdf5.read(path, "nothing_such")


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_notices_a_flipped_bit_wherever_it_is(tmp_path: Path, reader: str) -> None:
    """Also in arrays that it does not look at: what is damaged is not to be believed."""
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, {"raw": "1"}, threshold=0.5)
    whole = path.read_bytes()
    READERS[reader](path)
    for place in (whole.index(b"threshold"), whole.index(b'"raw"'), len(whole) - 1, 5000):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        rewrite(path, damaged)
        with pytest.raises(UserError, match=r"a\.h5 is damaged"):
            READERS[reader](path)


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
                hdf5.write(tmp_path / "a.h5", arrays, {})
            except UserError as error:
                os._exit(2 if "no space left" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2, limit
        assert not list(tmp_path.iterdir()), limit


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_a_row_packed_elsewhere_is_stored_as_one_that_is_written_here(
    tmp_path: Path, dtype: type
) -> None:
    rng, rows = np.random.default_rng(0), []
    for size in ((40, 50), (7, 50), (40, 1)):
        rows.append((255 * rng.random((1, 2, *size))).astype(dtype))  # no filter helps, or it does
        rows.append(np.ones((1, 2, *size), dtype))
    files = {how: tmp_path / f"{how}.h5" for how in ("packed", "written", "copied")}
    for how in ("packed", "written"):
        with hdf5.writing(files[how], {}) as file:
            file.create("mask", (6, 2, 40, 50), dtype, compressed=True)
            for place, row in enumerate(rows):
                file.write("mask", place, hdf5.pack(row, (2, 40, 50)) if how == "packed" else row)
    with hdf5.writing(files["copied"], {}) as file, h5py.File(files["packed"]) as source:
        file.create("mask", (6, 2, 40, 50), dtype, compressed=True)
        for place in range(6):
            file.write("mask", place, hdf5.Packed.of(source["mask"], place))
    stored = [hdf5.read(path, "mask")["mask"] for path in files.values()]
    assert stored[1].any()
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_array_equal(stored[2], stored[1])
