"""Arrays that stay on disk, against the same arrays in memory."""

import re
from pathlib import Path

import numpy as np
import pytest

from src.artifacts import hdf5
from src.artifacts import mapped as module
from src.artifacts.mapped import laid, mapped
from src.terminal.errors import UserError
from tests.tiny import rewrite

ARRAYS = {
    "image": np.random.default_rng(0).random((90, 5, 6)).astype(np.float32),
    "half": np.random.default_rng(1).random((90, 1, 6)).astype(np.float16),
    "valid": np.random.default_rng(2).random((90, 5, 6)) < 0.5,
    "mask": np.arange(90 * 30).reshape(90, 5, 6).astype(np.uint8),
}


@pytest.mark.parametrize(
    "at",
    [
        np.array([3, 4, 5]),
        np.array([89, 0, 7, 6, 0]),
        np.array([], int),
        np.arange(90) % 3 == 0,
        (np.array([[1, 2], [80, 0]]), np.array([[0, 0], [0, 0]])),
    ],
)
def test_parts_are_those_of_the_array_in_memory(tmp_path: Path, at: np.ndarray) -> None:
    hdf5.write(tmp_path / "a.h5", ARRAYS, {"made": "from"})
    for name, array in mapped(tmp_path / "a.h5", *ARRAYS).items():
        np.testing.assert_array_equal(array[at], ARRAYS[name][at])
        assert array[at].dtype == array.dtype == ARRAYS[name].dtype
        assert array.shape == ARRAYS[name].shape and len(array) == 90


def test_what_was_read_does_not_stay_in_the_memory_of_the_process(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "a.h5", {"image": np.ones((64, 1 << 20), np.uint8)}, {})
    image, before = mapped(tmp_path / "a.h5", "image")["image"], resident()
    for row in range(64):
        assert image[np.array([row])].all()
    assert resident() - before < 8


def resident() -> float:
    """MiB of files that count as this process's memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"RssFile:\s+(\d+) kB", status)[1]) / 1024


def test_another_file_in_its_place_changes_nothing_for_who_has_it_open(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.h5", np.array([5, 2])
    hdf5.write(path, ARRAYS, {})
    old = mapped(path, "mask")["mask"]
    hdf5.write(path, {"more": np.zeros(1000), "mask": ARRAYS["mask"] + 1}, {})
    np.testing.assert_array_equal(old[rows], ARRAYS["mask"][rows])
    np.testing.assert_array_equal(mapped(path, "mask")["mask"][rows], ARRAYS["mask"][rows] + 1)
    path.unlink()
    np.testing.assert_array_equal(old[rows], ARRAYS["mask"][rows])


def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    hdf5.write(path, ARRAYS, {})
    mask, whole = mapped(path, "mask")["mask"], path.read_bytes()
    with open(path, "rb+") as file:
        file.truncate(len(whole) // 2)
    with pytest.raises(UserError, match=r"a\.h5 cannot be read .*: run the stage that makes it"):
        mask[np.array([89])]
    rewrite(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"a\.h5 is damaged"):
        mapped(path, "mask")
    with pytest.raises(UserError, match=r"b\.h5 is missing"):
        mapped(tmp_path / "b.h5", "mask")


def test_an_array_that_is_packed_is_refused(tmp_path: Path) -> None:
    with hdf5.writing(tmp_path / "a.h5", {}) as file:
        file.create("mask", (3, 4, 4), np.uint8, compressed=True)
        file.write("mask", 0, np.ones((3, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"a\.h5 cannot be read \(/mask is packed"):
        mapped(tmp_path / "a.h5", "mask")


def test_an_array_is_laid_in_a_file_that_nobody_sees(tmp_path: Path) -> None:
    parts = [np.random.default_rng(n).random((n, 7)) for n in (3, 1, 0, 4)]
    array = laid(iter(parts), (8, 7), tmp_path / "new")
    rows = np.array([[7, 0], [3, 3]])
    np.testing.assert_array_equal(array[rows], np.concatenate(parts).astype(np.float32)[rows])
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb+", buffering=0) as full:
        monkeypatch.setattr(module, "TemporaryFile", lambda dir: full)
        with pytest.raises(UserError, match="no space left on the device"):
            laid([np.zeros((4, 7))], (4, 7), tmp_path)
