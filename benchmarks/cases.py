"""Parts of the pipeline beside what is usually written instead, in turns, in one process."""

import gzip
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import plain
from benchmarks.timing import Comparison, compare
from src import networks
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions.formats import rle
from src.networks import devices
from src.photographs import selection
from src.recipe import Augment, Inference, Member, Recipe, Task, load
from src.training.data import Batch
from src.training.loop import OPTIMISERS, Fit
from src.training.losses import of_phase
from src.wells import blocks, prediction
from src.wells.batches import WellTrainingSet
from src.wells.postprocess import refinement
from src.wells.windows import Windows

CPU = torch.device("cpu")
WINDOWS = {"near": 4, "far": 4, "cat": 1}  # batches of a repetition


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


def batches(source: WellTrainingSet) -> Iterator[Batch]:
    """Epoch after epoch."""
    return chain.from_iterable(source.epoch(epoch, epoch)[1] for epoch in count())


def pipeline(bench: Bench) -> list[Comparison]:
    """Batches of 128 patches, flipped along both axes and rolled around the ring at random, and
    nothing else.
    """
    train = bench.train()
    member = bench.recipe.members[0].model_copy(
        update={"height": 36, "margin": 0, "batch_size": 128, "augment": Augment(depth_shift=False)}
    )
    source = _source(bench, member, train)
    folder, number = bench.run.data / "patch_files", 512 if bench.quick else 4096
    folder.mkdir(parents=True, exist_ok=True)
    for row, start in enumerate(
        islice(source.windows.shuffled(False, torch.Generator().manual_seed(0)).split(1), number)
    ):
        for what in ("image", "mask", "weight"):
            np.save(
                folder / f"{row}_{what}.npy",
                source.windows.take(getattr(source.windows, what), start)[0, 0].numpy(),
            )
        number_written = row + 1
    stream, result = batches(source), []
    for workers in (0, 2):
        loader = DataLoader(
            plain.PatchFiles(folder, number_written),
            batch_size=128,
            shuffle=True,
            num_workers=workers,
        )
        result.append(
            compare(
                "input pipeline: windows and augmentation",
                f"DataLoader over a file a patch, {workers} workers",
                number_written,
                "patches",
                lambda: [batch for batch in islice(stream, -(-number_written // 128))],
                lambda loader=loader: [batch for batch in loader],
                bench.repeats,
                one_process=workers == 0,
            )
        )
    return result


def _source(bench: Bench, member: Member, train: Arrays) -> WellTrainingSet:
    """A member's training set of fold 0."""
    chosen = bench.recipe.model_copy(update={"members": [member]})
    own = bench.run.with_recipe(chosen)
    return WellTrainingSet.of(own, Task(member.name, 0, 0), train, CPU)


def _ours(source: WellTrainingSet, steps: int) -> Callable[[], dict[str, Any]]:
    """The project's own training loop on so many batches."""
    stream = batches(source)
    fit = Fit(source.run, source.task, source, CPU)
    fit.begin(source.member.phases[0], resumed=False)

    def step() -> dict[str, Any]:
        # the loop asks its data for an epoch, and gets so many batches
        with patch.object(WellTrainingSet, "epoch", lambda *_: (steps, islice(stream, steps))):
            return fit.epoch(0, lambda share, words: None)

    return step


def _plain(
    member: Member, loader: DataLoader, steps: int, by_concatenation: bool
) -> Callable[[], None]:
    torch.manual_seed(0)
    network, phase = networks.create(member.network), member.phases[0]
    optimiser = OPTIMISERS[phase.optimiser](
        network.parameters(), lr=phase.learning_rate, weight_decay=phase.weight_decay
    )
    stream = chain.from_iterable(loader for _ in count())

    def step() -> None:
        if by_concatenation:
            with plain.concatenating():
                plain.train(network, optimiser, of_phase(phase), islice(stream, steps))
        else:
            plain.train(network, optimiser, of_phase(phase), islice(stream, steps))

    return step


def training_cat(bench: Bench) -> list[Comparison]:
    """`training` of the paper's network."""
    return training(bench, load("corroseg_cat", []).members)


def training(bench: Bench, members: list[Member] | None = None) -> list[Comparison]:
    """Whole steps on windows of the training wells; ours with its augmentation, the baseline
    without any.
    """
    train, result = bench.train(), []
    devices.set_up_torch(torch.get_num_threads())
    for member in members or bench.recipe.members:
        source = _source(bench, member, train)
        windows, steps = source.windows, WINDOWS[member.name] if not bench.quick else 1
        starts = windows.shuffled(False, torch.Generator().manual_seed(0))
        data = TensorDataset(
            *(
                windows.take(tensor, starts)
                for tensor in (windows.image, windows.mask, windows.weight)
            )
        )
        loader = DataLoader(data, batch_size=member.batch_size, shuffle=True, drop_last=True)
        loops = {"float32 loop as in PyTorch's tutorials, same network, loss and batch": True}
        if member.network["name"] == "ring_unet":
            loops["the same loop with this project's ring padding"] = False
        for title, by_concatenation in loops.items():
            result.append(
                compare(
                    f"training `{member.name}` ({member.network['name']}), "
                    f"{torch.get_num_threads()} threads",
                    title,
                    steps * member.batch_size * member.height // 36,
                    "patches",
                    _ours(source, steps),
                    _plain(member, loader, steps, by_concatenation),
                    bench.repeats,
                )
            )
    return result


def predictions(bench: Bench) -> list[Comparison]:
    """Four flips of every window of a well, the networks as a training begins with them."""
    test, result = blocks.read_split(bench.run, "test"), []
    wells, patches = np.unique(test["group"], return_counts=True)
    well = blocks.rows_of(test, test["group"] == wells[patches.argsort()[len(wells) // 2]])
    once = Inference(flips=True, average_neighbours=False)
    for member in bench.recipe.members:
        torch.manual_seed(0)
        network = networks.create(member.network).eval()
        ours = networks.create(member.network).to(memory_format=devices.LAYOUT).eval()
        windows = Windows.of(well, member.height, CPU)
        seen = windows.inputs(
            torch.from_numpy(windows.canvas.windows(member.height, member.margin))
        )

        def by_loop(
            network: torch.nn.Module = network,
            seen: torch.Tensor = seen,
            size: int = member.batch_size,
        ) -> None:
            with plain.concatenating():
                plain.predict(network, seen, size)

        result.append(
            compare(
                f"prediction `{member.name}`, four flips, {torch.get_num_threads()} threads",
                "float32 loop over the same windows and flips",
                len(well["group"]),
                "patches",
                lambda ours=ours, member=member: prediction.predict(ours, well, member, once, CPU),
                by_loop,
                bench.repeats,
            )
        )
    return result


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
    probability, sizes = 1 / (1 + np.exp(-logits)), [0, 100, 1000]
    for p, y in zip(probability, truth, strict=True):
        np.testing.assert_array_equal(
            selection.overlaps(p, y, sizes), plain.overlaps(p, y, selection.THRESHOLDS, sizes)
        )
    return [
        compare(
            "choosing thresholds and sizes for photographs",
            "the whole photograph labelled for each class and threshold",
            number,
            "photographs",
            lambda: [
                selection.overlaps(p, y, sizes) for p, y in zip(probability, truth, strict=True)
            ],
            lambda: [
                plain.overlaps(p, y, selection.THRESHOLDS, sizes)
                for p, y in zip(probability, truth, strict=True)
            ],
            bench.repeats,
        )
    ]
