"""The files of the CorroSeg challenge: every form they come in, and what is wrong with bad ones."""

import gzip
import io
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Challenge, Patches

from src.competitions import PatchSplit, Raw, corroseg
from src.competitions.formats import patches as patch_files
from src.competitions.formats.masks import PackedMasks, pack
from src.recipe import Data, Postprocess
from src.terminal.errors import UserError
from src.wells import cleaning, geometry, preparation
from src.wells.postprocess import selection
from src.wells.postprocess.refinement import Refinement
from tests.moments import LIMIT

REPOSITORY = Path(__file__).parents[1]
HEADER = "," + ",".join(map(str, range(1296)))


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def write_zip(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def change_zip(path: Path, changed: dict[str, bytes]) -> None:
    """Add entries to a zip, or replace them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    write_zip(path, entries | changed)


def unzip(folder: Path) -> Path:
    """Turn X_train.zip into a folder; returns where its patches are."""
    with zipfile.ZipFile(folder / "X_train.zip") as archive:
        archive.extractall(folder / "X_train_x1")
    (folder / "X_train.zip").unlink()
    return folder / "X_train_x1" / "images"


def csv_of(patches: Patches, header: str = HEADER) -> str:
    return (
        "\n".join(
            [
                header,
                *(
                    name + "," + ",".join(map(str, patch.ravel().tolist()))
                    for name, patch in patches.items()
                ),
            ]
        )
        + "\n"
    )


def assert_read_as(raw: Raw, challenge: Challenge) -> None:
    for split, images in ((raw.train, challenge.train), (raw.test, challenge.test)):
        assert split.name.tolist() == list(images)
        assert [
            f"well_{well}_patch_{k}" for well, k in zip(split.group, split.number, strict=True)
        ] == list(images)
        image = images_of(split)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, np.stack(list(images.values())))
        np.testing.assert_array_equal(split.read(np.array([2, 0])), image[[2, 0]])
    np.testing.assert_array_equal(
        raw.train.mask[:], np.stack([challenge.masks[name] for name in challenge.train])
    )
    assert raw.test.mask is None


def codes_of(masks: np.ndarray) -> list[list[str]]:
    """The run-length code of each mask, row by row, a run a pixel."""
    return [[" ".join(f"{pixel + 1} 1" for pixel in np.flatnonzero(mask))] for mask in masks]


def images_of(split: PatchSplit) -> np.ndarray:
    return split.read(np.arange(len(split.name)))


def read_whole(folder: Path) -> None:
    """Read all that there is, as stage 00 does."""
    raw = corroseg.read(folder, Data())
    images_of(raw.train), images_of(raw.test)


# What is good


def as_zip(folder: Path, challenge: Challenge) -> None:
    pass


def as_folder(folder: Path, challenge: Challenge) -> None:
    unzip(folder)


def as_csv(folder: Path, challenge: Challenge) -> None:
    (folder / "X_train.zip").unlink()
    (folder / "X_train_k3.csv").write_text(csv_of(challenge.train))


def as_packed_csv(folder: Path, challenge: Challenge) -> None:
    (folder / "X_test.zip").unlink()
    (folder / "X_test.csv.gz").write_bytes(gzip.compress(csv_of(challenge.test).encode()))
    (folder / "y_train_9Hz.csv.gz").write_bytes(
        gzip.compress((folder / "y_train.csv").read_bytes())
    )
    (folder / "y_train.csv").unlink()


def with_zipped_masks(folder: Path, challenge: Challenge) -> None:
    write_zip(
        folder / "y_train.csv.zip",
        {"y_train.csv": (folder / "y_train.csv").read_bytes(), "__MACOSX/._y_train.csv": b"\x00"},
    )
    (folder / "y_train.csv").unlink()


def with_system_junk(folder: Path, challenge: Challenge) -> None:
    name = next(iter(challenge.train))
    junk = {
        f"__MACOSX/images/{name}.npy": b"\x00\x05",
        f"images/._{name}.npy": b"\x00",
        "images/.DS_Store": b"",
        "images/notes.txt": b"x",
    }
    change_zip(folder / "X_train.zip", junk)
    (folder / ".DS_Store").write_bytes(b"")


def with_windows_line_ends(folder: Path, challenge: Challenge) -> None:
    (folder / "y_train.csv").write_bytes(
        (folder / "y_train.csv").read_bytes().replace(b"\n", b"\r\n")
    )


def with_masks_as_floats(folder: Path, challenge: Challenge) -> None:
    (folder / "y_train.csv").write_text(
        csv_of({name: mask.astype(float) for name, mask in challenge.masks.items()}, "ID" + HEADER)
    )


def with_masks_shuffled(folder: Path, challenge: Challenge) -> None:
    names = np.random.default_rng(1).permutation(list(challenge.masks)).tolist()
    (folder / "y_train.csv").write_text(csv_of({name: challenge.masks[name] for name in names}))


def with_images_shuffled(folder: Path, challenge: Challenge) -> None:
    names = np.random.default_rng(2).permutation(list(challenge.train)).tolist()
    write_zip(folder / "X_train.zip", {f"{name}.npy": npy(challenge.train[name]) for name in names})


@pytest.mark.parametrize(
    "form",
    [
        as_zip,
        as_folder,
        as_csv,
        as_packed_csv,
        with_zipped_masks,
        with_system_junk,
        with_windows_line_ends,
        with_masks_as_floats,
        with_masks_shuffled,
        with_images_shuffled,
    ],
)
def test_every_form_of_the_files_gives_the_same_arrays_in_natural_order(
    tmp_path: Path, challenge: Challenge, form: Callable[[Path, Challenge], None]
) -> None:
    challenge.train["well_2_patch_3"][4, 5] = -999.25
    challenge.train["well_2_patch_10"][0, :3] = np.nan
    form(challenge.write(tmp_path), challenge)
    raw = corroseg.read(tmp_path, Data())
    assert_read_as(raw, challenge)
    assert raw.notes == []


@pytest.mark.filterwarnings("error")
def test_values_beyond_float32_are_infinite_and_empty_cells_nan_without_a_word(
    tmp_path: Path, challenge: Challenge
) -> None:
    patches = {name: patch.astype(float) for name, patch in challenge.test.items()}
    patches["well_3_patch_0"][:2, 0] = 1e300, np.nan
    patches["well_3_patch_1"][5] = -1e39
    (challenge.write(tmp_path) / "X_test.zip").unlink()
    (tmp_path / "X_test.csv").write_text(csv_of(patches).replace("nan", ""))
    with np.errstate(over="ignore"):
        challenge.test = {name: patch.astype(np.float32) for name, patch in patches.items()}
    raw = corroseg.read(tmp_path, Data())
    assert_read_as(raw, challenge)
    image = images_of(raw.test)
    valid = cleaning.find_valid(image)
    assert (~valid).sum() == 2 + 36
    geometry.locate(image, valid, raw.test.group, raw.test.number)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "int8", "int64", "uint16"])
def test_patches_of_any_number_type_become_float32(
    tmp_path: Path, challenge: Challenge, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    typed = {name: (100 * rng.random((36, 36))).astype(dtype) for name in challenge.test}
    challenge.test = {name: patch.astype(np.float32) for name, patch in typed.items()}
    write_zip(
        challenge.write(tmp_path) / "X_test.zip",
        {f"{name}.npy": npy(patch) for name, patch in typed.items()},
    )
    assert_read_as(corroseg.read(tmp_path, Data()), challenge)


def test_patches_in_fortran_order_are_not_transposed(tmp_path: Path, challenge: Challenge) -> None:
    entries = {
        f"{name}.npy": npy(np.asfortranarray(patch)) for name, patch in challenge.test.items()
    }
    assert b"'fortran_order': True" in entries["well_3_patch_0.npy"]
    write_zip(challenge.write(tmp_path) / "X_test.zip", entries)
    assert_read_as(corroseg.read(tmp_path, Data()), challenge)


def test_the_original_release_of_the_masks_reads_as_the_corrected_one_and_says_so(
    tmp_path: Path, challenge: Challenge
) -> None:
    corrected = dict(challenge.masks)
    other = np.ones((36, 36), np.uint8)
    challenge.masks = {f"well_0_patch_{k}": other for k in range(166)} | {
        f"well_1_patch_{k}": other for k in range(450)
    }
    challenge.masks |= {
        name.replace("well_1_patch_", "well_1_patch_45"): mask for name, mask in corrected.items()
    }
    assert "well_1_patch_452" in challenge.masks
    challenge.write(tmp_path)
    challenge.masks = corrected
    raw = corroseg.read(tmp_path, Data())
    assert_read_as(raw, challenge)
    assert raw.notes == [
        "original release of the masks: 616 masks of wells 0 and 1 dropped, 3 of well 1 renamed"
    ]


def test_masks_without_an_image_are_dropped_and_counted(
    tmp_path: Path, challenge: Challenge
) -> None:
    spare = {f"well_2_patch_{k}": np.ones((36, 36), np.uint8) for k in (11, 12)}
    challenge.masks = spare | challenge.masks
    challenge.write(tmp_path)
    raw = corroseg.read(tmp_path, Data())
    assert_read_as(raw, challenge)
    assert raw.notes == ["y_train.csv: 2 masks without an image dropped"]


def test_every_file_that_is_read_is_listed(tmp_path: Path, challenge: Challenge) -> None:
    challenge.write(tmp_path)
    test = [tmp_path / "X_test.zip"]
    assert corroseg.files(tmp_path, Data()) == {
        "train": [tmp_path / "X_train.zip", tmp_path / "y_train.csv"],
        "test": test,
    }
    images = unzip(tmp_path)
    listed = corroseg.files(tmp_path, Data())
    assert listed["test"] == test
    assert set(listed["train"]) == {
        tmp_path / "y_train.csv",
        *(images / f"{name}.npy" for name in challenge.train),
    }


def test_masks_are_written_in_the_official_layout(tmp_path: Path, challenge: Challenge) -> None:
    names, masks = list(challenge.masks), np.stack(list(challenge.masks.values()))
    corroseg.write_submission(tmp_path / "y.csv", tmp_path, names, codes_of(masks))
    assert (tmp_path / "y.csv").read_text() == csv_of(challenge.masks)
    read_names, read_masks = corroseg.read_masks(tmp_path / "y.csv")
    assert read_names.tolist() == names
    np.testing.assert_array_equal(read_masks[:], masks)


@pytest.mark.parametrize(
    ("old", "new"), [(b",1", b",0"), (b"well_2_patch_3,", b"well_2_patch_33,")]
)
def test_a_submission_that_does_not_read_back_is_an_error(
    tmp_path: Path, challenge: Challenge, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes
) -> None:
    lines = corroseg.masks_as_csv

    def harmed(*of: object) -> list[bytes]:
        header, *rows = b"".join(lines(*of)).split(b"\n")
        return [b"\n".join([header, b"\n".join(rows).replace(old, new, 1)])]

    monkeypatch.setattr(corroseg, "masks_as_csv", harmed)
    masks = np.stack(list(challenge.masks.values()))
    with pytest.raises(UserError, match="does not read back as predicted"):
        corroseg.write_submission(
            tmp_path / "y.csv", tmp_path, list(challenge.masks), codes_of(masks)
        )


# What is bad: each breaks a good folder, and names the file to blame and what the user is told

ENTRY = "images/well_2_patch_3.npy"
PATCH = np.zeros((36, 36), np.float32)
Break = Callable[[Path], None]


def entry(content: bytes, name: str = ENTRY) -> Break:
    return lambda folder: change_zip(folder / "X_train.zip", {name: content})


def file_in_folder(content: bytes) -> Break:
    return lambda folder: (unzip(folder) / "well_2_patch_3.npy").write_bytes(content)


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def copy(name: str, other: str) -> Break:
    return lambda folder: shutil.copy(folder / name, folder / other)


def write(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, share: float) -> Break:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: int(share * (folder / name).stat().st_size)]
    )


def line(number: int, old: str, new: str) -> Break:
    """Replace a text once in one line of the masks."""

    def break_it(folder: Path) -> None:
        lines = (folder / "y_train.csv").read_text().split("\n")
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new, 1)
        (folder / "y_train.csv").write_text("\n".join(lines))

    return break_it


def image_csv(old: str, new: str) -> Break:
    """A CSV of two training images with a text replaced once."""

    def break_it(folder: Path) -> None:
        (folder / "X_train.zip").unlink()
        content = csv_of({"well_1_patch_0": PATCH + 1, "well_1_patch_1": PATCH + 2})
        assert old in content
        (folder / "X_train.csv").write_text(content.replace(old, new, 1))

    return break_it


def damage_stored_entry(folder: Path) -> None:
    content = bytearray((folder / "X_train.zip").read_bytes())
    content[1000] ^= 1
    (folder / "X_train.zip").write_bytes(content)


def second_spelling(folder: Path) -> None:
    change_zip(folder / "X_test.zip", {"images/well_3_patch_02.npy": WHOLE})


def gzip_cut(folder: Path) -> None:
    packed = gzip.compress((folder / "y_train.csv").read_bytes())
    (folder / "y_train.csv").unlink()
    (folder / "y_train.csv.gz").write_bytes(packed[:-40])


def two_csv_in_a_zip(folder: Path) -> None:
    write_zip(folder / "y_train.zip", {"a.csv": b"", "b.csv": b""})
    (folder / "y_train.csv").unlink()


def half_of_the_original_release(folder: Path) -> None:
    rows = (folder / "y_train.csv").read_text()
    (folder / "y_train.csv").write_text(rows + "well_0_patch_0" + ",0" * 1296 + "\n")


def bzip2_bomb(folder: Path) -> None:
    """64 MiB in 100 bytes: zipfile would unpack it at once, whatever it is asked for."""
    with zipfile.ZipFile(folder / "X_train.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr(ENTRY, bytes(64 << 20))
    assert (folder / "X_train.zip").stat().st_size < 1000


def endless(filler: bytes) -> Break:
    """Masks that unpack to a GiB of this after a good first line."""

    def break_it(folder: Path) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        parts = [
            packer.compress(HEADER.encode() + b"\n"),
            *(packer.compress(filler * (1 << 20)) for _ in range(8)),
            packer.flush(),
        ]
        (folder / "y_train.csv").unlink()
        (folder / "y_train.csv.gz").write_bytes(b"".join(parts))

    return break_it


def patch_far_away(folder: Path) -> None:
    change_zip(folder / "X_test.zip", {"images/well_3_patch_2005.npy": WHOLE})


def header_of(description: str) -> bytes:
    """A .npy file whose header says something else than its 5,184 bytes of data."""
    text = description.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(4 * 1296)


AGAIN = "download it again"
NO_PATCH = "it is no patch of the challenge"
WHOLE = npy(PATCH)

BAD = {
    "no folder": (shutil.rmtree, "is missing", "put the challenge's files there"),
    "no training images": (remove("X_train.zip"), "X_train", "put the challenge's file there"),
    "no test images": (remove("X_test.zip"), "X_test", "put the challenge's file there"),
    "no masks": (remove("y_train.csv"), "y_train", "put the challenge's file there"),
    "two files of training images": (
        copy("X_train.zip", "X_train_2.zip"),
        "X_train.zip and X_train_2.zip",
        "keep the one that counts",
    ),
    "two files of masks": (
        copy("y_train.csv", "y_train.csv.gz"),
        "y_train.csv and y_train.csv.gz",
        "keep the one that counts",
    ),
    "zip and folder": (
        lambda folder: (folder / "X_test").mkdir(),
        "X_test and X_test.zip",
        "keep the one that counts",
    ),
    "zip cut in half": (cut("X_train.zip", 0.5), "X_train.zip", AGAIN),
    "zip without its end": (cut("X_test.zip", 0.999), "X_test.zip", AGAIN),
    "zip of nothing": (write("X_train.zip", b""), "X_train.zip", AGAIN),
    "web page instead of a zip": (write("X_train.zip", b"<html>" * 99), "X_train.zip", AGAIN),
    "bit flipped in a zip": (damage_stored_entry, "X_train.zip", AGAIN),
    "zip without entries": (
        lambda folder: write_zip(folder / "X_train.zip", {}),
        "X_train.zip",
        "holds no patches",
    ),
    "zip of texts": (
        lambda folder: write_zip(folder / "X_train.zip", {"a.txt": b""}),
        "X_train.zip",
        "holds no patches",
    ),
    "empty folder": (lambda folder: shutil.rmtree(unzip(folder)), "X_train_x1", "holds no patches"),
    "entry climbs out": (
        entry(WHOLE, "images/../../well_2_patch_3.npy"),
        "X_train.zip",
        "climbs out of the zip",
    ),
    "entry climbs out, backwards": (
        entry(WHOLE, "..\\well_2_patch_3.npy"),
        "X_train.zip",
        "climbs out of the zip",
    ),
    "entry with an absolute name": (
        entry(WHOLE, "/tmp/well_2_patch_3.npy"),
        "X_train.zip",
        "climbs out of the zip",
    ),
    "huge entry": (entry(WHOLE + bytes(100_000)), ENTRY, "too large"),
    "patch twice in a zip": (
        entry(WHOLE, "more/well_2_patch_3.npy"),
        "X_train.zip: well_2_patch_3",
        "twice",
    ),
    "patch under two spellings": (second_spelling, "X_test.zip", ""),
    "name of no patch": (
        entry(WHOLE, "images/well_2.npy"),
        "X_train.zip: 'well_2'",
        "not named well_<n>_patch_<k>",
    ),
    "name with more behind it": (
        entry(WHOLE, "images/well_2_patch_3_copy.npy"),
        "X_train.zip",
        "not named well_<n>_patch_<k>",
    ),
    "empty patch in a zip": (entry(b""), ENTRY, AGAIN),
    "patch in a zip cut in its magic": (entry(WHOLE[:4]), ENTRY, AGAIN),
    "patch in a zip cut in its header": (entry(WHOLE[:60]), ENTRY, AGAIN),
    "patch in a zip cut in its data": (entry(WHOLE[:-1]), ENTRY, AGAIN),
    "patch in a folder cut in its data": (
        file_in_folder(WHOLE[:1000]),
        "well_2_patch_3.npy",
        AGAIN,
    ),
    "patch in a folder emptied": (file_in_folder(b""), "well_2_patch_3.npy", AGAIN),
    "patch in a folder too long": (
        file_in_folder(WHOLE + bytes(100_000)),
        "well_2_patch_3.npy",
        AGAIN,
    ),
    "patch with bytes to spare": (entry(WHOLE + b"\x00"), ENTRY, AGAIN),
    "header without its end": (
        entry(header_of("{'descr': '<f4', 'fortran_order': False, 'shape': (36, 36), ")),
        ENTRY,
        AGAIN,
    ),
    "header of nonsense": (entry(header_of("[")), ENTRY, AGAIN),
    "header with a later version": (entry(WHOLE.replace(b"NUMPY\x01", b"NUMPY\x02")), ENTRY, AGAIN),
    "header that promises more": (
        entry(header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (36, 36), }")),
        ENTRY,
        AGAIN,
    ),
    "narrow patch": (entry(npy(PATCH[:, :35])), ENTRY, NO_PATCH),
    "flat patch": (entry(npy(PATCH.ravel())), ENTRY, NO_PATCH),
    "patch with a channel": (entry(npy(PATCH[..., None])), ENTRY, NO_PATCH),
    "patch of no pixels": (entry(npy(PATCH[:0])), ENTRY, NO_PATCH),
    "patch of text": (entry(npy(np.full((36, 36), "1"))), ENTRY, NO_PATCH),
    "patch of truth values": (entry(npy(PATCH > 0)), ENTRY, NO_PATCH),
    "patch of complex numbers": (entry(npy(PATCH.astype(complex))), ENTRY, NO_PATCH),
    "patch of dates": (entry(npy(PATCH.astype("datetime64[s]"))), ENTRY, NO_PATCH),
    "mask value 2": (line(3, ",1,", ",2,"), "y_train.csv: well_1_patch_2", "only 0 or 1"),
    "mask value -1": (line(1, ",1,", ",-1,"), "y_train.csv: well_1_patch_0", "only 0 or 1"),
    "mask value 0.5": (line(1, ",1,", ",0.5,"), "y_train.csv: well_1_patch_0", "only 0 or 1"),
    "mask value nan": (line(3, ",1,", ",nan,"), "y_train.csv: well_1_patch_2", "only 0 or 1"),
    "mask value missing": (line(3, ",1,", ",,"), "y_train.csv: well_1_patch_2", "only 0 or 1"),
    "mask value of text": (line(3, ",1,", ",x,"), "y_train.csv: well_1_patch_2", "only 0 or 1"),
    "mask row too short": (
        line(3, ",1,", ","),
        "y_train.csv: well_1_patch_2 has 1295 values",
        AGAIN,
    ),
    "mask row too long": (
        line(3, ",1,", ",1,1,"),
        "y_train.csv: well_1_patch_2 has 1297 values",
        AGAIN,
    ),
    "masks cut off": (cut("y_train.csv", 0.9), "y_train.csv: well_10_patch_0", AGAIN),
    "mask twice": (
        line(2, "well_1_patch_1", "well_1_patch_0"),
        "y_train.csv: well_1_patch_0",
        "twice",
    ),
    "mask of no patch": (
        line(2, "well_1_patch_1", "1"),
        "y_train.csv: '1'",
        "not named well_<n>_patch_<k>",
    ),
    "image without mask": (
        line(2, "well_1_patch_1", "well_1_patch_9"),
        "y_train.csv: 1 patches have no mask",
        "of one release",
    ),
    "half of the original release": (
        half_of_the_original_release,
        "y_train",
        "get images and masks of one release",
    ),
    "mask columns from 1": (
        line(0, HEADER, "," + ",".join(map(str, range(1, 1297)))),
        "y_train.csv",
        "columns 0 to 1295",
    ),
    "mask columns missing": (line(0, ",1295", ""), "y_train.csv", "columns 0 to 1295"),
    "masks without header": (
        line(0, HEADER, "well_9_patch_0" + ",0" * 1296),
        "y_train.csv",
        "columns 0 to 1295",
    ),
    "masks that are one endless line": (
        endless(b"0,"),
        "y_train.csv.gz: line 2 is too long",
        AGAIN,
    ),
    "masks of endless lines": (endless(b"\n"), "y_train.csv.gz: line 1200001", AGAIN),
    "entry of a zip that bursts": (
        bzip2_bomb,
        f"X_train.zip: {ENTRY} is packed by method 12",
        "pack it again as a plain zip",
    ),
    "patch numbered far away": (
        patch_far_away,
        "X_test.zip: well 3 has patches 0 to 2005, but 2001",
        "get the whole well",
    ),
    "empty masks": (write("y_train.csv", b""), "y_train.csv", "columns 0 to 1295"),
    "masks of header only": (
        write("y_train.csv", HEADER.encode()),
        "y_train.csv",
        "holds no patches",
    ),
    "masks are no text": (
        write("y_train.csv", bytes(range(256))),
        "y_train.csv",
        "columns 0 to 1295",
    ),
    "gzip cut off": (gzip_cut, "y_train.csv.gz", AGAIN),
    "no gzip": (
        lambda folder: (folder / "y_train.csv").rename(folder / "y_train.csv.gz"),
        "y_train.csv.gz",
        AGAIN,
    ),
    "two CSV files in a zip": (two_csv_in_a_zip, "y_train.zip", "2 CSV files instead of one"),
    "image CSV with text": (image_csv("1.0", "x"), "X_train.csv: column 0 holds text", AGAIN),
    "image CSV with a quote": (
        image_csv("1.0,", '"1.0,'),
        "X_train.csv: column 0 holds text",
        AGAIN,
    ),
    "image CSV with a carriage return": (
        image_csv("1.0,", "1\r1,"),
        "X_train.csv: column 0 holds text",
        AGAIN,
    ),
    "image CSV with a column less": (image_csv(",1295\n", "\n"), "X_train.csv", AGAIN),
    "image CSV with a value less": (image_csv("1.0,", ""), "X_train.csv", AGAIN),
    "image CSV with a value more": (image_csv("1.0,", "1.0,1.0,"), "X_train.csv", AGAIN),
    "image CSV without header": (image_csv(HEADER + "\n", ""), "X_train.csv", AGAIN),
    "image CSV cut off": (image_csv(",2.0" * 600 + "\n", ""), "X_train.csv", AGAIN),
    "image CSV with a patch twice": (
        image_csv("patch_1", "patch_0"),
        "X_train.csv: well_1_patch_0",
        "twice",
    ),
    "image CSV of nothing": (
        lambda folder: (image_csv("", "")(folder), (folder / "X_train.csv").write_text("")),
        "X_train.csv",
        AGAIN,
    ),
}


@pytest.mark.parametrize(("break_it", "names", "advice"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_one_line_that_names_it_and_says_what_to_do(
    tmp_path: Path, challenge: Challenge, break_it: Break, names: str, advice: str
) -> None:
    folder = challenge.write(tmp_path / "raw")
    break_it(folder)
    with pytest.raises(UserError) as caught:
        read_whole(folder)
    message = str(caught.value)
    assert names in message
    assert advice in message
    assert "\n" not in message


def test_a_zip_of_far_more_patches_than_the_challenge_has_is_refused(
    tmp_path: Path, challenge: Challenge, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge.write(tmp_path)
    # lines of the masks, which are 16 and a header
    monkeypatch.setattr(patch_files, "MOST_PATCHES", 17)
    corroseg.read(tmp_path, Data())
    change_zip(tmp_path / "X_train.zip", {f"images/well_3_patch_{k}.npy": WHOLE for k in range(2)})
    with pytest.raises(UserError, match=r"X_train\.zip: holds 18 files"):
        corroseg.read(tmp_path, Data())


class CreatesFile:
    """Unpickling this runs a command that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("as_form", [entry, file_in_folder])
def test_an_array_of_objects_is_refused_and_never_unpickled(
    tmp_path: Path, challenge: Challenge, as_form: Callable[[bytes], Break]
) -> None:
    trap = tmp_path / "trap"
    content = npy(np.array([[CreatesFile(trap)]], object))
    np.load(io.BytesIO(content), allow_pickle=True)
    assert trap.exists()
    trap.rmdir()

    folder = challenge.write(tmp_path / "raw")
    as_form(content)(folder)
    with pytest.raises(
        UserError,
        match=r"well_2_patch_3\.npy holds values of type object, not "
        r"numbers",
    ):
        read_whole(folder)
    assert not trap.exists()


def test_hidden_files_in_a_folder_are_ignored(tmp_path: Path, challenge: Challenge) -> None:
    folder = challenge.write(tmp_path)
    images = unzip(folder)
    (images / "._well_2_patch_3.npy").write_bytes(b"\x00")
    assert_read_as(corroseg.read(folder, Data()), challenge)


def prepare(recipe: Path, data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "00_prepare_data.py", str(recipe), "--data-dir", str(data)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)


def test_the_command_line_tells_of_a_bad_file_in_one_line_and_keeps_what_was_prepared(
    tmp_path: Path, challenge: Challenge
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'competition = "corroseg"\nfolds.count = 2\n'
        '[[member]]\nname = "a"\nnetwork = { name = "ring_unet" }\n[[member.phase]]\nepochs = 1\n'
    )
    folder = challenge.write(tmp_path / "data" / "raw" / "corroseg")
    done = prepare(recipe, tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, "")
    prepared = tmp_path / "data" / "prepared" / "corroseg"
    before = {path.name: path.read_bytes() for path in prepared.iterdir()}
    assert set(before) == {"train.h5", "test.h5", "report.html"}

    entry(WHOLE[:1000])(folder)
    failed = prepare(recipe, tmp_path / "data")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("error: ")
    assert "X_train.zip: images/well_2_patch_3.npy" in failed.stderr
    assert {path.name: path.read_bytes() for path in prepared.iterdir()} == before


# The real files


@pytest.fixture(scope="module")
def real(corroseg_folder: Path) -> Raw:
    return corroseg.read(corroseg_folder, Data())


def test_the_real_files_hold_the_published_counts(real: Raw) -> None:
    assert real.notes == []
    train_wells, train_counts = np.unique(real.train.group, return_counts=True)
    assert dict(zip(train_wells.tolist(), train_counts.tolist(), strict=True)) == dict(
        enumerate(
            [166, 616, 1774, 59, 98, 964, 1654, 78, 166, 80, 1512, 44, 1905, 355, 203], start=1
        )
    )
    assert dict(zip(*np.unique(real.test.group, return_counts=True), strict=True)) == {
        1: 25,
        2: 31,
        3: 461,
        4: 56,
        5: 1965,
    }
    assert images_of(real.train).shape == real.train.mask.shape == (9674, 36, 36)
    assert images_of(real.test).shape == (2538, 36, 36)


def test_the_real_files_hold_the_known_corrupt_patches(real: Raw) -> None:
    for split, touched, wholly in ((real.train, 340, 34), (real.test, 175, 4)):
        placeholder = images_of(split) < -100
        assert placeholder.any((1, 2)).sum() == touched
        assert (~cleaning.find_valid(images_of(split))).all((1, 2)).sum() == wholly
    missing = np.isnan(images_of(real.train)).sum((1, 2))
    assert dict(zip(real.train.name[missing > 0], missing[missing > 0], strict=True)) == {
        "well_15_patch_201": 11,
        "well_15_patch_202": 683,
    }
    assert not np.isnan(images_of(real.test)).any()


def test_dropping_empties_exactly_the_real_test_patches_with_a_placeholder(real: Raw) -> None:
    """Were every pixel predicted; of the training patches it leaves 340 out, not the two that hold
    NaN.
    """
    plain = {scan: Refinement(0.5) for scan in (False, True)}
    for split, number in ((real.train, 340), (real.test, 175)):
        image = images_of(split)
        block = {"image": image, "group": split.group, "number": split.number}
        clean = preparation.clean(block, drop=True)
        everywhere = clean | {"probability": np.full(image.shape, 0.9, np.float32)}
        masks = selection.masks(everywhere, plain, {}, Postprocess())
        placeholder = (image < -100).any((1, 2))
        assert placeholder.sum() == number
        np.testing.assert_array_equal(~masks.any((1, 2)), placeholder)


def test_the_real_wells_1_2_and_5_to_10_are_interleaved_and_no_other(real: Raw) -> None:
    for split, interleaved in ((real.train, [1, 2, 5, 6, 7, 8, 9, 10]), (real.test, [])):
        image = images_of(split)
        depth, parity = geometry.locate(
            image, cleaning.find_valid(image), split.group, split.number
        )
        assert np.unique(split.group[parity == 1]).tolist() == interleaved
        np.testing.assert_array_equal(
            depth, np.where(np.isin(split.group, interleaved), split.number // 2, split.number)
        )


def test_the_real_masks_in_the_original_release_read_as_in_the_corrected_one(real: Raw) -> None:
    names = [name.replace("well_1_patch_", "shifted_") for name in real.train.name]
    names = [
        f"well_1_patch_{450 + int(name[8:])}" if name.startswith("shifted_") else name
        for name in names
    ]
    spare = [f"well_0_patch_{k}" for k in range(166)] + [f"well_1_patch_{k}" for k in range(450)]
    masks = np.concatenate([real.train.mask[:], np.ones((len(spare), 36, 36), np.uint8)])
    order = np.random.default_rng(0).permutation(len(masks))
    names, masks, notes = corroseg.correct_release(
        np.array([*names, *spare], object)[order],
        PackedMasks(pack(masks[order]), (36, 36)),
        real.train.name,
    )
    row_of = {name: row for row, name in enumerate(names)}
    assert row_of.keys() == set(real.train.name)
    np.testing.assert_array_equal(
        masks[[row_of[name] for name in real.train.name]], real.train.mask[:]
    )
    assert notes == [
        "original release of the masks: 616 masks of wells 0 and 1 dropped, 166 of well 1 renamed"
    ]
