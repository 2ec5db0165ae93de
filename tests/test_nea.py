"""NEA's frames and masks: hand-drawn ones, JPEGs packed like the real ones, and the real files;
what is wrong with bad ones.
"""

import csv
import io
import tomllib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from src import competitions, recipe
from src.competitions import Raw, nea
from src.modality import open_run
from src.recipe import Data
from src.scoring import folds
from src.terminal.errors import UserError

HEIGHT, WIDTH = 24, 40
TRAIN, TEST = [30, 2, 9, 11, 100], [10, 31]  # frame numbers, as their files are written


def frame_name(number: int) -> str:
    return f"{number}_{7 * number}_jpg.rf.{number:04x}.jpg"


def labels_of(number: int) -> np.ndarray:
    """Two blocks of label 1 in the left half and one of label 2 in the right, placed by the
    frame's number.
    """
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[number % 8 : number % 8 + 9, 1:9] = 1
    labels[2 : 4 + number % 5, 14:18] = 1
    labels[5:15, 24 + number % 6 : 36] = 2
    return labels


def packed(pixels: np.ndarray, form: str = "JPEG", **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **options)
    return content.getvalue()


def jpeg_mask(labels: np.ndarray) -> bytes:
    return packed(np.dstack([labels] * 3), quality=95)


def write_raw(
    folder: Path, png: bool = False, train: list[int] = TRAIN, test: list[int] = TEST
) -> Path:
    for split, numbers in (("train", train), ("test", test)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in numbers:
            name, labels = Path(frame_name(number)), labels_of(number)
            (folder / split / "images" / name).write_bytes(
                packed(np.full((HEIGHT, WIDTH, 3), 2 * number, np.uint8))
            )
            content = packed(labels, "PNG") if png else jpeg_mask(np.minimum(labels, 1))
            (folder / split / "masks" / name.with_suffix(".png" if png else ".jpg")).write_bytes(
                content
            )
    return folder


def read(folder: Path) -> Raw:
    return nea.read(folder, Data())


# What is good


def test_the_competition_is_known_by_its_name() -> None:
    assert competitions.get("nea") is nea.COMPETITION


def test_frames_stand_in_the_order_of_the_video_with_their_own_images_and_masks(
    tmp_path: Path,
) -> None:
    raw = read(write_raw(tmp_path, png=True))
    assert (raw.classes, raw.channels, raw.dtype) == (["1", "2"], 3, np.uint8)
    for split, numbers in ((raw.train, sorted(TRAIN)), (raw.test, sorted(TEST))):
        assert split.name.tolist() == [frame_name(number) for number in numbers]
        assert split.frame.tolist() == numbers
        assert split.frame.dtype == np.int32
        assert split.size.tolist() == [[HEIGHT, WIDTH]] * len(numbers)
        for row, number in enumerate(numbers):
            assert (split.read_image(row) == 2 * number).all()
            assert split.read_image(row).shape == (HEIGHT, WIDTH, 3)
            mask = split.read_mask(row)
            assert mask.dtype == np.uint8
            for k in (0, 1):
                np.testing.assert_array_equal(mask[k], labels_of(number) == k + 1)
    assert "out of fold" in raw.notes[0]


def test_a_jpeg_mask_is_corrosion_wherever_it_is_not_zero(tmp_path: Path) -> None:
    """Pillow's decoder, pixel by pixel, is the oracle; the outlines that were drawn come back
    but for a few pixels beside them.
    """
    raw = read(write_raw(tmp_path))
    assert raw.classes == ["corrosion"]
    for row, number in enumerate(sorted(TRAIN)):
        mask = raw.train.read_mask(row)
        stored = np.array(Image.open(tmp_path / "train/masks" / frame_name(number)))
        expected = [
            [int(any(channel > 0 for channel in pixel)) for pixel in line]
            for line in stored.tolist()
        ]
        assert mask.tolist() == [expected]
        assert (mask[0] != (labels_of(number) > 0)).mean() < 0.04  # small blocks are mostly outline


def test_a_frame_without_corrosion_is_empty(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    (folder / "train/masks" / frame_name(2)).write_bytes(
        jpeg_mask(np.zeros((HEIGHT, WIDTH), np.uint8))
    )
    assert not read(folder).train.read_mask(0).any()


def test_frames_of_valid_are_trained_on(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    write_raw(tmp_path / "more", train=[5], test=[])
    (tmp_path / "more/train").rename(folder / "valid")
    raw = read(folder)
    assert raw.train.frame.tolist() == [2, 5, 9, 11, 30, 100]
    assert (raw.train.read_image(1) == 10).all()
    assert raw.test.frame.tolist() == sorted(TEST)
    own = {folder / "valid" / kind / frame_name(5) for kind in ("images", "masks")}
    listed = nea.files(folder, Data())
    assert own <= set(listed["train"]) and not own & set(listed["test"])


@pytest.mark.parametrize("header", ["frame_index,file", "frame_index,frame_number,repo_split,file"])
def test_frames_csv_goes_before_the_names(tmp_path: Path, header: str) -> None:
    folder = write_raw(tmp_path)
    middle = ",7,train," if "repo" in header else ","
    rows = [f"{1000 - number}{middle}{frame_name(number)}" for number in TRAIN + TEST]
    (folder / "frames.csv").write_text(
        "\n".join([header, *rows, f"5{middle}of_another_subset.jpg", ""])
    )
    raw = read(folder)
    assert raw.train.frame.tolist() == sorted(1000 - number for number in TRAIN)
    assert (raw.train.read_image(0) == 200).all()
    for paths in nea.files(folder, Data()).values():
        assert paths.count(folder / "frames.csv") == 1


def test_every_file_is_listed_under_its_split(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    listed = nea.files(folder, Data())
    assert set(listed) == {"train", "test"}
    for split, paths in listed.items():
        assert sorted(paths) == sorted(
            path for path in (folder / split).rglob("*") if path.is_file()
        )


def test_the_submission_has_a_row_for_each_class_of_each_test_frame(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw", png=True)
    names = [frame_name(number) for number in TEST]
    nea.write_submission(tmp_path / "out.csv", folder, names, [["1 2", ""], ["", "7 1"]])
    lines = [f"{names[0]},1,1 2", f"{names[0]},2,", f"{names[1]},1,", f"{names[1]},2,7 1"]
    assert (tmp_path / "out.csv").read_text() == "\n".join(
        ["ImageId,ClassId,EncodedPixels", *lines, ""]
    )
    with pytest.raises(UserError, match="not every one of the 2 test images"):
        nea.write_submission(tmp_path / "out.csv", folder, names[:1], [["1 2", ""]])


# What is bad


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def put(path: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    return change


NAME = frame_name(9)
MASK, PIXELS = f"train/masks/{NAME}", np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
HUGE = packed(PIXELS, "PNG").replace(
    bytes([0, 0, 0, WIDTH, 0, 0, 0, HEIGHT]), bytes([0, 9, 0, 0, 0, 9, 0, 0])
)
BAD = {
    "no mask": (remove(MASK), "is missing: .* needs a mask"),
    "a mask of no image": (remove(f"train/images/{NAME}"), "belongs to no image"),
    "a cut file": (put(MASK, jpeg_mask(labels_of(9))[:60]), "cannot be read"),
    "a text": (put(MASK, b"not an image at all"), "is no PNG, JPEG"),
    "a pointer": (
        put(MASK, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "git lfs pull",
    ),
    "another size": (
        put(MASK, jpeg_mask(np.zeros((HEIGHT, 8), np.uint8))),
        "is 24 x 8, but .* 24 x 40",
    ),
    "a picture": (put(MASK, packed(PIXELS)), "holds the value 90 in row 0, column 0"),
    "regions of two classes": (put(MASK, jpeg_mask(labels_of(9))), "whole regions of class 2"),
    "a huge image": (put(f"train/images/{NAME}", HUGE), "claims more than"),
    "16 bit": (
        put(f"train/images/{NAME}", packed(np.zeros((HEIGHT, WIDTH), np.uint16), "PNG")),
        "uint16 pixels",
    ),
    "both forms of masks": (
        put("train/masks/9_9.png", packed(labels_of(9), "PNG")),
        "both as JPEG and as PNG",
    ),
    "a name without number": (
        lambda folder: [
            (folder / "train" / kind / NAME).rename(folder / "train" / kind / "x_9.jpg")
            for kind in ("images", "masks")
        ],
        "x_9.jpg does not begin with the number of its frame",
    ),
    "one frame in both splits": (
        lambda folder: [
            put(f"test/{kind}/{NAME}", (folder / f"train/{kind}/{NAME}").read_bytes())(folder)
            for kind in ("images", "masks")
        ],
        "are one frame",
    ),
    "no test folder": (lambda folder: (folder / "test").rename(folder / "tset"), "test is missing"),
    "frames.csv lacks a frame": (put("frames.csv", b"frame_index,file\n1,a.jpg\n"), "has no row"),
    "frames.csv names a frame twice": (
        put("frames.csv", f"frame_index,file\n1,{NAME}\n2,{NAME}\n".encode()),
        "stands in it twice",
    ),
    "frames.csv holds no number": (
        put("frames.csv", f"frame_index,file\n-1,{NAME}\n".encode()),
        "frame_index '-1'",
    ),
    "frames.csv of another kind": (put("frames.csv", b"a,b\n"), "the first line must be"),
}


@pytest.mark.parametrize(("change", "problem"), BAD.values(), ids=BAD.keys())
def test_what_is_bad_is_told_in_one_line(
    tmp_path: Path, change: Callable[[Path], object], problem: str
) -> None:
    folder = write_raw(tmp_path)
    change(folder)
    with pytest.raises(UserError, match=problem) as caught:
        raw = read(folder)
        for row in range(len(raw.train.name)):
            raw.train.read_mask(row)
    assert "\n" not in str(caught.value)


def test_a_third_class_in_a_png_is_refused(tmp_path: Path) -> None:
    folder = write_raw(tmp_path, png=True)
    labels = labels_of(2)
    labels[3, 7] = 3
    (folder / "train/masks" / frame_name(2)).with_suffix(".png").write_bytes(packed(labels, "PNG"))
    with pytest.raises(UserError, match="holds the value 3 in row 3, column 7"):
        read(folder).train.read_mask(0)


# Folds

SMALL = """
competition = "nea"
[folds]
{folds}
[[member]]
name = "net"
network = {{ name = "fpn", encoder = "resnet18" }}
[[member.phase]]
epochs = 1
"""


def prepare(folder: Path, folds: str, *overrides: str) -> tuple[dict[str, np.ndarray], str]:
    """The small arrays of a prepared training set of frames 1, 3, 5 ... 59 but 31, and what was
    printed.
    """
    (folder / "small.toml").write_text(SMALL.format(folds=folds))
    chosen = recipe.load(str(folder / "small.toml"), list(overrides))
    run = open_run(chosen, folder / "data", folder / "submissions")
    write_raw(run.raw, train=[*range(1, 31, 2), *range(33, 61, 2)], test=[31])
    notes = list(run.modality.prepare(run, ["train", "test"]))
    with h5py.File(run.prepared("train")) as file:
        arrays = {name: file[name][:] for name in ("name", "frame", "group", "fold", "excluded")}
    return arrays, "\n".join(notes)


def test_stretches_of_the_video_are_folds_and_frames_near_a_border_are_left_out(
    tmp_path: Path,
) -> None:
    arrays, notes = prepare(tmp_path, 'scheme = "blocks"\ncount = 3\ngap = 4')
    frame, fold = arrays["frame"].tolist(), arrays["fold"].tolist()
    # 29 frames, of which blocks have 10, 10 and 9
    assert frame == [*range(1, 31, 2), *range(33, 61, 2)]
    block = [0] * 10 + [1] * 10 + [2] * 9
    # borders lie between 19 and 21, and between 41 and 43
    near = [abs(own - 20) <= 4 or abs(own - 42) <= 4 for own in frame]
    assert fold == [-1 if near[i] else block[i] for i in range(29)]
    assert arrays["group"].tolist() == block
    assert [text.decode() for text in arrays["excluded"]] == [
        "at most 4 frames from a border between folds" if own else "" for own in near
    ]
    assert (
        f"{sum(near)} training photographs are in no fold: at most 4 frames from a border "
        "between folds"
    ) in notes


def test_the_order_of_the_video_survives_taking_fewer_photographs(tmp_path: Path) -> None:
    arrays, _ = prepare(tmp_path, 'scheme = "blocks"\ncount = 2', "data.patches=8")
    assert len(arrays["frame"]) == 8
    assert [name.decode() for name in arrays["name"]] == [
        frame_name(number) for number in arrays["frame"]
    ]
    assert arrays["fold"].tolist() == [0] * 4 + [1] * 4


def test_groups_do_not_divide_a_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='set scheme = "blocks"'):
        prepare(tmp_path, "count = 3")


def test_the_study_splits_at_random(tmp_path: Path) -> None:
    fold = prepare(tmp_path, 'scheme = "random"\ncount = 5')[0]["fold"]
    assert np.bincount(fold).tolist() == [6, 6, 6, 6, 5]
    assert (np.diff(fold.astype(int)) != 0).sum() > 10


@pytest.mark.parametrize("name", ["nea", "sscs"])
def test_the_recipe_reads_and_its_paper_variant_too(name: str) -> None:
    plain = recipe.load(name)
    assert recipe.parse(tomllib.loads(recipe.to_toml(plain, "photographs")), name) == plain
    assert (plain.members[0].network["encoder"], plain.members[0].batch_size) == ("resnet101", 4)
    if name == "nea":
        assert (plain.folds.scheme, plain.folds.gap) == ("blocks", 10)
        recipe.load(name, ["folds.scheme=random", "folds.gap=0", "prepared=nea_random"])


# The real files


def test_real_frames_are_one_video_and_their_masks_one_class(nea_folder: Path) -> None:
    raw = read(nea_folder)
    with open(nea_folder / "frames.csv") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert raw.classes == ["corrosion"]
    assert len(raw.train.name) + len(raw.test.name) == len(rows) == 146
    for split, name in ((raw.train, "train"), (raw.test, "test")):
        assert (np.diff(split.frame) > 0).all()
        for file, frame in zip(split.name, split.frame, strict=True):
            assert (
                (rows[file]["repo_split"], int(rows[file]["frame_index"]))
                == (name, frame)
                == (name, int(file.split("_")[0]))
            )
    shares = []
    for row in range(0, len(raw.train.name), 15):
        values = np.array(Image.open(nea_folder / "train/masks" / raw.train.name[row]))
        assert values.max() <= 2
        assert (values == values[..., :1]).all()
        np.testing.assert_array_equal(raw.train.read_mask(row)[0], values.any(2))
        shares.append(raw.train.read_mask(row).mean())
    assert raw.train.read_image(0).shape == (720, 1280, 3)
    assert 0.15 < np.mean(shares) < 0.3


def test_the_twos_of_real_masks_are_what_the_jpeg_makes_of_ones(nea_folder: Path) -> None:
    """A clean mask of 0 and 1 packed with a real mask's tables overshoots as often; a mask that
    has regions of 2 is told apart.
    """
    raw = read(nea_folder)
    path = nea_folder / "train/masks" / raw.train.name[60]
    tables, values = Image.open(path).quantization, np.array(Image.open(path))[..., 0]
    ones = (values > 0).astype(np.uint8)
    again = np.array(Image.open(io.BytesIO(packed(np.dstack([ones] * 3), qtables=tables))))[..., 0]
    share = [(own == 2).sum() / (own > 0).sum() for own in (values, again)]
    assert 0.2 < share[0] / share[1] < 5
    assert max(share) < nea.MOST_OVERSHOOT / 10


def test_real_folds_are_far_apart(nea_folder: Path) -> None:
    raw, settings = read(nea_folder), recipe.load("nea").folds
    fold, _ = folds.assign(
        np.zeros(135, int), np.ones((135, 1), bool), np.ones(135, bool), settings, raw.train.frame
    )
    assert np.bincount(fold + 1).tolist() == [37, 22, 17, 18, 19, 22]
    kept = np.flatnonzero(fold >= 0)
    apart = np.abs(raw.train.frame[kept][:, None] - raw.train.frame[kept])
    assert apart[fold[kept][:, None] != fold[kept]].min() > 2 * settings.gap
