"""What goes wrong around the stages: damaged files, full and read-only disks, two runs at once."""

import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import workplace
from tests.moments import LIMIT, ending, wait_for
from tests.workplace import STAGES, Workplace

RECIPE = workplace.RECIPE.replace("epochs = 30", "epochs = 2").replace("count = 3", "count = 2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("finished"), RECIPE)
    for stage in STAGES:
        place.run(stage)
    return place


def contents(place: Workplace) -> dict[str, bytes]:
    """Every file but locks, without times."""
    return {
        name: workplace.without_times(name, content)
        for name, content in place.files("**/*").items()
        if not name.endswith(".lock")
    }


def flip(path: Path, draw: random.Random) -> None:
    """Change one bit anywhere in a file."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damaged",
    [
        [
            "data/raw/demo/X_train_*.zip",
            "data/runs/tiny/net/fold1_seed0/weights.safetensors",
            "submissions/tiny.png",
        ],
        [
            "data/truth/demo.csv.gz",
            "data/runs/tiny/net/fold0_seed0/oof.h5",
            "data/ensembles/tiny.h5",
            "submissions/tiny_official.csv",
        ],
        [
            "data/prepared/demo/train.h5",
            "data/runs/tiny/net/fold1_seed0/test.h5",
            "submissions/tiny.json",
        ],
        ["data/raw/demo/generated.json", "submissions/tiny.csv"],
        ["data/prepared/demo/test.h5", "data/ensembles/tiny_selection.h5"],
        ["submissions/tiny.html"],
    ],
)
def test_flipped_bits_are_named_and_healed_by_running_all_stages(finished, tmp_path, damaged):
    expected, draw = contents(finished), random.Random(len(damaged))
    shutil.copytree(finished.folder, tmp_path / "copy")
    place = Workplace(tmp_path / "copy", RECIPE)
    for name in damaged:
        flip(next(place.folder.glob(name)), draw)
    told = "".join(place.run(stage) for stage in STAGES)
    for name in damaged:
        where = place.folder / name
        # generated files are named by their folder
        where = where.parent if where.suffix == ".zip" else where
        named = [
            line
            for line in told.splitlines()
            if "checksum does not fit" in line and str(where) in line
        ]
        assert len(named) == 1, (name, told)
    assert contents(place) == expected


def test_a_damaged_file_stops_a_stage_that_only_reads_it(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    place = Workplace(tmp_path / "copy", RECIPE)
    weights, prepared = (
        place.folder / "data/runs/tiny/net/fold0_seed0/weights.safetensors",
        place.folder / "data/prepared/demo/train.h5",
    )
    for path, place_in_file, stage in (
        (weights, -100, "02_predict.py"),
        (prepared, len(prepared.read_bytes()) // 2, "01_train_folds.py"),
    ):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[place_in_file] ^= 16
        path.write_bytes(damaged)
        message = place.refused(stage, "--force")
        assert str(path) in message and "run" in message, message
        path.write_bytes(whole)


@contextmanager
def permissions_withdrawn(folder: Path) -> Iterator[None]:
    """The folder cannot be written to; root, whom permissions do not bind, becomes nobody for
    that time.
    """
    root = os.geteuid() == 0
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        if not os.access(__file__, os.R_OK, effective_ids=True):
            pytest.skip("user nobody may not read this repository")
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in folders:
            path.chmod(0o755)


@contextmanager
def files_kept_short(folder: Path) -> Iterator[None]:
    """No file may grow beyond some bytes, which is how a quota looks to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def disk_filled(folder: Path) -> Iterator[None]:
    """The small disk on which the folder lies holds not a byte more."""
    with open(folder / "filler", "wb", buffering=0) as filler:
        for size in (1 << 16, 1):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        (folder / "filler").unlink()


@contextmanager
def mounted_read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


@pytest.fixture
def folder(monkeypatch) -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not; temporary files go to one beside
    it where everybody may write.
    """
    with tempfile.TemporaryDirectory() as both:
        folder, temporary = Path(both, "place"), Path(both, "temporary")
        for path, mode in ((Path(both), 0o755), (folder, 0o755), (temporary, 0o1777)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        yield folder


@pytest.fixture
def small_disk(folder) -> Iterator[Path]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def every_stage_refuses_and_goes_on(
    place: Workplace, trouble, words: list[str], expected: dict[str, bytes]
) -> None:
    for stage in STAGES:
        before = contents(place)
        with trouble(place.folder):
            message = place.refused(stage)
        assert message.startswith("error: ") and any(word in message for word in words), message
        assert str(place.folder) in message, message
        assert {
            name: content for name, content in contents(place).items() if name in before
        } == before
        assert not list(place.folder.rglob("*.partial"))
        place.run(stage)
    assert contents(place) == expected


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (permissions_withdrawn, ["Permission denied"]),
        (files_kept_short, ["no space left", "File too large"]),
    ],
)
def test_a_folder_that_cannot_be_written_to_stops_each_stage_in_one_line(
    finished, folder, trouble, words
):
    every_stage_refuses_and_goes_on(Workplace(folder, RECIPE), trouble, words, contents(finished))


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(disk_filled, ["no space left", "No space left"]), (mounted_read_only, ["Read-only"])],
)
def test_a_full_or_read_only_disk_stops_each_stage_in_one_line(
    finished, small_disk, trouble, words
):
    every_stage_refuses_and_goes_on(
        Workplace(small_disk, RECIPE), trouble, words, contents(finished)
    )


def test_a_second_run_of_a_recipe_waits_and_another_recipe_does_not(finished, tmp_path, moment):
    place, said = Workplace(tmp_path, RECIPE), tmp_path / "second.txt"
    with ending(place.start_all(tmp_path / "first.txt", moment.environment)) as first:
        wait_for(moment.stopped, first)  # in the midst of training
        with ending(place.start_all(said)) as second:
            wait_for(lambda: "waiting" in said.read_text(), first, second)
            (line,) = [line for line in said.read_text().splitlines() if "waiting" in line]
            assert f"process {first.pid} (01_train_folds.py " in line and "data/runs/tiny" in line
            assert "up to date" in place.run("00_prepare_data.py", "--set", "name=other")
            place.run("01_train_folds.py", "--set", "name=other")
            assert not list(tmp_path.glob("data/runs/tiny/net/*/weights.safetensors"))
            moment.let_go()
            assert first.wait(LIMIT) == 0 and second.wait(LIMIT) == 0
    found = {
        name: content
        for name, content in contents(place).items()
        if not name.endswith(".txt") and "/other/" not in name
    }
    assert found == contents(finished)
