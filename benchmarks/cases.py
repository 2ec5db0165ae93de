"""Parts of the pipeline without networks, beside what is usually written instead, in turns, in one
process.
"""

import gzip
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks import plain
from benchmarks.timing import Comparison, compare
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions.formats import rle
from src.photographs import decoding
from src.recipe import Recipe
from src.wells import blocks
from src.wells.postprocess import refinement


@dataclass(frozen=True)
class Bench:
    """Where it works, on what, and how much of it."""

    run: Run
    quick: bool

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @property
    def repeats(self) -> int:
        return 2 if self.quick else 5

    def train(self) -> Arrays:
        return self.some(blocks.read_split(self.run, "train"))

    def some(self, arrays: Arrays) -> Arrays:
        """Whole wells; a quick benchmark has the smaller ones."""
        wells, patches = np.unique(arrays["group"], return_counts=True)
        few = wells[patches <= np.median(patches)]
        return blocks.rows_of(arrays, np.isin(arrays["group"], few)) if self.quick else arrays


def prepare(bench: Bench) -> list[Comparison]:
    """The whole of stage 00's work, in this process; the baseline's .npy files are unpacked
    before.
    """
    folder, unpacked = bench.run.raw, bench.run.data / "unpacked"
    for split in ("train", "test"):
        for archive in folder.glob(f"X_{split}*.zip"):
            with zipfile.ZipFile(archive) as opened:
                for info in opened.infolist():
                    if info.filename.endswith(".npy") and "__MACOSX" not in info.filename:
                        target = unpacked / split / Path(info.filename).name
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(opened.read(info))
    masks = next(folder.glob("y_train*"))
    patches = sum(1 for _ in unpacked.glob("*/*.npy"))
    if masks.suffix == ".gz":
        (unpacked / "masks.csv").write_bytes(gzip.decompress(masks.read_bytes()))
        masks = unpacked / "masks.csv"
    return [
        compare(
            "preparation: read, checked, repaired, located, in folds, scaled, written",
            "loop over unpacked .npy, masks by pandas, per-pixel scaling; nothing else, nothing "
            "written",
            patches,
            "patches",
            lambda: list(bench.run.modality.prepare(bench.run, ["train", "test"])),
            lambda: plain.prepare(unpacked / "train", unpacked / "test", masks),
            bench.repeats,
        )
    ]


def walker(bench: Bench) -> list[Comparison]:
    """Probabilities of training patches made up from their masks: about a fifth of the pixels is
    left to the walker.
    """
    train = bench.train()
    rows = np.flatnonzero(
        (train["group"] == train["group"][train["mask"].any((1, 2))][0]) & (train["parity"] == 0)
    )[:100]
    images, p = (
        train["image"][rows].astype(np.float64),
        made_up(train["mask"][rows], 0).astype(np.float64),
    )
    limits = {"above": 0.9, "below": 0.1}

    def strip() -> np.ndarray:
        return refinement.random_walker(images.reshape(-1, 36), p.reshape(-1, 36), 1.0, **limits)

    def patches() -> list[np.ndarray]:
        return [
            refinement.random_walker(image, own, 1.0, **limits)
            for image, own in zip(images, p, strict=True)
        ]

    title, baseline = (
        "random walker with a closed ring",
        ("a call of scikit-image a patch (open seam)"),
    )
    return [
        compare(
            f"{title}, {what}",
            baseline,
            len(rows),
            "patches",
            ours,
            lambda: plain.walk(images, p, **limits, beta=1.0),
            bench.repeats,
        )
        for what, ours in (("a strip at once", strip), ("a patch at a time", patches))
    ]


def made_up(masks: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities (N, H, W) float16 that a network might give: the truth, blurred and in
    doubt.
    """
    rng = np.random.default_rng(seed)
    logits = gaussian_filter(
        6.0 * masks - 3 + 6 * rng.standard_normal(masks.shape, np.float32), (0, 2, 1)
    )
    return (1 / (1 + np.exp(-2 * logits))).astype(np.float16)


def codes(bench: Bench) -> list[Comparison]:
    """Run lengths: the challenge's test patches, and photographs of Severstal's size with up to
    four classes of blobs.
    """
    rng = np.random.default_rng(0)
    patches = gaussian_filter(rng.standard_normal((2538, 36, 36), np.float32), (0, 3, 2)) > 0.15
    times = 1 if bench.quick else 8  # over 50 photographs
    blobs = gaussian_filter(rng.standard_normal((40, 256, 1600), np.float32), (0, 12, 12)) > 0.12
    shows = rng.random((50, 4)) < 0.15
    photographs = times * [
        np.stack([blobs[(4 * row + k) % 40] & shows[row, k] for k in range(4)]) for row in range(50)
    ]
    return [
        compare(
            "run lengths of 2,538 patches",
            "the usual loop, a mask at a time",
            2538,
            "masks",
            lambda: rle.encode(patches, "row"),
            lambda: plain.encode(patches, "C"),
            bench.repeats,
        ),
        compare(
            f"run lengths of {len(photographs)} x 4 masks of 256 x 1600, of which a seventh show "
            "anything",
            "the usual loop, a mask at a time",
            4 * len(photographs),
            "masks",
            lambda: [rle.encode(photograph, "column") for photograph in photographs],
            lambda: [plain.encode(photograph, "F") for photograph in photographs],
            bench.repeats,
        ),
    ]


def thresholds(bench: Bench) -> list[Comparison]:
    """Pixels at 12 thresholds and 3 smallest components for each of four classes of photographs of
    Severstal's size.
    """
    rng, number = np.random.default_rng(0), 4 if bench.quick else 16
    blobs = (
        gaussian_filter(rng.standard_normal((number, 4, 256, 1600), np.float32), (0, 0, 12, 12))
        * 30
    )
    truth = ((blobs > 2) & (rng.random((number, 4, 1, 1)) < 0.15)).astype(np.uint8)
    noise = gaussian_filter(rng.standard_normal(truth.shape, np.float32), (0, 0, 2, 2))
    logits = gaussian_filter(8.0 * truth - 6, (0, 0, 3, 3)) + 2 * noise
    stored, sizes = (1 / (1 + np.exp(-logits))).astype(np.float16), [0, 100, 1000]
    probability = stored.astype(np.float32)  # a plain loop's comparisons are slower on float16
    for own, p, y in zip(stored, probability, truth, strict=True):
        np.testing.assert_array_equal(
            decoding.overlaps(own, y, sizes), plain.overlaps(p, y, decoding.THRESHOLDS, sizes)
        )
    return [
        compare(
            "choosing thresholds and sizes for photographs",
            "the whole photograph labelled for each class and threshold",
            number,
            "photographs",
            lambda: [decoding.overlaps(p, y, sizes) for p, y in zip(stored, truth, strict=True)],
            lambda: [
                plain.overlaps(p, y, decoding.THRESHOLDS, sizes)
                for p, y in zip(probability, truth, strict=True)
            ],
            bench.repeats,
        )
    ]
