"""Severstal's raw files against masks worked out by hand, a brute-force decoder and the real
files; what is wrong with bad ones.
"""

import io
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import competitions
from src.cli import severstal_images
from src.competitions import Raw, severstal
from src.competitions.formats import rle, severstal_jpegs, severstal_tables
from src.recipe import Data
from src.terminal.errors import UserError
from tests.moments import LIMIT

REPOSITORY = Path(__file__).parents[1]
STRICT, EMPTY = Data(), Data(missing_test="empty")
A, B, C = "0aa.jpg", "1bb.jpg", "2cc.jpg"  # training images; C has no defects
S, T = "3aa.jpg", "4dd.jpg"  # test images
SHOWN = f"ImageId,ClassId,EncodedPixels\n{B},4,409599 2\n{A},1,1 3 257 2\n{A},3,2 1\n"
FOUR = "ImageId_ClassId,EncodedPixels\n" + "".join(
    f"{name}_{label},{codes.get(label, '')}\n"
    for name, codes in ((A, {1: "1 3 257 2", 3: "2 1"}), (B, {4: "409599 2"}), (C, {}))
    for label in (1, 2, 3, 4)
)
SAMPLE = f"ImageId,EncodedPixels,ClassId\n{T},1 409600,0\n{S},1 409600,0\n"
SAMPLE_FOUR = "ImageId_ClassId,EncodedPixels\n" + "".join(
    f"{name}_{label},1 1\n" for name in (T, S) for label in (1, 2, 3, 4)
)


def jpeg(
    grey: int = 100, size: tuple[int, int] = (1600, 256), mode: str = "RGB", form: str = "JPEG"
) -> bytes:
    content = io.BytesIO()
    Image.new("L", size, grey).convert(mode).save(content, form)
    return content.getvalue()


WHOLE = jpeg()
GREYS = {A: 10, B: 60, C: 110, S: 160, T: 210}


def write_raw(folder: Path, train_csv: str = SHOWN, sample: str = SAMPLE) -> Path:
    for split, names in (("train_images", (A, B, C)), ("test_images", (S, T))):
        (folder / split).mkdir(parents=True)
        for name in names:
            (folder / split / name).write_bytes(jpeg(GREYS[name]))
    (folder / "train.csv").write_text(train_csv)
    (folder / "sample_submission.csv").write_text(sample)
    return folder


def pack(
    folder: Path,
    split: str,
    top: str = "",
    extra: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """Turn a folder of images into a zip; `extra` entries are added or replace others."""
    entries = {top + file.name: file.read_bytes() for file in sorted((folder / split).iterdir())}
    shutil.rmtree(folder / split)
    with zipfile.ZipFile(folder / f"{split}.zip", "w", method) as archive:
        for name, content in (entries | (extra or {})).items():
            archive.writestr(name, content)
    return folder / f"{split}.zip"


def brute_force(code: str, height: int, width: int) -> np.ndarray:
    """Every pixel of every run by itself: number p stands in row (p - 1) % height of column (p -
    1) // height.
    """
    mask = np.zeros((height, width), np.uint8)
    numbers = [int(word) for word in code.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start, start + length):
            mask[(pixel - 1) % height, (pixel - 1) // height] = 1
    return mask


def runs(mask: np.ndarray) -> str:
    """The code of a mask by the differences between neighbours, as an encoder independent of the
    project's.
    """
    pixels = np.pad(mask.T.ravel(), 1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    return " ".join(
        f"{start} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True)
    )


def by_hand() -> dict[str, np.ndarray]:
    """The masks of `SHOWN` and `FOUR`, pixel by pixel."""
    masks = {name: np.zeros((4, 256, 1600), np.uint8) for name in (A, B, C)}
    masks[A][0, :3, 0] = 1  # 1 3: the three uppermost pixels of the first column
    masks[A][0, :2, 1] = 1  # 257 2: the two uppermost of the second
    masks[A][2, 1, 0] = 1  # 2 1: also of class 1
    masks[B][3, 254:, 1599] = 1  # 409599 2: the last two of the last column
    return masks


def assert_read(raw: Raw, test: list[str] | None = None) -> None:
    assert (raw.classes, raw.channels, raw.dtype) == (["1", "2", "3", "4"], 1, np.uint8)
    for split, names in ((raw.train, [A, B, C]), (raw.test, [T, S] if test is None else test)):
        assert split.name.tolist() == names
        assert split.group is None
        assert split.size.dtype == np.int32
        assert split.size.tolist() == [[256, 1600]] * len(names)
        for index, name in enumerate(names):
            image = split.read_image(index)
            assert (image.dtype, image.shape) == (np.uint8, (256, 1600, 1))
            assert (image == GREYS[name]).all()
    for index, mask in enumerate(by_hand().values()):
        assert raw.train.read_mask(index).dtype == np.uint8
        np.testing.assert_array_equal(raw.train.read_mask(index), mask)
    assert raw.test.read_mask is None


# What is good


def test_the_competition_is_known_by_its_name() -> None:
    assert competitions.get("severstal") is severstal.COMPETITION
    metric = severstal.COMPETITION.metric
    assert metric.name == "mean Dice of each image and class, 1 where both are empty"
    # 2 pixels shared of 4 and 3; none of 4 and 3; nothing predicted of nothing
    counts = np.array([[2, 4, 3], [0, 4, 3], [0, 0, 0]]).T
    np.testing.assert_allclose(metric.of(*counts), [4 / 7, 0, 1])


def as_shown(folder: Path) -> None:
    pass


def in_four_rows(folder: Path) -> None:
    (folder / "train.csv").write_text(FOUR)
    (folder / "sample_submission.csv").write_text(SAMPLE_FOUR)


def with_other_order_of_columns(folder: Path) -> None:
    rows = [line.split(",") for line in SHOWN.splitlines()]
    (folder / "train.csv").write_text("\n".join(",".join((row[2], row[0], row[1])) for row in rows))


def as_spreadsheets_write(folder: Path) -> None:
    rows = "\r\n".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) for line in SHOWN.splitlines()
    )
    (folder / "train.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode() + b"\r\n\r\n")


def as_zips(folder: Path) -> None:
    pack(folder, "train_images")
    pack(folder, "test_images", "test_images/", method=zipfile.ZIP_STORED)


def with_system_junk(folder: Path) -> None:
    (folder / "train_images" / f"._{A}").write_bytes(b"\x00")
    (folder / "train_images" / "Thumbs.db").write_bytes(b"\x00")
    junk = {
        f"__MACOSX/test_images/._{S}": b"\x00",
        f"__MACOSX/{S}": b"\x00",
        f"test_images/._{S}": b"\x00",
        "test_images/": b"",
    }
    pack(folder, "test_images", "test_images/", junk)


def in_a_folder_within(folder: Path) -> None:
    (folder / "train_images").rename(folder / "moved")
    (folder / "train_images").mkdir()
    (folder / "moved").rename(folder / "train_images" / "train_images")


def as_grey_jpegs(folder: Path) -> None:
    for name in (A, B, C):
        (folder / "train_images" / name).write_bytes(jpeg(GREYS[name], mode="L"))


FORMS = (
    as_shown,
    in_four_rows,
    with_other_order_of_columns,
    as_spreadsheets_write,
    as_zips,
    with_system_junk,
    in_a_folder_within,
    as_grey_jpegs,
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_files_is_read_to_the_same(
    tmp_path: Path, form: Callable[[Path], None]
) -> None:
    form(write_raw(tmp_path))
    assert_read(severstal.read(tmp_path, STRICT))


def test_codes_decode_as_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    masks = (rng.random((6, 7, 11)) < 0.4).astype(np.uint8)
    for mask, code in zip(masks, rle.encode(masks, "column"), strict=True):
        np.testing.assert_array_equal(brute_force(code, 7, 11), mask)
        assert runs(mask) == code
        np.testing.assert_array_equal(rle.decode([code], 7, 11, "column")[0], mask)


def listed(folder: Path, data: Data) -> dict[str, set[Path]]:
    return {split: set(paths) for split, paths in severstal.files(folder, data).items()}


def test_the_raw_files_are_listed_by_split(tmp_path: Path) -> None:
    write_raw(tmp_path)
    train_csv, sample = tmp_path / "train.csv", tmp_path / "sample_submission.csv"
    train = {train_csv, *(tmp_path / "train_images" / name for name in (A, B, C))}
    test = {sample, *(tmp_path / "test_images" / name for name in (S, T))}
    assert listed(tmp_path, STRICT) == {"train": train, "test": test}
    as_zips(tmp_path)
    train, test = {train_csv, tmp_path / "train_images.zip"}, {sample, tmp_path / "test_images.zip"}
    assert listed(tmp_path, STRICT) == {"train": train, "test": test}
    (tmp_path / "test_images.zip").unlink()
    assert listed(tmp_path, EMPTY) == {"train": train, "test": {sample}}
    with pytest.raises(UserError, match="test_images is missing"):
        severstal.files(tmp_path, STRICT)


def test_notes_say_what_was_dropped_or_taken_for_granted(tmp_path: Path) -> None:
    write_raw(tmp_path, SHOWN + "9ee.jpg,2,1 1\n9ee.jpg,3,1 1\n9ff.jpg,2,1 1\n")
    (tmp_path / "test_images" / "8aa.jpg").write_bytes(WHOLE)
    raw = severstal.read(tmp_path, STRICT)
    assert_read(raw)
    assert raw.notes == [
        "train.csv: masks of 2 images that are not in train_images dropped",
        "train.csv: has no row for 1 of 3 images: taken as free of defects",
        "test_images: 1 images that sample_submission.csv does not list left out",
    ]
    (tmp_path / "train.csv").write_text(FOUR)
    assert len(severstal.read(tmp_path, STRICT).notes) == 1


@pytest.mark.parametrize("gone", [[S], [S, T], None])
def test_missing_test_images_are_an_error_or_left_out(
    tmp_path: Path, gone: list[str] | None
) -> None:
    write_raw(tmp_path)
    if gone is None:
        shutil.rmtree(tmp_path / "test_images")
    for name in gone or []:
        (tmp_path / "test_images" / name).unlink()
    with pytest.raises(UserError, match='set missing_test = "empty"') as caught:
        severstal.read(tmp_path, STRICT)
    first = (
        next(name for name in (T, S) if gone and name in gone) if gone else "test_images is missing"
    )
    assert first in str(caught.value)
    raw = severstal.read(tmp_path, EMPTY)
    assert_read(raw, [T] if gone == [S] else [])
    assert (
        f"{len(gone) if gone else 2} of 2 images are not at hand and get empty masks"
        in raw.notes[-1]
    )


def test_readers_work_in_other_processes(tmp_path: Path) -> None:
    as_zips(write_raw(tmp_path))
    raw = severstal.read(tmp_path, STRICT)
    assert_read(pickle.loads(pickle.dumps(raw)))
    noisy = np.random.default_rng(0).integers(0, 256, (40, 256, 1600), np.uint8)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number, grey in enumerate(noisy):
            content = io.BytesIO()
            Image.fromarray(grey).save(content, "JPEG")
            archive.writestr(f"{number}.jpg", content.getvalue())
    reader = severstal_jpegs.JpegReader(
        tmp_path / "many.zip", tuple(f"{number}.jpg" for number in range(40))
    )
    alone = [int(reader(index).sum()) for index in range(40)]
    # with the zip open in the parent
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert list(pool.map(sum_of, [reader] * 40, range(40))) == alone


def sum_of(reader: severstal_jpegs.JpegReader, index: int) -> int:
    return int(reader(index).sum())


# What is bad

Break = Callable[[Path], object]


def csv(text: str, name: str = "train.csv") -> Break:
    return lambda folder: (folder / name).write_text(text)


def image(content: bytes, name: str = B, split: str = "train_images") -> Break:
    return lambda folder: (folder / split / name).write_bytes(content)


def zipped(entry: str, content: bytes = WHOLE) -> Break:
    return lambda folder: pack(folder, "train_images", "images/", {entry: content})


def remove(name: str) -> Break:
    return lambda folder: (
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    )


def both_forms(split: str) -> Break:
    def break_it(folder: Path) -> None:
        shutil.copytree(folder / split, folder / "kept")
        pack(folder, split)
        (folder / "kept").rename(folder / split)

    return break_it


def flip_bit_in_zip(folder: Path) -> None:
    path = pack(folder, "train_images", "", {A: WHOLE}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.find(WHOLE) + 2000] ^= 1
    path.write_bytes(content)


def cut_zip(folder: Path) -> None:
    path = pack(folder, "train_images")
    path.write_bytes(path.read_bytes()[:-30])


def bzip2_bomb(folder: Path) -> None:
    """64 MiB in 100 bytes, as the first entry: zipfile would unpack it at once, whatever it is
    asked for.
    """
    assert (
        pack(folder, "train_images", "", {A: bytes(64 << 20)}, zipfile.ZIP_BZIP2).stat().st_size
        < 20_000
    )


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder / "train_images")
    (folder / "train_images").mkdir()


def zip_of_texts(folder: Path) -> None:
    for name in (A, B, C):
        (folder / "train_images" / name).rename(folder / "train_images" / f"{name}.txt")
    pack(folder, "train_images")


def bomb() -> bytes:
    """A JPEG whose header promises 65,500 x 65,500 pixels."""
    return WHOLE.replace(bytes([1, 0, 6, 64]), bytes([255, 220, 255, 220]), 1)


def one(code: str, label: str = "3") -> Break:
    return csv(f"ImageId,ClassId,EncodedPixels\n{A},{label},{code}\n")


AGAIN = "download it again"
COLUMNS = "first line must be ImageId_ClassId,EncodedPixels or ImageId,ClassId,EncodedPixels"
PUT = "put "
BAD_CODE = f"train.csv: {A}, class 3: run-length code"
BAD = {
    "no folder": (shutil.rmtree, "is missing", PUT),
    "no train.csv": (remove("train.csv"), "train.csv is missing", PUT),
    "no sample": (remove("sample_submission.csv"), "sample_submission.csv is missing", PUT),
    "no training images": (remove("train_images"), "train_images is missing", PUT),
    "no test images": (remove("test_images"), "test_images is missing", PUT),
    "training images twice": (
        both_forms("train_images"),
        "train_images and train_images.zip",
        "keep the one that counts",
    ),
    "test images twice": (
        both_forms("test_images"),
        "test_images and test_images.zip",
        "keep the one that counts",
    ),
    "none of the images": (
        csv(SHOWN.replace(A, "7aa.jpg").replace(B, "7bb.jpg")),
        "none of the 2 images",
        "7bb.jpg",
    ),
    "csv of nothing": (csv(""), "train.csv", COLUMNS),
    "csv of a header": (csv(SHOWN.splitlines()[0]), "train.csv: has no rows", AGAIN),
    "csv is a web page": (csv("<html>\n<body>\n"), "train.csv", COLUMNS),
    "csv is no text": (
        lambda folder: (folder / "train.csv").write_bytes(bytes(range(256))),
        "train.csv",
        COLUMNS,
    ),
    "column missing": (csv(SHOWN.replace(",EncodedPixels", "")), "train.csv", COLUMNS),
    "class column missing": (csv(SHOWN.replace("ClassId,", "")), "train.csv", COLUMNS),
    "column twice": (
        csv(SHOWN.replace("EncodedPixels", "EncodedPixels,ClassId")),
        "train.csv",
        COLUMNS,
    ),
    "column unknown": (
        csv(SHOWN.replace("EncodedPixels", "EncodedPixels,x")),
        "train.csv",
        COLUMNS,
    ),
    "value missing": (
        csv(SHOWN + f"{B},2\n"),
        "train.csv, line 5: has 2 values instead of 3",
        AGAIN,
    ),
    "value too many": (csv(SHOWN + f"{B},2,1 1,1\n"), "line 5: has 4 values instead of 3", AGAIN),
    "class 5": (one("1 1", "5"), "line 2: '5' is no class", "they are 1, 2, 3, 4"),
    "class 0": (one("1 1", "0"), "line 2: '0' is no class", "they are 1, 2, 3, 4"),
    "class of another script": (one("1 1", "²"), "line 2: '²' is no class", "they are 1, 2, 3, 4"),
    "no class": (one("1 1", ""), "line 2: '' is no class", "they are 1, 2, 3, 4"),
    "class 5 in four rows": (
        csv(FOUR.replace(f"{A}_4", f"{A}_5")),
        "line 5: '5' is no class",
        "they are 1, 2, 3, 4",
    ),
    "no class in four rows": (csv(FOUR.replace(f"{A}_4", A)), "is not the name of an image", AGAIN),
    "name climbs out": (
        csv(SHOWN.replace(A, "../0aa.jpg")),
        "'../0aa.jpg' is not the name of an image",
        AGAIN,
    ),
    "mask twice": (
        csv(SHOWN + f"{A},1,1 1\n"),
        f"train.csv: {A}, class 1 stands in it twice",
        AGAIN,
    ),
    "mask twice in four rows": (
        csv(FOUR + f"{A}_1,\n"),
        f"train.csv: {A}, class 1 stands in it twice",
        AGAIN,
    ),
    "code odd": (one("1 1 5"), BAD_CODE, "odd count"),
    "code of words": (one("1 x"), BAD_CODE, "no number"),
    "code negative": (one("-1 3"), BAD_CODE, "no number"),
    "code from 0": (one("0 3"), BAD_CODE, "leave the mask"),
    "code of no length": (one("5 0"), BAD_CODE, "overlap"),
    "code overlaps": (one("1 4 4 2"), BAD_CODE, "overlap"),
    "code backwards": (one("9 2 1 2"), BAD_CODE, "overlap"),
    "code leaves the image": (one("409600 2"), BAD_CODE, "leave the mask"),
    "sample twice": (
        csv(SAMPLE + f"{S},1 1,0\n", "sample_submission.csv"),
        f"{S}, class 0 stands in it twice",
        AGAIN,
    ),
    "sample twice by class": (
        csv(SAMPLE + f"{S},1 1,2\n", "sample_submission.csv"),
        f"{S} stands in it twice",
        AGAIN,
    ),
    "sample lacks a class": (
        csv(SAMPLE_FOUR.replace(f"{S}_2,1 1\n", ""), "sample_submission.csv"),
        "one row for each",
        AGAIN,
    ),
    "sample of class 0": (
        csv(SAMPLE_FOUR.replace(f"{S}_4", f"{S}_0"), "sample_submission.csv"),
        "one row for each",
        AGAIN,
    ),
    "narrow image": (
        image(jpeg(size=(1599, 256))),
        f"train_images/{B} has 1599x256 pixels instead of 1600x256",
        "no image",
    ),
    "upright image": (image(jpeg(size=(256, 1600))), f"{B} has 256x1600 pixels", "no image"),
    "small test image": (
        image(jpeg(size=(16, 16)), S, "test_images"),
        f"test_images/{S} has 16x16 pixels",
        "no image",
    ),
    "image that bursts": (image(bomb()), f"{B} has 65500x65500 pixels", "no image"),
    "image of nothing": (image(b""), f"train_images/{B}", AGAIN),
    "image cut in its header": (image(WHOLE[:100]), f"train_images/{B}", AGAIN),
    "image is a PNG": (image(jpeg(form="PNG")), f"train_images/{B}", AGAIN),
    "huge image": (image(WHOLE + bytes(5 << 20)), f"train_images/{B} has ", "too large"),
    "huge image in a zip": (
        zipped(f"images/{B}", WHOLE + bytes(5 << 20)),
        f"train_images.zip: images/{B} has ",
        "too large",
    ),
    "narrow image in a zip": (
        zipped(f"images/{B}", jpeg(size=(9, 9))),
        f"images/{B} has 9x9 pixels",
        "no image",
    ),
    "image twice": (zipped(f"more/{A}"), f"{A} stands in it twice", "keep the one that counts"),
    "copy of an image": (image(WHOLE, "0aa (1).jpg"), "'0aa (1).jpg' is not named", "remove it"),
    "entry climbs out": (
        zipped(f"images/../../{A}"),
        "climbs out of the zip",
        "no file of the competition",
    ),
    "entry climbs out, backwards": (
        zipped(f"..\\{A}"),
        "climbs out of the zip",
        "no file of the competition",
    ),
    "entry with an absolute name": (
        zipped(f"/tmp/{A}"),
        "climbs out of the zip",
        "no file of the competition",
    ),
    "text climbs out": (zipped("../a.txt"), "climbs out of the zip", "no file of the competition"),
    "entry with a backslash": (zipped(f"images\\{A}"), "is not named", "remove it"),
    "zip cut off": (cut_zip, "train_images.zip: cannot be read", AGAIN),
    "zip of nothing": (
        lambda folder: pack(folder, "train_images").write_bytes(b""),
        "train_images.zip: cannot be read",
        AGAIN,
    ),
    "zip that bursts": (
        bzip2_bomb,
        f"train_images.zip: {A} is packed by method 12",
        "pack it again as a plain zip",
    ),
    "csv of endless lines": (
        csv(SHOWN + "\n" * 1_000_001),
        "train.csv: has more than 1,000,000 lines",
        AGAIN,
    ),
    "code that is endless": (
        one("1 1 " * 3_000_000),
        BAD_CODE,
        "longer than that of any mask of 409600 pixels",
    ),
    "zip of texts": (zip_of_texts, "train_images.zip holds none of the 2 images", "download"),
    "empty folder": (empty_folder, "train_images holds none of the 2 images", "download"),
}


@pytest.mark.parametrize(("break_it", "names", "advice"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_one_line_that_names_it_and_says_what_to_do(
    tmp_path: Path, break_it: Break, names: str, advice: str
) -> None:
    break_it(write_raw(tmp_path / "raw"))
    with pytest.raises(UserError) as caught:
        severstal.read(tmp_path / "raw", STRICT)
    message = str(caught.value)
    assert names in message
    assert advice in message
    assert "\n" not in message


def truncated() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (256, 1600), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG")
    return content.getvalue()[:100_000]


LATE = {
    "truncated": (image(truncated()), f"train_images/{B}: cannot be read"),
    "truncated in a zip": (
        zipped(f"images/{B}", truncated()),
        f"train_images.zip: images/{B}: cannot be read",
    ),
    "bit flipped in a zip": (flip_bit_in_zip, f"train_images.zip: {A}: cannot be read"),
}


@pytest.mark.parametrize(("break_it", "names"), LATE.values(), ids=LATE.keys())
def test_damage_behind_the_header_is_told_when_the_image_is_read(
    tmp_path: Path, break_it: Break, names: str
) -> None:
    break_it(write_raw(tmp_path))
    raw = severstal.read(tmp_path, STRICT)
    with pytest.raises(UserError) as caught:
        for index in range(3):
            raw.train.read_image(index)
    assert names in str(caught.value)
    assert AGAIN in str(caught.value)


@pytest.mark.parametrize("as_form", [as_shown, as_zips])
def test_an_image_that_vanishes_or_changes_is_told_by_its_name(
    tmp_path: Path, as_form: Break
) -> None:
    as_form(write_raw(tmp_path))
    raw = severstal.read(tmp_path, STRICT)
    remove("train_images.zip" if as_form is as_zips else f"train_images/{B}")(tmp_path)
    with pytest.raises(UserError, match=f"train_images.*{B}: cannot be read"):
        raw.train.read_image(1)


def test_made_up_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    reader = severstal_jpegs.JpegReader(tmp_path, (B,))
    for _ in range(150):
        content = np.frombuffer(WHOLE[: rng.integers(700, len(WHOLE))], np.uint8).copy()
        content[rng.integers(2, 700, 3)] = rng.integers(0, 256, 3)
        (tmp_path / B).write_bytes(content)
        try:
            assert reader(0).shape == (256, 1600, 1)
        except UserError as error:
            assert B in str(error)


# The submission

CODES = {S: ["1 5", "", "1 2 9 4", ""], T: ["", "", "", ""]}


def submit(folder: Path, codes: dict[str, list[str]]) -> list[str]:
    severstal.write_submission(folder / "submission.csv", folder, list(codes), list(codes.values()))
    return (folder / "submission.csv").read_text().split("\n")


def test_a_submission_of_four_rows_an_image_holds_every_class(tmp_path: Path) -> None:
    write_raw(tmp_path, sample=SAMPLE_FOUR)
    empty = [f"{T}_{label}," for label in (1, 2, 3, 4)]
    ours = [f"{S}_1,1 5", f"{S}_2,", f"{S}_3,1 2 9 4", f"{S}_4,"]
    assert submit(tmp_path, CODES) == ["ImageId_ClassId,EncodedPixels", *empty, *ours, ""]


def test_a_submission_of_a_row_an_image_holds_the_class_with_most_pixels(tmp_path: Path) -> None:
    write_raw(tmp_path)
    header = "ImageId,EncodedPixels,ClassId"
    assert submit(tmp_path, CODES) == [header, f"{T},,1", f"{S},1 2 9 4,3", ""]
    assert submit(tmp_path, {S: CODES[S]}) == [header, f"{T},,1", f"{S},1 2 9 4,3", ""]
    assert submit(tmp_path, {S: ["900 1", "1 2", "", ""]}) == [header, f"{T},,1", f"{S},1 2,2", ""]
    assert submit(tmp_path, {}) == [header, f"{T},,1", f"{S},,1", ""]
    assert submit(tmp_path, {S: ["", "1 6", "", "1 6"], T: ["", "", "", "2 1"]}) == [
        header,
        f"{T},2 1,4",
        f"{S},1 6,2",
        "",
    ]


def test_a_submission_keeps_the_order_of_the_columns(tmp_path: Path) -> None:
    # its own class says nothing
    write_raw(tmp_path, sample=f"ImageId,ClassId,EncodedPixels\n{S},4,1 1\n")
    assert submit(tmp_path, {S: CODES[S]}) == [
        "ImageId,ClassId,EncodedPixels",
        f"{S},3,1 2 9 4",
        "",
    ]


@pytest.mark.parametrize(
    ("names", "codes", "message"),
    [
        ([S, A], [[""] * 4] * 2, f"does not list {A}"),
        ([S, S], [[""] * 4] * 2, f"{S} was predicted twice"),
        ([S], [["1 2", "", "", "409600 2"]], f"{S}, class 4: run-length code"),
    ],
)
def test_a_submission_that_cannot_be_is_refused(
    tmp_path: Path, names: list[str], codes: list[list[str]], message: str
) -> None:
    write_raw(tmp_path)
    with pytest.raises(UserError, match=message):
        severstal.write_submission(tmp_path / "submission.csv", tmp_path, names, codes)


def lost_row(text: bytes) -> bytes:
    return b"\n".join(text.split(b"\n")[:-2]) + b"\n"


def swapped_rows(text: bytes) -> bytes:
    header, first, second, end = text.split(b"\n")
    return b"\n".join([header, second, first, end])


@pytest.mark.parametrize(
    "harm",
    [
        lost_row,
        swapped_rows,
        lambda text: text.replace(b"9 4", b"9 3"),
        lambda text: text.replace(b"1 2 9 4,3", b"1 5,1"),
    ],
)
def test_a_submission_that_does_not_read_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[bytes], bytes]
) -> None:
    write_raw(tmp_path)
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: write(path, harm(content)))
    with pytest.raises(UserError, match="does not read back as predicted"):
        submit(tmp_path, CODES)


# Generated images


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    severstal_images.generate(folder, 60, 3, seed=1)
    return folder


def test_generated_files_read_as_real_ones(generated: Path) -> None:
    raw = severstal.read(generated, STRICT)
    assert (len(raw.train.name), len(raw.test.name)) == (60, 3)
    masks = np.array([raw.train.read_mask(index).any((1, 2)) for index in range(60)])
    assert 0.3 < (~masks.any(1)).mean() < 0.7
    assert masks.sum(0).argmax() == 2
    with Image.open(generated / "train_images" / raw.train.name[0]) as photograph:
        assert (photograph.mode, photograph.size) == ("RGB", (1600, 256))


def test_generated_classes_have_the_shares_of_the_real_ones() -> None:
    rng = np.random.default_rng(0)
    drawn = [severstal_images._draw_classes(rng) for _ in range(20_000)]
    assert np.mean([not labels for labels in drawn]) == pytest.approx(0.47, abs=0.02)
    assert np.mean([len(labels) > 1 for labels in drawn]) == pytest.approx(0.034, abs=0.01)
    shares = np.bincount([label for labels in drawn for label in labels], minlength=5)[1:] / sum(
        map(len, drawn)
    )
    assert shares == pytest.approx([0.126, 0.035, 0.726, 0.113], abs=0.01)


def test_a_defect_of_any_class_changes_the_image_where_its_mask_is() -> None:
    for label, forms in severstal_images.FORMS.items():
        for form in forms:
            assert form.label == label
            before = np.full((262, 1640), 100, np.float32)
            sheet, mask = before.copy(), np.zeros(before.shape, bool)
            severstal_images._add_defect(np.random.default_rng(label), sheet, mask, form)
            changed = sheet != before
            assert changed.any()
            assert not (changed & ~mask).any()
            assert changed.sum() > 0.3 * mask.sum()


def test_two_photographs_of_a_sheet_are_shifted_and_have_noise_of_their_own() -> None:
    rng = np.random.default_rng(3)
    sheet, masks = np.full((262, 1640), 50, np.float32), np.zeros((4, 262, 1640), bool)
    masks[3, 100:120, 800:850] = True
    sheet[masks[3]] = 200
    first, second = (
        severstal_images.photograph(rng, sheet, masks, sheet.shape)[0].astype(float)
        for _ in range(2)
    )
    assert (first - second)[0].std() > 4
    places = set()
    for _ in range(8):
        grey, seen = severstal_images.photograph(rng, sheet, masks, (256, 1600))
        assert grey[seen[3]].mean() > 180
        assert grey[~seen[3]].max() < 150
        places.add(tuple(np.argwhere(seen[3])[0]))
    assert len(places) > 5


@pytest.mark.parametrize(("twins", "sheets"), [(0.0, 6), (1.0, 3)])
def test_some_sheets_are_photographed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twins: float, sheets: int
) -> None:
    drawn = []
    draw = severstal_images.draw_sheet
    monkeypatch.setattr(severstal_images, "TWINS", twins)
    monkeypatch.setattr(
        severstal_images, "draw_sheet", lambda rng, shape: drawn.append(shape) or draw(rng, shape)
    )
    severstal_images.generate(tmp_path / "raw", 6, 1, 0, height=64, width=128)
    assert drawn == [(70, 168)] * (sheets + 1)


def test_the_command_line_generates_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "src.cli.severstal_images",
        str(tmp_path),
        "--images",
        "2",
        "--test-images",
        "1",
        "--seed",
        "3",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "train_images").iterdir())) == 2
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ") and again.stderr.count("\n") == 1


def test_the_same_seed_gives_the_same_bytes_in_either_layout(tmp_path: Path) -> None:
    for name, seed, four_rows in (("a", 5, False), ("b", 5, True), ("c", 6, False)):
        severstal_images.generate(tmp_path / name, 6, 2, seed, four_rows=four_rows)
    a, b, c = (severstal.read(tmp_path / name, STRICT) for name in "abc")
    assert a.train.name.tolist() == b.train.name.tolist() != c.train.name.tolist()
    assert a.test.name.tolist() == b.test.name.tolist()
    for index, name in enumerate(a.train.name):
        assert (tmp_path / "a/train_images" / name).read_bytes() == (
            tmp_path / "b/train_images" / name
        ).read_bytes()
        np.testing.assert_array_equal(a.train.read_mask(index), b.train.read_mask(index))
    assert (tmp_path / "b/train.csv").read_text().count("\n") == 1 + 4 * 6


def test_nothing_is_generated_over_real_files(generated: Path, tmp_path: Path) -> None:
    before = (generated / "train.csv").read_bytes()
    with pytest.raises(UserError, match="is there already"):
        severstal_images.generate(generated, 1, 1, seed=2)
    assert (generated / "train.csv").read_bytes() == before
    with pytest.raises(UserError, match="at least one of each"):
        severstal_images.generate(tmp_path, 0, 1, seed=2)
    with pytest.raises(UserError, match="no negative seed"):
        severstal_images.generate(tmp_path, 1, 1, seed=-1)


# The real files


def link_real(real: Path, folder: Path, train_csv: str = "train.csv") -> Path:
    folder.mkdir()
    (folder / "train_images").symlink_to(real / "train_images")
    (folder / "sample_submission.csv").symlink_to(real / "sample_submission.csv")
    (folder / "train.csv").symlink_to(real / train_csv)
    return folder


def real_rows(path: Path) -> list[tuple[str, int, str]]:
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [(name, int(label), code) for name, label, code in rows]


def test_the_real_masks_agree_with_brute_force_in_both_layouts(
    severstal_folder: Path, tmp_path: Path
) -> None:
    rows = real_rows(severstal_folder / "train.csv")
    expected = {(name, label): brute_force(code, 256, 1600) for name, label, code in rows}
    folder = link_real(severstal_folder, tmp_path / "raw")
    shown = severstal.read(folder, EMPTY)
    (folder / "train.csv").unlink()
    codes = {(name, label): code for name, label, code in rows}
    four = [
        f"{name}_{label},{codes.get((name, label), '')}"
        for name in shown.train.name
        for label in (1, 2, 3, 4)
    ]
    (folder / "train.csv").write_text("\n".join(["ImageId_ClassId,EncodedPixels", *four]) + "\n")
    wide = severstal.read(folder, EMPTY)
    assert len(shown.train.name) == len(wide.train.name) == 18
    nothing = np.zeros((256, 1600), np.uint8)
    for index, name in enumerate(shown.train.name):
        mask = np.stack([expected.get((name, label), nothing) for label in (1, 2, 3, 4)])
        np.testing.assert_array_equal(shown.train.read_mask(index), mask)
        np.testing.assert_array_equal(wide.train.read_mask(index), mask)


def test_the_real_images_are_read_as_their_own_grey(severstal_folder: Path) -> None:
    raw = severstal.read(severstal_folder, EMPTY)
    for index, name in enumerate(raw.train.name):
        with Image.open(severstal_folder / "train_images" / name) as photograph:
            channels = np.asarray(photograph)
        assert (channels == channels[:, :, :1]).all()
        np.testing.assert_array_equal(raw.train.read_image(index), channels[:, :, :1])


def test_all_real_rows_encode_back_to_the_same_text(severstal_folder: Path, tmp_path: Path) -> None:
    rows = real_rows(severstal_folder / "train_rle_1740.csv")
    assert len(rows) == 2169
    found = severstal_tables.read_codes(severstal_folder / "train_rle_1740.csv")
    assert len(found) == 1740
    assert [(name, label, found[name][label - 1]) for name, label, _ in rows] == rows
    assert sum(code != "" for codes in found.values() for code in codes) == 2169
    for start in range(0, len(rows), 8):
        codes = [code for _, _, code in rows[start : start + 8]]
        assert list(map(runs, severstal.MaskReader((tuple(codes),))(0))) == codes
    notes = severstal.read(
        link_real(severstal_folder, tmp_path / "raw", "train_rle_1740.csv"), EMPTY
    ).notes
    assert notes[0] == "train.csv: masks of 1722 images that are not in train_images dropped"


def test_the_real_sample_is_matched_row_by_row(severstal_folder: Path, tmp_path: Path) -> None:
    raw = severstal.read(severstal_folder, EMPTY)
    assert len(raw.test.name) == 0
    assert raw.notes == [
        "sample_submission.csv: 5506 of 5506 images are not at hand and get empty masks"
    ]
    listed = [
        line.split(",")[0]
        for line in (severstal_folder / "sample_submission.csv").read_text().splitlines()[1:]
    ]
    path = tmp_path / "submission.csv"
    severstal.write_submission(
        path,
        severstal_folder,
        [listed[7], listed[3]],
        [["1 1", "2 2", "", ""], ["", "", "", "409600 1"]],
    )
    found = {listed[7]: f"{listed[7]},2 2,2", listed[3]: f"{listed[3]},409600 1,4"}
    expected = [found.get(name, f"{name},,1") for name in listed]
    assert len(expected) == 5506
    assert path.read_text() == "\n".join(["ImageId,EncodedPixels,ClassId", *expected, ""])
