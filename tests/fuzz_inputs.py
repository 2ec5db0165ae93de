"""Small whole raw inputs of every competition, which the fuzzer then damages."""

import csv
import gzip
import io
import shutil
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from src import networks, recipe
from src.artifacts import sealed
from src.artifacts.digests import digest_files
from src.artifacts.model_folder import files_of, weights_within
from src.cli import magnetic_tile

PIXELS = 36 * 36
RNG = np.random.default_rng(0)
MEMBER = (
    '\n[[member]]\nname = "a"\nnetwork = { name = "ring_unet" }\n[[member.phase]]\nepochs = 1\n'
)
TWO_FOLDS = "\n[folds]\ncount = 2\n"


@dataclass(frozen=True)
class Input:
    """A form in which a competition's files come: `write` fills a folder, `recipe` prepares it;
    or, without a recipe, `module` reads it: the converter of magnetic tiles, or apply.
    """

    name: str
    write: Callable[[Path], None]
    recipe: str | None
    raw: str  # the folder's name in data/raw
    module: str = "src.cli.magnetic_tile"


def smooth(shape: tuple[int, ...], dtype: type = np.uint8, largest: int = 255) -> np.ndarray:
    """Blobs of noise, different at every call: no two look alike."""
    coarse = RNG.integers(0, largest + 1, (-(-shape[0] // 8), -(-shape[1] // 8), *shape[2:]))
    return np.kron(coarse, np.ones((8, 8, *(1,) * (len(shape) - 2)), int))[
        : shape[0], : shape[1]
    ].astype(dtype)


def packed(pixels: np.ndarray, form: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **options)
    return content.getvalue()


def npy(array: np.ndarray, **options: object) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(
        content, array, photometric="rgb" if array.ndim == 3 else "minisblack", **options
    )
    return content.getvalue()


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def as_zip(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, inside in files.items():
            archive.writestr(name, inside)
    return content.getvalue()


def as_csv(rows: list[tuple]) -> bytes:
    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\n").writerows(rows)
    return content.getvalue().encode()


# CorroSeg: wells 1, 2 and 10, and test well 3


def patches(wells: dict[int, int]) -> dict[str, np.ndarray]:
    names = [
        f"well_{well}_patch_{number}" for well, count in wells.items() for number in range(count)
    ]
    return {name: RNG.normal(0, 0.02, (36, 36)).astype(np.float32) for name in names}


def patch_csv(images: dict[str, np.ndarray]) -> bytes:
    return as_csv(
        [("", *range(PIXELS)), *((name, *image.ravel().tolist()) for name, image in images.items())]
    )


def corroseg(folder: Path, form: str) -> None:
    train, test = patches({1: 3, 2: 6, 10: 2}), patches({3: 4})
    train["well_2_patch_3"][4, 5:9] = -999.25
    masks = patch_csv({name: (image < -0.02).astype(np.uint8) for name, image in train.items()})
    if form == "csv":
        packed_masks = as_zip({"y_train.csv": masks})
        lay(
            folder,
            {
                "X_train.csv": patch_csv(train),
                "X_test.csv.gz": gzip.compress(patch_csv(test)),
                "y_train.csv.zip": packed_masks,
            },
        )
        return
    for split, images in (("X_train", train), ("X_test", test)):
        files = {f"{split}/{name}.npy": npy(image) for name, image in images.items()}
        lay(folder, files if form == "folder" else {f"{split}.zip": as_zip(files)})
    lay(
        folder,
        {"y_train.csv.gz": gzip.compress(masks)} if form == "folder" else {"y_train.csv": masks},
    )


# Severstal: three training and two test photographs


def severstal(folder: Path, zipped: bool) -> None:
    images = {
        split: {f"{name}.jpg": packed(smooth((256, 1600)), "JPEG") for name in names}
        for split, names in (
            ("train_images", ("0aa", "1bb", "2cc")),
            ("test_images", ("3dd", "4ee")),
        )
    }
    codes = {("0aa.jpg", 1): "1 3 257 2", ("0aa.jpg", 3): "2 1", ("1bb.jpg", 4): "409599 2"}
    classes = (1, 2, 3, 4)
    for split, files in images.items():
        lay(
            folder,
            {f"{split}.zip": as_zip(files)}
            if zipped
            else {f"{split}/{name}": content for name, content in files.items()},
        )
    if zipped:
        train = [
            ("ImageId", "ClassId", "EncodedPixels"),
            *((name, label, code) for (name, label), code in codes.items()),
        ]
        sample = [
            ("ImageId", "EncodedPixels", "ClassId"),
            *((name, "1 409600", 0) for name in images["test_images"]),
        ]
    else:
        header = ("ImageId_ClassId", "EncodedPixels")
        train = [
            header,
            *(
                (f"{name}_{label}", codes.get((name, label), ""))
                for name in images["train_images"]
                for label in classes
            ),
        ]
        sample = [
            header,
            *((f"{name}_{label}", "1 1") for name in images["test_images"] for label in classes),
        ]
    lay(folder, {"train.csv": as_csv(train), "sample_submission.csv": as_csv(sample)})


# Images of one's own


def folder_drawn(folder: Path) -> None:
    labels = smooth((24, 40), largest=3)
    lay(
        folder,
        {
            "train/images/a.png": packed(smooth((24, 40)), "PNG"),
            "train/masks/a.png": packed(labels, "PNG"),
            "train/images/b.jpg": packed(smooth((24, 40, 3)), "JPEG"),
            "train/masks/b.png": packed(labels // 2, "PNG"),
            "train/images/c10.tif": tiff(smooth((32, 24), np.uint16, 65535)),
            "train/masks/c10.png": packed(smooth((32, 24), largest=3), "PNG"),
            "test/images/t.png": packed(smooth((24, 40), np.uint16, 65535), "PNG"),
            "test/images/u.tif": tiff(smooth((16, 16, 3), np.uint16, 65535), compression="deflate"),
        },
    )


def folder_coded(folder: Path) -> None:
    masks = [
        ("ImageId", "ClassId", "EncodedPixels"),
        ("a.npy", 1, "1 30 49 7"),
        ("b", 2, "900 61"),
        ("c.png", 1, ""),
    ]
    lay(
        folder,
        {
            "train/images/a.npy": npy(smooth((24, 40)) / 7),
            "train/images/b.npy": npy(np.asfortranarray(smooth((24, 40, 3), np.float32))),
            "train/images/c.png": packed(smooth((24, 40)), "PNG"),
            "test/images/t.npy": npy(smooth((8, 9)).astype(np.uint16)),
            "train/masks.csv": as_csv(masks),
            "groups.csv": as_csv(
                [("name", "group"), ("a", "left"), ("b.npy", "right"), ("c", "left")]
            ),
        },
    )


# NEA, SSCS, magnetic tiles


def nea(folder: Path, form: str) -> None:
    ending, classes = {"JPEG": ("jpg", 1), "PNG": ("png", 2)}[form]
    rows = [("frame_index", "file")]
    for part, numbers in (("train", (2, 9, 30)), ("valid", (55,)), ("test", (11, 40))):
        for number in numbers:
            stem, labels = (
                f"{number}_{7 * number}_jpg.rf.{number:04x}",
                smooth((24, 40), largest=classes),
            )
            mask = packed(
                np.dstack([labels] * 3) if form == "JPEG" else labels,
                form,
                **({"quality": 95} if form == "JPEG" else {}),
            )
            image = packed(smooth((24, 40, 3)), "JPEG")
            lay(folder, {f"{part}/images/{stem}.jpg": image, f"{part}/masks/{stem}.{ending}": mask})
            rows.append((number, f"{stem}.jpg"))
    if form == "PNG":
        lay(folder, {"frames.csv": as_csv(rows)})


def sscs(folder: Path) -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]], np.uint8)
    for part, count in (("Train", 3), ("Test", 2)):
        for number in range(count):
            mask = packed(colours[smooth((24, 40), largest=3)], "PNG")
            lay(
                folder,
                {
                    f"{part}/Images/{number}.jpeg": packed(smooth((24, 40, 3)), "JPEG"),
                    f"{part}/Masks/{number}.png": mask,
                },
            )


def tiles(folder: Path) -> None:
    for place, kind in enumerate(("Free", *magnetic_tile.CLASSES)):
        stem = f"MT_{kind}/Imgs/exp1_num_{1000 * place}"
        mask = packed((smooth((24, 40)) > 128) * np.uint8(255), "PNG")
        lay(folder, {f"{stem}.jpg": packed(smooth((24, 40)), "JPEG"), f"{stem}.png": mask})


# Model folders: a network that was never trained


def model(folder: Path, zipped: bool) -> None:
    chosen = recipe.parse(tomllib.loads('name = "tiny"\n' + _recipe("corroseg")), "the fuzzer")
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    network = networks.create(chosen.members[0].network).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in network.items()}
    arrays |= {"scaling.center": np.float32(0), "scaling.scale": np.float32(0.02)}
    for task in chosen.tasks():
        sealed.write_weights(folder / weights_within(task), arrays, {"task": str(task)})
    (folder / "recipe.toml").write_text(recipe.to_toml(chosen, "wells"))
    (folder / "card.md").write_text("# tiny\n")
    half = {"threshold": 0.5, "beta": None, "min_size": 0, "hmm": None, "min_in_patch": 0}
    content = {
        "recipe": "tiny",
        "competition": "corroseg",
        "kind": "wells",
        "metric": "mean patch IoU",
        "oof_score": 0.5,
        "commit": "none",
        "training": {
            "center": 0.0,
            "scale": 0.02,
            "classes": ["corrosion"],
            "shape": [36, 36],
            "dtype": "float32",
        },
        "decisions": {"contiguous": half, "interleaved": half},
        "familiar": {
            "median thickness": [-1.0, 1.0],
            "spread of thickness": [0.5, 2.0],
            "step between neighbours": [0.1, 2.0],
            "share not measured": [0.0, 0.1],
        },
    }
    files = {name: digest_files([folder / name]) for name in sorted(files_of(chosen))}
    sealed.write_json(folder / "decisions.json", {**content, "files": files}, {"train": "0"})
    if zipped:
        whole = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}
        shutil.rmtree(folder)
        lay(folder, {"model.zip": as_zip(whole)})


def _recipe(competition: str, more: str = TWO_FOLDS) -> str:
    return f'competition = "{competition}"\n{more}{MEMBER}'


BLOCKS = '\n[folds]\nscheme = "blocks"\ncount = 2\n'
MINE = '\n[data]\nfolder = "mine"\n' + TWO_FOLDS
INPUTS = [
    Input("corroseg zip", lambda folder: corroseg(folder, "zip"), _recipe("corroseg"), "corroseg"),
    Input(
        "corroseg folder",
        lambda folder: corroseg(folder, "folder"),
        _recipe("corroseg"),
        "corroseg",
    ),
    Input("corroseg csv", lambda folder: corroseg(folder, "csv"), _recipe("corroseg"), "corroseg"),
    Input(
        "severstal zip", lambda folder: severstal(folder, True), _recipe("severstal"), "severstal"
    ),
    Input(
        "severstal folder",
        lambda folder: severstal(folder, False),
        _recipe("severstal"),
        "severstal",
    ),
    Input("folder, masks drawn", folder_drawn, _recipe("folder", MINE), "mine"),
    Input("folder, masks coded", folder_coded, _recipe("folder", MINE), "mine"),
    Input("nea JPEG", lambda folder: nea(folder, "JPEG"), _recipe("nea", BLOCKS), "nea"),
    Input("nea PNG", lambda folder: nea(folder, "PNG"), _recipe("nea", BLOCKS), "nea"),
    Input("sscs", sscs, _recipe("sscs"), "sscs"),
    Input("magnetic tiles", tiles, None, "tiles"),
    Input("model folder", lambda folder: model(folder, False), None, "model", "src.cli.apply"),
    Input("model zip", lambda folder: model(folder, True), None, "model", "src.cli.apply"),
]
