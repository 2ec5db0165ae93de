"""Images of one's own: every form they come in, what becomes of them, and what is wrong with bad
ones.
"""

import csv
import io
import logging
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from src import recipe
from src.competitions import Raw, folder, get
from src.competitions.formats import image_files, rle, tables
from src.recipe import Data
from src.terminal.errors import UserError

REPOSITORY = Path(__file__).parents[1]
DATA = Data(folder="mine")
RNG = np.random.default_rng(0)
GREY8, GREY16 = RNG.integers(0, 256, (5, 7), np.uint8), RNG.integers(0, 65536, (5, 7), np.uint16)
RGB8, RGB16 = (
    RNG.integers(0, 256, (5, 7, 3), np.uint8),
    RNG.integers(0, 65536, (5, 7, 3), np.uint16),
)
LA16, RGBA16 = (
    RNG.integers(0, 65536, (5, 7, 2), np.uint16),
    RNG.integers(0, 65536, (5, 7, 4), np.uint16),
)
LABELS = np.array(
    [[0, 1, 0, 0, 3, 3, 0], [0, 1, 0, 0, 0, 3, 0], *[[0] * 7] * 2, [1, 0, 0, 0, 0, 0, 3]], np.uint8
)


def png(array: np.ndarray, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG", **options)
    return content.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def filtered(rows: np.ndarray, pixel: int) -> bytes:
    """Rows of bytes under the five filters of the PNG standard (section 9.2) in turn; `pixel` is
    the number of bytes of one.
    """
    rows = rows.astype(int)
    left = np.pad(rows, ((0, 0), (pixel, 0)))[:, : rows.shape[1]]
    up = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(left, ((1, 0), (0, 0)))[:-1]
    near = [abs(left + up - corner - guess) for guess in (left, up, corner)]
    paeth = np.where(
        (near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], up, corner)
    )
    guesses = [0 * rows, left, up, (left + up) // 2, paeth]
    return b"".join(
        bytes([n % 5]) + ((rows[n] - guesses[n % 5][n]) % 256).astype(np.uint8).tobytes()
        for n in range(len(rows))
    )


def deep_png(array: np.ndarray, interlaced: bool = False) -> bytes:
    """A 16-bit PNG written by hand from the standard: grey, grey and alpha, RGB or RGBA."""
    array = array if array.ndim == 3 else array[..., None]
    height, width, channels = array.shape
    passes = (
        [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
        if interlaced
        else [(0, 0, 1, 1)]
    )
    parts = [
        np.ascontiguousarray(array[top::down, left::right].astype(">u2"))
        for top, left, down, right in passes
    ]
    content = b"".join(
        filtered(part.view(np.uint8).reshape(len(part), -1), 2 * channels)
        for part in parts
        if part.size
    )
    start = struct.pack(
        ">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced
    )
    return (
        image_files.PNG
        + chunk(b"IHDR", start)
        + chunk(b"IDAT", zlib.compress(content))
        + chunk(b"IEND", b"")
    )


def tiff(array: np.ndarray, **options: object) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(
        content, array, **{"photometric": "rgb" if array.ndim == 3 else "minisblack", **options}
    )
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def lay(root: Path, content: dict[str, bytes | str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def whole(**changed: bytes | str | None) -> dict[str, bytes | str]:
    """Two training images with masks and one test image; "/" is written "__" and "." is "_dot_"
    in what is changed.
    """
    content = {
        "train/images/a.png": png(GREY8),
        "train/masks/a.png": png(LABELS),
        "train/images/b.png": png(GREY8.T),
        "train/masks/b.png": png(np.zeros((7, 5), np.uint8)),
        "test/images/t.png": png(GREY8),
    }
    content |= {
        name.replace("__", "/").replace("_dot_", "."): text for name, text in changed.items()
    }
    return {name: text for name, text in content.items() if text is not None}


def read(root: Path, content: dict[str, bytes | str]) -> Raw:
    return folder.read(lay(root, content), DATA)


# Formats: what numpy drew is what is read, bit by bit

FORMATS = {
    "grey png": ("a.png", png(GREY8), GREY8[..., None]),
    "rgb png": ("a.png", png(RGB8), RGB8),
    "grey and alpha png": (
        "a.png",
        png(np.dstack([GREY8, GREY8.T.reshape(5, 7)])),
        GREY8[..., None],
    ),
    "rgba png": ("a.png", png(np.dstack([RGB8, GREY8])), RGB8),
    "1-bit png": (
        "a.png",
        png(GREY8 > 99),
        np.where(GREY8 > 99, 255, 0).astype(np.uint8)[..., None],
    ),
    "grey 16-bit png": ("a.png", deep_png(GREY16), GREY16[..., None]),
    "grey 16-bit png of Pillow": ("a.png", png(GREY16), GREY16[..., None]),
    "grey and alpha 16-bit png": ("a.png", deep_png(LA16), LA16[..., :1]),
    "rgb 16-bit png": ("a.png", deep_png(RGB16), RGB16),
    "rgb 16-bit png, interlaced": ("a.png", deep_png(RGB16, interlaced=True), RGB16),
    "rgba 16-bit png": ("a.png", deep_png(RGBA16), RGBA16[..., :3]),
    "grey tiff": ("a.tif", tiff(GREY8), GREY8[..., None]),
    "rgb tiff": ("a.tiff", tiff(RGB8), RGB8),
    "grey 16-bit tiff": ("a.tif", tiff(GREY16), GREY16[..., None]),
    "grey 16-bit tiff, big-endian": ("a.tif", tiff(GREY16, byteorder=">"), GREY16[..., None]),
    "grey 16-bit tiff, packed": (
        "a.tif",
        tiff(GREY16, compression="deflate", predictor=True),
        GREY16[..., None],
    ),
    "grey 16-bit tiff, white is zero": (
        "a.tif",
        tiff(65535 - GREY16, photometric="miniswhite"),
        GREY16[..., None],
    ),
    "grey and alpha 16-bit tiff": (
        "a.tif",
        tiff(LA16, photometric="minisblack", planarconfig="contig"),
        LA16[..., :1],
    ),
    "rgb 16-bit tiff": ("a.tif", tiff(RGB16), RGB16),
    "rgb 16-bit tiff, big-endian, packed": (
        "a.TIF",
        tiff(RGB16, byteorder=">", compression="deflate"),
        RGB16,
    ),
    "rgb 16-bit tiff in planes": (
        "a.tif",
        tiff(np.moveaxis(RGB16, 2, 0).copy(), planarconfig="separate"),
        RGB16,
    ),
    "rgba 16-bit tiff": ("a.tif", tiff(RGBA16, extrasamples=["unassalpha"]), RGBA16[..., :3]),
    "bigtiff": ("a.tif", tiff(RGB16, bigtiff=True), RGB16),
    "npy of bytes": ("a.npy", npy(GREY8), GREY8[..., None]),
    "npy in Fortran order": ("a.npy", npy(np.asfortranarray(RGB16)), RGB16),
    "npy, big-endian": ("a.npy", npy(GREY16.astype(">u2")[..., None]), GREY16[..., None]),
    "npy with alpha": ("a.npy", npy(RGBA16), RGBA16[..., :3]),
    "npy of float32": ("a.npy", npy(GREY16 / np.float32(7)), (GREY16 / np.float32(7))[..., None]),
    "npy of float64": ("a.npy", npy(GREY16 / 7), (GREY16 / 7).astype(np.float32)[..., None]),
    "png called jpg": ("a.jpg", png(RGB8), RGB8),
}


@pytest.mark.parametrize(("name", "content", "expected"), FORMATS.values(), ids=FORMATS.keys())
def test_an_image_reads_bit_by_bit(
    tmp_path: Path, name: str, content: bytes, expected: np.ndarray
) -> None:
    path = lay(tmp_path, {name: content}) / name
    found = image_files.header(path)
    assert (found.height, found.width, found.channels, found.dtype) == (
        *expected.shape,
        expected.dtype,
    )
    pixels = image_files.decode(path)
    assert pixels.dtype == expected.dtype
    np.testing.assert_array_equal(pixels, expected)


def test_a_palette_is_looked_up_also_where_it_is_transparent(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = Image.fromarray(LABELS)
    image.putpalette([9, 8, 7, 200, 100, 50, 1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80\xff\xff")
    colours = np.array([[9, 8, 7], [200, 100, 50], [1, 2, 3], [4, 5, 6]], np.uint8)
    np.testing.assert_array_equal(image_files.decode(tmp_path / "a.png"), colours[LABELS])
    np.testing.assert_array_equal(image_files.decode_labels(tmp_path / "a.png"), LABELS)
    assert not recwarn.list


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_a_jpeg_reads_as_flat_as_it_was_drawn(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new("RGB", (24, 16), (90, 90, 90)).convert(mode).save(tmp_path / "a.jpg", quality=95)
    assert image_files.header(tmp_path / "a.jpg").channels == channels
    pixels = image_files.decode(tmp_path / "a.jpg")
    assert pixels.shape == (16, 24, channels)
    np.testing.assert_allclose(pixels, 90, atol=2)


def test_a_tiff_with_an_odd_tag_reads_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # away from pytest, which would catch what it logs
    monkeypatch.setattr(logging.getLogger("tifffile"), "propagate", False)
    content = tiff(RGB16).replace(struct.pack("<HH", 305, 2), struct.pack("<HH", 305, 99))
    assert content != tiff(RGB16)
    np.testing.assert_array_equal(
        image_files.decode(lay(tmp_path, {"a.tif": content}) / "a.tif"), RGB16
    )
    assert capfd.readouterr() == ("", "")


# A set of images


def test_a_set_of_unequal_sizes_and_classes_with_a_gap(tmp_path: Path) -> None:
    photographs = read(tmp_path, whole())
    assert photographs.train.name.tolist() == ["a.png", "b.png"]
    assert photographs.train.size.tolist() == [[5, 7], [7, 5]]
    assert photographs.train.size.dtype == np.int32
    assert (photographs.channels, photographs.dtype, photographs.classes) == (
        1,
        np.uint8,
        ["1", "2", "3"],
    )
    np.testing.assert_array_equal(photographs.train.read_image(1), GREY8.T[..., None])
    mask = photographs.train.read_mask(0)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, [LABELS == 1, LABELS == 2, LABELS == 3])
    np.testing.assert_array_equal(photographs.train.read_mask(1), np.zeros((3, 7, 5)))
    assert photographs.train.group is None
    assert photographs.test.name.tolist() == ["t.png"]
    assert photographs.test.read_mask is None
    assert photographs.notes == []


def test_names_stand_in_natural_order_and_each_image_keeps_its_mask(tmp_path: Path) -> None:
    content = {"test/images/t.png": png(GREY8)}
    for number in (10, 9, 1):
        content[f"train/images/scan{number}.PNG"] = png(np.full((2, 3), number, np.uint8))
        content[f"train/masks/scan{number}.png"] = png(np.full((2, 3), number, np.uint8))
    train = read(tmp_path, content).train
    assert train.name.tolist() == ["scan1.PNG", "scan9.PNG", "scan10.PNG"]
    for index, number in enumerate((1, 9, 10)):
        assert (train.read_image(index) == number).all()
        assert (train.read_mask(index)[number - 1] == 1).all()


def test_masks_of_0_and_255_alone_are_one_class_over_the_whole_set(tmp_path: Path) -> None:
    binary = (LABELS > 0) * np.uint8(255)
    train = read(tmp_path, whole(train__masks__a_dot_png=png(binary))).train
    np.testing.assert_array_equal(train.read_mask(0), [LABELS > 0])
    np.testing.assert_array_equal(train.read_mask(1), np.zeros((1, 7, 5)))
    lay(tmp_path, {"train/masks/b.png": png(LABELS.T)})
    with pytest.raises(
        UserError,
        match=r"a\.png holds the label 255: draw classes as 1 to at "
        r"most 64",
    ):
        folder.read(tmp_path, DATA)


MASKS = {
    "grey": png(LABELS),
    "16-bit grey": png(LABELS.astype(np.uint16)),
    "16-bit rgb": deep_png(np.repeat(LABELS.astype(np.uint16)[..., None], 3, 2)),
    "rgb with grey values": png(np.repeat(LABELS[..., None], 3, 2)),
}


@pytest.mark.parametrize("content", MASKS.values(), ids=MASKS.keys())
def test_labels_read_the_same_in_every_kind_of_png(tmp_path: Path, content: bytes) -> None:
    mask = read(tmp_path, whole(train__masks__a_dot_png=content)).train.read_mask(0)
    np.testing.assert_array_equal(mask, [LABELS == 1, LABELS == 2, LABELS == 3])


def test_one_deep_and_coloured_training_image_makes_the_whole_set_so(tmp_path: Path) -> None:
    photographs = read(tmp_path, whole(train__images__a_dot_png=deep_png(RGB16)))
    assert (photographs.channels, photographs.dtype) == (3, np.uint16)
    np.testing.assert_array_equal(photographs.train.read_image(0), RGB16)
    for shallow, grey in (
        (photographs.train.read_image(1), GREY8.T),
        (photographs.test.read_image(0), GREY8),
    ):
        assert shallow.dtype == np.uint16
        np.testing.assert_array_equal(shallow, np.repeat(grey.astype(int)[..., None] * 257, 3, 2))


def test_one_training_array_of_floats_makes_the_whole_set_so(tmp_path: Path) -> None:
    floats = RNG.normal(0, 9, (7, 5))
    content = whole(
        train__images__b_dot_png=None,
        train__images__b_dot_npy=npy(floats),
        test__images__t_dot_png=png(GREY16),
    )
    photographs = read(tmp_path, content)
    assert photographs.dtype == np.float32
    np.testing.assert_array_equal(
        photographs.train.read_image(1), floats.astype(np.float32)[..., None]
    )
    for image, expected in (
        (photographs.train.read_image(0), GREY8 / 255),
        (photographs.test.read_image(0), GREY16 / 65535),
    ):
        assert image.dtype == np.float32
        np.testing.assert_allclose(image[..., 0], expected, rtol=1e-6)


MORE_THAN_TRAINED_ON = {
    "colour": ({"t.png": png(RGB8)}, {}, "t.png has colour, .* have none: save it as grey"),
    "colour and depth": ({"t.png": deep_png(RGB16)}, {}, "t.png has colour"),
    "16 bit": ({"t.png": deep_png(GREY16)}, {}, "t.png has uint16 pixels, .* uint8: save it as"),
    "16 bit, of a TIFF": ({"t.png": png(GREY8), "u.tif": tiff(GREY16)}, {}, "u.tif has uint16"),
    "floats": ({"t.npy": npy(GREY8 / 7)}, {}, "t.npy has float32 pixels, .* uint8"),
    "floats beside 16 bit": (
        {"t.npy": npy(GREY8 / 7)},
        {"train/images/a.png": deep_png(GREY16)},
        "t.npy has float32 pixels, the training images uint16",
    ),
}


@pytest.mark.parametrize(
    ("test", "train", "said"), MORE_THAN_TRAINED_ON.values(), ids=MORE_THAN_TRAINED_ON.keys()
)
def test_a_test_image_that_holds_more_than_the_training_images_is_refused(
    tmp_path: Path, test: dict[str, bytes], train: dict[str, bytes], said: str
) -> None:
    """Else a single test image would change how all training images are read, and so every
    weight.
    """
    content = whole(test__images__t_dot_png=None) | train
    content |= {f"test/images/{name}": image for name, image in test.items()}
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value) and str(tmp_path / "test/images") in str(caught.value)


def test_a_test_image_that_holds_less_changes_nothing_of_the_training_images(
    tmp_path: Path,
) -> None:
    deep = {"train/images/a.png": deep_png(RGB16)}
    one = read(tmp_path / "one", whole() | deep)
    other = read(tmp_path / "other", whole(test__images__t_dot_png=deep_png(RGB16)) | deep)
    assert (one.channels, one.dtype) == (other.channels, other.dtype)
    for row in (0, 1):
        np.testing.assert_array_equal(one.train.read_image(row), other.train.read_image(row))


# Masks of a.png, 3 rows by 4 columns, and b.png, 2 by 2, worked out by hand: pixel 1 is the top
# left one, pixel 2 is below it.
DRAWN_A = [[[0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]]
CODE_1, CODE_2 = "2 4", "10 1"
CODED = {
    "by class": f"ImageId,ClassId,EncodedPixels\nb.png,1,\na.png,2,{CODE_2}\na.png,1,{CODE_1}\n",
    "without endings": f"ImageId,ClassId,EncodedPixels\na,2,{CODE_2}\na,1,{CODE_1}\n",
    "joined": f"ImageId_ClassId,EncodedPixels\na.png_2,{CODE_2}\na.png_1,{CODE_1}\nb_2,\n",
    "as a spreadsheet saves it": (
        f'\ufeffImageId,ClassId,EncodedPixels\r\n"a.png","1","{CODE_1}"\r\n'
        f'"a.png","2","{CODE_2}"\r\n'
    ),
}


def coded(text: str) -> dict[str, bytes | str]:
    sizes = {
        "train__images__a_dot_png": png(GREY8[:3, :4]),
        "train__images__b_dot_png": png(GREY8[:2, :2]),
    }
    return whole(
        **sizes,
        train__masks__a_dot_png=None,
        train__masks__b_dot_png=None,
        train__masks_dot_csv=text,
    )


@pytest.mark.parametrize("text", CODED.values(), ids=CODED.keys())
def test_run_lengths_run_down_the_columns_from_1(tmp_path: Path, text: str) -> None:
    photographs = read(tmp_path, coded(text))
    assert photographs.classes == ["1", "2"]
    np.testing.assert_array_equal(photographs.train.read_mask(0), DRAWN_A)
    np.testing.assert_array_equal(photographs.train.read_mask(1), np.zeros((2, 2, 2)))


def test_run_lengths_without_classes_are_one_class(tmp_path: Path) -> None:
    photographs = read(tmp_path, coded(f"ImageId,EncodedPixels\na.png,{CODE_1}\nb.png,2 1 4 1\n"))
    assert photographs.classes == ["1"]
    np.testing.assert_array_equal(photographs.train.read_mask(0), DRAWN_A[:1])
    np.testing.assert_array_equal(photographs.train.read_mask(1), [[[0, 0], [1, 1]]])


def test_a_class_that_is_listed_and_never_found_counts(tmp_path: Path) -> None:
    assert read(
        tmp_path, coded(f"ImageId,ClassId,EncodedPixels\na.png,1,{CODE_1}\na.png,4,\n")
    ).classes == ["1", "2", "3", "4"]


def test_a_code_longer_than_the_csv_readers_default_is_read(tmp_path: Path) -> None:
    stripes = np.zeros((400, 400), np.uint8)
    stripes[::2] = 1
    code = rle.encode(stripes[None], "column")[0]
    assert len(code) > 131072
    content = coded(f"ImageId,EncodedPixels\nb.png,{code}\n") | {"train/images/b.png": png(stripes)}
    np.testing.assert_array_equal(read(tmp_path, content).train.read_mask(1), stripes[None])


def test_a_table_larger_than_any_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LARGEST_CSV", 2 << 20)
    with pytest.raises(UserError, match=r"masks\.csv is larger than 2 MiB"):
        read(tmp_path, coded(BY_CLASS + "a.png,1,1 1\n" * (1 << 18)))


def test_groups_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    extra = {
        "train/images/c.png": png(GREY8),
        "train/masks/c.png": png(LABELS),
        "groups.csv": "name,group\nc,line 2\nb.png,a side\na,line 2\n",
    }
    group = read(tmp_path, whole() | extra).train.group
    assert group.dtype == np.int32
    assert group.tolist() == [1, 0, 1]


def test_files_are_those_that_are_read(tmp_path: Path) -> None:
    others = {
        "train/images/.hidden.png": b"",
        "train/images/Thumbs.db": b"",
        "train/images/old.bmp": b"",
        "test/masks/t.png": b"",
        "readme.txt": b"",
    }
    lay(
        tmp_path,
        whole() | others | {"groups.csv": "name,group\na,1\nb,1\n", "train/images/more/c.png": b""},
    )
    found = folder.files(tmp_path, DATA)
    assert set(found) == {"train", "test"}
    listed = {
        split: [str(path.relative_to(tmp_path)) for path in own] for split, own in found.items()
    }
    test = ["test/images/t.png"]
    assert listed["test"] == test
    assert sorted(listed["train"]) == sorted({*whole(), "groups.csv"} - {*test})
    assert folder.read(tmp_path, DATA).notes == [
        f"{tmp_path}/train/images: 2 other files ignored (.bmp, folders)"
    ]
    table = lay(tmp_path / "coded", coded(CODED["joined"]))
    assert table / "train" / "masks.csv" in folder.files(table, DATA)["train"]


def test_a_read_set_travels_to_another_process(tmp_path: Path) -> None:
    for content in (whole(), coded(CODED["by class"])):
        photographs = read(tmp_path / str(len(content)), content)
        again = pickle.loads(pickle.dumps(photographs))
        for index in (0, 1):
            np.testing.assert_array_equal(
                again.train.read_image(index), photographs.train.read_image(index)
            )
            np.testing.assert_array_equal(
                again.train.read_mask(index), photographs.train.read_mask(index)
            )


def test_images_are_not_decoded_before_they_are_asked_for(tmp_path: Path) -> None:
    photographs = read(tmp_path, whole(train__images__a_dot_png=png(GREY8)[:60]))
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        photographs.train.read_image(0)
    np.testing.assert_array_equal(photographs.train.read_image(1), GREY8.T[..., None])


# The submission


def test_a_submission_holds_a_row_for_each_image_and_class(tmp_path: Path) -> None:
    lay(tmp_path, whole(test__images__u10_dot_jpg=b"", test__images__u9_dot_tif=b""))
    names = ["t.png", "u9.tif", "u10.jpg"]
    folder.write_submission(
        tmp_path / "part.csv", tmp_path, names, [["2 4", ""], ["", ""], ["", "10 1 12 3"]]
    )
    assert (tmp_path / "part.csv").read_bytes() == (
        b"ImageId,ClassId,EncodedPixels\nt.png,1,2 "
        b"4\nt.png,2,\nu9.tif,1,\nu9.tif,2,\nu10.jpg,1,\nu10.jpg,2,10 1 12 3\n"
    )


def test_a_submission_keeps_commas_in_names(tmp_path: Path) -> None:
    lay(tmp_path, {'test/images/a,"b".png': b""})
    folder.write_submission(tmp_path / "part.csv", tmp_path, ['a,"b".png'], [["1 1"]])
    with open(tmp_path / "part.csv", newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"ImageId": 'a,"b".png', "ClassId": "1", "EncodedPixels": "1 1"}
        ]


@pytest.mark.parametrize("names", [["t"], ["t.png", "t.png"], ["t.png", "x.png"], []])
def test_a_submission_of_other_names_is_not_written(tmp_path: Path, names: list[str]) -> None:
    lay(tmp_path, whole())
    with pytest.raises(UserError, match="nothing was written"):
        folder.write_submission(tmp_path / "part.csv", tmp_path, names, [["1 1"]] * len(names))
    assert not (tmp_path / "part.csv").exists()


def test_a_submission_of_unequal_numbers_of_classes_is_not_written(tmp_path: Path) -> None:
    lay(tmp_path, whole(test__images__u_dot_png=b""))
    with pytest.raises(UserError, match="nothing was written"):
        folder.write_submission(
            tmp_path / "part.csv", tmp_path, ["t.png", "u.png"], [["1 1"], ["1 1", ""]]
        )


def test_a_submission_that_does_not_read_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, whole())
    read_csv = tables.read_csv
    monkeypatch.setattr(
        tables, "read_csv", lambda path, headers: (tables.BY_CLASS, read_csv(path, headers)[1][:-1])
    )
    with pytest.raises(UserError, match="does not read back"):
        folder.write_submission(tmp_path / "part.csv", tmp_path, ["t.png"], [["1 1", ""]])


# What is bad

IMAGE, MASK = "train__images__a_dot_png", "train__masks__a_dot_png"
HUGE = (
    image_files.PNG
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 10_001, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(bytes(99)))
)
HUGE_TIFF = tiff(GREY8).replace(
    struct.pack("<HHII", 256, 4, 1, 7), struct.pack("<HHII", 256, 4, 1, 40_000_001)
)
SOF = b"\xff\xc0\x00\x0b\x08"
BY_CLASS = "ImageId,ClassId,EncodedPixels\n"


def jpeg(height: int, width: int) -> bytes:
    """A grey JPEG whose header claims another size than it has."""
    content = io.BytesIO()
    Image.fromarray(GREY8).save(content, "JPEG")
    assert SOF + struct.pack(">HH", 5, 7) in content.getvalue()
    return content.getvalue().replace(
        SOF + struct.pack(">HH", 5, 7), SOF + struct.pack(">HH", height, width)
    )


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def white_first() -> bytes:
    image = Image.fromarray((LABELS == 0).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


BAD = {
    "no test images": (
        whole(test__images__t_dot_png=None),
        "test/images is missing",
        "put files there",
    ),
    "empty test images": (
        whole(test__images__t_dot_png=None, test__images___dot_x=""),
        "test/images holds no images",
        "put files there",
    ),
    "no training images": (
        whole(**{IMAGE: None}, train__images__b_dot_png=None),
        "train/images is missing",
        "put files there",
    ),
    "two images of one stem": (
        whole(train__images__a_dot_jpg=png(GREY8)),
        "a.jpg and a.png share the name a",
        "rename one",
    ),
    "two test images of one stem": (
        whole(test__images__t_dot_tif=png(GREY8)),
        "t.png and t.tif share",
        "rename one",
    ),
    "name with a line break": (
        whole() | {"test/images/t\n2.png": b""},
        "'t\\n2.png'",
        "give it a name of plain letters",
    ),
    "no masks": (
        whole(**{MASK: None}, train__masks__b_dot_png=None),
        "neither masks/ nor masks.csv",
        "put a PNG for every image",
    ),
    "masks of both kinds": (
        whole(train__masks_dot_csv=""),
        "holds both masks/ and masks.csv",
        "keep the one that counts",
    ),
    "image without mask": (whole(**{MASK: None}), "masks/a.png is missing", "an all-black one"),
    "mask without image": (
        whole(train__masks__c_dot_png=png(LABELS)),
        "masks/c.png belongs to no image",
        "take it away",
    ),
    "mask of another size": (
        whole(**{MASK: png(LABELS.T.copy())}),
        "masks/a.png is 7 x 5, but",
        "mend one",
    ),
    "mask in colour": (
        whole(**{MASK: png(RGB8)}),
        "masks/a.png holds colours",
        "save it as a grey PNG",
    ),
    "mask with white first": (
        whole(**{MASK: white_first()}),
        "masks/a.png: its palette paints label 0 white",
        "save it as grey",
    ),
    "mask with soft edges": (
        whole(**{MASK: png(GREY8)}),
        "masks/a.png holds the label",
        "0 and 255 only",
    ),
    "mask cut": (
        whole(**{MASK: png(LABELS)[:60]}),
        "masks/a.png: cannot be read",
        "put a whole copy there",
    ),
    "huge mask": (
        whole(**{MASK: HUGE}),
        "masks/a.png claims more than 100,000,000",
        "cut it into smaller",
    ),
    "no defects in masks": (
        whole(**{MASK: png(LABELS * 0)}),
        "no mask shows any defect",
        "check how the masks were saved",
    ),
    "image of nothing": (
        whole(**{IMAGE: b""}),
        "images/a.png is no PNG, JPEG, TIFF or NPY",
        "save it again",
    ),
    "web page": (
        whole(**{IMAGE: b"<html>" * 99}),
        "images/a.png is no PNG, JPEG, TIFF or NPY",
        "save it again",
    ),
    "PNG cut in its header": (
        whole(**{IMAGE: png(GREY8)[:20]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "PNG cut in its pixels": (
        whole(**{IMAGE: png(GREY8)[:60]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "PNG of an unknown kind": (
        whole(**{IMAGE: flipped(png(GREY8), 25)}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "16-bit PNG cut": (
        whole(**{IMAGE: deep_png(RGB16)[:150]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "16-bit PNG with a bit flipped": (
        whole(**{IMAGE: flipped(deep_png(RGB16), 90)}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "JPEG cut": (
        whole(**{IMAGE: jpeg(5, 7)[:-30]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "TIFF cut in its directory": (
        whole(**{IMAGE: tiff(RGB16)[:20]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "TIFF cut in its pixels": (
        whole(**{IMAGE: tiff(RGB16)[:-40]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "8-bit TIFF cut in its pixels": (
        whole(**{IMAGE: tiff(GREY8)[:-9]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "TIFF of floats": (
        whole(**{IMAGE: tiff(GREY8.astype(np.float32))}),
        "images/a.png holds pixels of 32 bit",
        "8 or 16 bit, or as NPY",
    ),
    "TIFF of pages": (
        whole(**{IMAGE: tiff(np.stack([GREY16] * 3), photometric="minisblack")}),
        "images/a.png holds 3 pages",
        "save each",
    ),
    "PNG without pixels": (
        whole(test__images__t_dot_png=HUGE.replace(struct.pack(">I", 20_000), bytes(4))),
        "t.png has no pixels",
        "take it away",
    ),
    "huge PNG": (
        whole(**{IMAGE: HUGE}),
        "images/a.png claims more than 100,000,000 pixels",
        "cut it into smaller",
    ),
    "huge JPEG": (
        whole(**{IMAGE: jpeg(20_000, 10_001)}),
        "images/a.png claims more than 100,000,000 pixels",
        "cut it into smaller",
    ),
    "monstrous JPEG": (
        whole(**{IMAGE: jpeg(65_000, 65_000)}),
        "images/a.png claims more than 100,000,000 pixels",
        "cut it into smaller",
    ),
    "NPY cut": (
        whole(**{IMAGE: npy(GREY8)[:-1]}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "NPY of nonsense": (
        whole(**{IMAGE: npy(GREY8).replace(b"{", b"[")}),
        "images/a.png: cannot be read",
        "put a whole copy there",
    ),
    "NPY of text": (
        whole(**{IMAGE: npy(np.array([["x"]]))}),
        "images/a.png holds an array (1, 1) of <U1",
        "save it as (H, W)",
    ),
    "NPY of long integers": (
        whole(**{IMAGE: npy(GREY8.astype(int))}),
        "of int64",
        "save it as (H, W)",
    ),
    "NPY of a line": (whole(**{IMAGE: npy(GREY8[0])}), "holds an array (7,)", "save it as (H, W)"),
    "NPY of planes": (
        whole(**{IMAGE: npy(RGB8.transpose(2, 0, 1))}),
        "holds an array (3, 5, 7)",
        "save it as (H, W)",
    ),
    "NPY without pixels": (whole(**{IMAGE: npy(GREY8[:0])}), "images/a.png", ""),
    "NPY with NaN": (
        whole(**{IMAGE: npy(np.where(GREY8 > 9, 1.0, np.nan))}),
        "images/a.png holds NaN or infinite",
        "replace them",
    ),
    "NPY with infinity": (
        whole(**{IMAGE: npy(np.where(GREY8 > 9, 1, np.float32(np.inf)))}),
        "images/a.png holds NaN or infinite",
        "replace them",
    ),
    "NPY of enormous values": (
        whole(**{IMAGE: npy(np.where(GREY8 > 9, 1.0, -1e9))}),
        "images/a.png holds NaN or infinite",
        "replace them",
    ),
    "NPY beyond float32": (
        whole(**{IMAGE: npy(GREY8 * 1e300)}),
        "images/a.png holds NaN or infinite",
        "replace them",
    ),
    "other columns": (
        coded("name,rle\na,1 1\n"),
        "masks.csv: the first line must be ImageId,ClassId,EncodedPixels",
        "or ImageId,EncodedPixels",
    ),
    "empty table": (coded(""), "masks.csv: the first line must be", ""),
    "table that is no text": (
        coded("x").copy() | {"train/masks.csv": b"\xff\xfe\x00"},
        "masks.csv: cannot be read",
        "CSV in UTF-8",
    ),
    "open quotes": (
        coded(BY_CLASS + '"a.png,1,1 1\n'),
        "masks.csv: cannot be read",
        "CSV in UTF-8",
    ),
    "short row": (
        coded(BY_CLASS + "a.png,1\n"),
        "masks.csv: line 2 has 2 values instead of 3",
        "mend that line",
    ),
    "row of no image": (
        coded(BY_CLASS + "z.png,1,1 1\n"),
        "masks.csv: z.png is no image",
        "take its row away",
    ),
    "class 0": (
        coded(BY_CLASS + "a.png,0,1 1\n"),
        "masks.csv: a.png has the class '0'",
        "from 1 to at most 64",
    ),
    "class of text": (
        coded("ImageId_ClassId,EncodedPixels\na.png,1 1\n"),
        "has the class 'a.png'",
        "from 1 to at most 64",
    ),
    "class 65": (coded(BY_CLASS + "a.png,65,1 1\n"), "has the class '65'", "from 1 to at most 64"),
    "image and class twice": (
        coded(BY_CLASS + "a.png,1,1 1\na,1,\n"),
        "masks.csv: a, class 1, stands in it twice",
        "join the runs",
    ),
    "no defects in codes": (
        coded(BY_CLASS + "a.png,1,\n"),
        "no row shows any defect",
        "check how the codes",
    ),
    "code of odd count": (
        coded(BY_CLASS + "a.png,1,1 2 3\n"),
        "masks.csv: a.png: run-length code with an odd count",
        "'start length'",
    ),
    "code that leaves the mask": (
        coded(BY_CLASS + "a.png,1,12 2\n"),
        "masks.csv: a.png: run-length code with runs that",
        "down the columns",
    ),
    "code of -1": (
        coded(BY_CLASS + "a.png,1,-1 1\n"),
        "masks.csv: a.png: run-length code with a word",
        "'start length'",
    ),
    "endless lines": (
        coded(BY_CLASS + "\n" * 1_000_001),
        "masks.csv has more than 1,000,000 lines",
        "put PNG masks",
    ),
    "group of no image": (
        whole(groups_dot_csv="name,group\nz,1\n"),
        "groups.csv: z is no image",
        "training images only",
    ),
    "group of a test image": (
        whole(groups_dot_csv="name,group\na,1\nb,1\nt,1\n"),
        "groups.csv: t is no image",
        "training images only",
    ),
    "image without group": (
        whole(groups_dot_csv="name,group\na,1\n"),
        "groups.csv: 1 training images have no group, first b.png",
        "list every one",
    ),
    "group of no name": (
        whole(groups_dot_csv="name,group\na,\n"),
        "groups.csv: a has no group",
        "write any name",
    ),
    "group twice": (
        whole(groups_dot_csv="name,group\na,1\na.png,1\n"),
        "groups.csv: a.png stands in it twice",
        "keep one row",
    ),
    "groups of other columns": (
        whole(groups_dot_csv="image,group\n"),
        "groups.csv: the first line must be name,group",
        "",
    ),
}


@pytest.mark.parametrize(("content", "names", "advice"), BAD.values(), ids=BAD.keys())
def test_what_is_bad_is_one_line_that_names_it_and_says_what_to_do(
    tmp_path: Path,
    content: dict[str, bytes | str],
    names: str,
    advice: str,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    with pytest.raises(UserError) as caught:
        train = read(tmp_path, content).train
        for index in range(len(train.name)):
            train.read_image(index)
            train.read_mask(index)
    message = str(caught.value)
    assert names in message
    assert advice in message
    assert "\n" not in message
    assert not [
        warning for warning in recwarn if warning.category is Image.DecompressionBombWarning
    ]
    assert capfd.readouterr() == ("", "")


def test_a_huge_tiff_is_refused_unread(tmp_path: Path) -> None:
    assert tiff(GREY8) != HUGE_TIFF
    with pytest.raises(UserError, match=r"a\.png claims more than 100,000,000 pixels"):
        read(tmp_path, whole(**{IMAGE: HUGE_TIFF}))


def test_a_link_that_leads_nowhere_is_told_about(tmp_path: Path) -> None:
    lay(tmp_path, whole())
    (tmp_path / "test" / "images" / "u.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"u\.png: cannot be read \(.*No such file"):
        folder.read(tmp_path, DATA)


@pytest.mark.parametrize("ask", [folder.files, folder.read])
def test_names_with_digits_that_are_no_numbers_are_sorted(tmp_path: Path, ask: Callable) -> None:
    others = {f"test/images/{name}.png": png(GREY8) for name in ("²1", "٣1", "1", "a²")}
    ask(lay(tmp_path, whole() | others), DATA)


def test_a_pipe_in_an_images_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    lay(tmp_path, whole())
    os.mkfifo(tmp_path / "test" / "images" / "u.png")
    with pytest.raises(UserError, match=r"u\.png is no plain file: put the image itself there"):
        folder.read(tmp_path, DATA)


def test_an_image_that_takes_more_memory_than_there_is_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*arguments: object, **options: object) -> None:
        raise MemoryError

    photographs = read(tmp_path, whole())
    monkeypatch.setattr(Image, "open", out_of_memory)
    with pytest.raises(
        UserError,
        match=r"a\.png takes more memory than there is: cut it into "
        r"smaller images",
    ):
        photographs.train.read_image(0)


@pytest.mark.filterwarnings("error")
def test_what_decoders_warn_of_is_not_printed(tmp_path: Path) -> None:
    image = Image.fromarray(GREY8)
    exif = image.getexif()
    exif[270] = "a description that is longer than four bytes"
    content = io.BytesIO()
    image.save(content, "TIFF", exif=exif)
    cut = content.getvalue().replace(
        struct.pack("<HHI", 270, 2, 45), struct.pack("<HHI", 270, 2, 9999)
    )
    assert cut != content.getvalue()
    np.testing.assert_array_equal(
        image_files.decode(lay(tmp_path, {"a.tif": cut}) / "a.tif")[..., 0], GREY8
    )


class CreatesFolder:
    """Unpickling this creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_an_array_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = npy(np.array([[CreatesFolder(trap)]], object))
    np.load(io.BytesIO(content), allow_pickle=True)
    assert trap.exists()
    trap.rmdir()
    for harmful in (content, pickle.dumps(CreatesFolder(trap))):
        with pytest.raises(UserError, match=r"a\.png"):
            read(tmp_path / "raw", whole(**{IMAGE: harmful}))
    assert not trap.exists()


@pytest.mark.parametrize("ask", [folder.read, folder.files])
def test_a_recipe_without_a_folder_is_told_which_line_to_add(tmp_path: Path, ask: Callable) -> None:
    with pytest.raises(UserError, match=r'add folder = "my_images" under \[data\]'):
        ask(lay(tmp_path, whole()), Data())
    with pytest.raises(UserError, match=r"elsewhere is missing: put train/images/"):
        ask(tmp_path / "elsewhere", DATA)


# The recipe


def test_the_template_loads_with_and_without_its_image_classifier(tmp_path: Path) -> None:
    template = REPOSITORY / "recipes" / "my_images.toml"
    chosen = recipe.load("my_images")
    assert get(chosen.competition) is folder.COMPETITION
    assert [member.role for member in chosen.members] == ["segment"]
    text = template.read_text()
    assert text.count("<-- yours:") == 3
    head, tail = text.split('remove the "# " of the lines below.\n')
    commented, rest = tail.split("\n\n", 1)
    uncommented = "\n".join(line[2:] for line in commented.splitlines())
    (tmp_path / "two_stage.toml").write_text(f"{head}\n{uncommented}\n\n{rest}")
    assert [member.role for member in recipe.load(str(tmp_path / "two_stage.toml")).members] == [
        "segment",
        "classify",
    ]
