"""Whole stages as a user runs them, each in a process of its own, with their time and the memory
of their largest process.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.cases import Bench, made_up
from benchmarks.timing import Run, load, run
from src import modality, networks, recipe
from src.artifacts import hdf5, lineage, predictions, sealed
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run as ProjectRun
from src.competitions import demo_pipes, demo_wells
from src.wells import blocks

SCRIPTS = (
    "00_prepare_data.py",
    "01_train_folds.py",
    "02_predict.py",
    "03_ensemble.py",
    "04_postprocess.py",
)
# patches, a fifth of them of the test set
SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (200, 400)
WELL, DRAWN = 200, 10  # patches of a well that is generated, and how many are drawn
TOLERANCE = 1.2  # times as long a patch as in the next smaller set


def table(runs: dict[str, Run], patches: int, together: Sequence[str] = SCRIPTS) -> list[str]:
    lines = [
        "| stage | seconds | CPU seconds | patches/s | largest process (MiB) |",
        "|---|---|---|---|---|",
    ]
    total = Run(
        *(sum(getattr(runs[name], part) for name in together) for part in ("wall", "cpu")),
        max(r.memory for r in runs.values()),
    )
    for title, one in (
        *runs.items(),
        (f"{', '.join(name[:2] for name in together)} together", total),
    ):
        lines.append(
            f"| {title} | {one.wall:.1f} | {one.cpu:.1f} | {patches / one.wall:,.0f} | "
            f"{one.memory:,.0f} |"
        )
    return lines


def as_options(folder: Path, settings: list[str]) -> list[str]:
    """The recipe's overrides and the directories as a stage's command line takes them."""
    told = [part for setting in settings for part in ("--set", setting)]
    return [*told, "--data-dir", str(folder), "--submissions-dir", str(folder / "submissions")]


def demo(bench: Bench) -> list[str]:
    """`make all` on a fresh data directory, without the making of .venv."""
    folder = bench.run.data / "demo"
    settings = [
        "member.phase.epochs=1",
        "generate.train_patches=120",
        "generate.test_patches=40",
    ] * bench.quick
    arguments = [
        "demo",
        *as_options(folder, settings),
        "--force",
    ]
    before, runs = load(), {name: run(name, *arguments) for name in SCRIPTS}
    return [
        f"All of `make all` (the demo); {before} before:",
        "",
        *table(runs, 160 if bench.quick else 1200),
        "",
    ]


def test_set(bench: Bench) -> list[str]:
    """The challenge with the members of `corroseg_quick`, trained for one epoch: what stages 02
    to 04 cost does not hang on how well.
    """
    chosen = recipe.load("corroseg_quick", _overrides(bench))
    own = modality.open_run(chosen, bench.run.data, bench.run.submissions)
    given = ["corroseg_quick", *as_options(bench.run.data, _overrides(bench))]
    runs = {SCRIPTS[0]: run(SCRIPTS[0], *given, "--force")}
    run(SCRIPTS[1], *given)
    runs |= {name: run(name, *given, "--force") for name in SCRIPTS[2:]}
    patches = hdf5.shape(own.prepared("test"), "image")[0]
    title = (
        f"{patches:,} test patches, {len(chosen.tasks())} tasks of `corroseg_quick` trained "
        f"for one epoch; {load()} after:"
    )
    return [title, "", *table(runs, patches, tuple(runs)), ""]


def _overrides(bench: Bench) -> list[str]:
    """What changes in `corroseg_quick`. With 800 patches a fold's training wells would have no
    defect-free window of the member `far`.
    """
    generated = [] if bench.run.competition.name == "corroseg" else GENERATED
    return [
        "member.phase.epochs=1",
        *generated,
        *(["data.patches=1200", "prepared=quick", "name=quick"] if bench.quick else []),
    ]


# where the challenge's files are not at hand
GENERATED = ['competition="demo"', "folds={ count = 5 }"]


def growth(bench: Bench) -> list[str]:
    """Stages 00, 02, 03 and 04 on more and more wells of one size: untrained networks of two
    folds, out-of-fold predictions made up.
    """
    lines, runs_of = [], {}
    settings = ['competition="corroseg"', "folds={ count = 2 }"]
    for patches in QUICK_SIZES if bench.quick else SIZES:
        folder = bench.run.data / "growth" / str(patches)
        chosen = recipe.load("demo", settings)
        given = ["demo", *as_options(folder, settings)]
        own = modality.open_run(chosen, folder, folder / "submissions")
        _write_wells(own.raw, patches)
        runs = {SCRIPTS[0]: run(SCRIPTS[0], *given, "--force")}
        _make_up_training(own)
        runs |= {name: run(name, *given, "--force") for name in SCRIPTS[2:]}
        lines += [f"{patches:,} patches, {load()}:", "", *table(runs, patches, tuple(runs)), ""]
        print("\n".join(lines[-len(runs) - 5 :]), flush=True)
        for name, one in runs.items():
            runs_of.setdefault(name, []).append((patches, one))
    return [*lines, *(_growth_of(name, own) for name, own in runs_of.items()), ""]


def _growth_of(name: str, runs: list[tuple[int, Run]]) -> str:
    """What more patches cost a stage, in CPU seconds a patch and in memory."""
    costs = [one.cpu / patches for patches, one in runs]
    ratios = ", ".join(f"{cost / costs[0]:.2f}" for cost in costs)
    verdict = (
        "within"
        if max(larger / smaller for smaller, larger in pairwise(costs)) <= TOLERANCE
        else "beyond"
    )
    more = [
        (later.memory - one.memory) * 1024 / (number - patches)
        for (patches, one), (number, later) in pairwise(runs)
    ]
    return (
        f"- {name}: CPU seconds a patch, relative to the smallest set: {ratios} (each step "
        f"{verdict} 20 %); "
        f"memory {', '.join(f'{one.memory:,.0f}' for _, one in runs)} MiB, "
        f"{', '.join(f'{own:.1f}' for own in more)} KiB a further patch"
    )


def _write_wells(folder: Path, patches: int) -> None:
    """Raw files of so many patches, a fifth of them of the test set, in wells of one size: ten
    that are drawn, turned about.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, size = np.random.default_rng(0), min(WELL, patches // 5) // 2 * 2
    drawn = [
        demo_pipes.make_well(rng, size, interleaved=number % 3 == 0) for number in range(DRAWN)
    ]

    def wells(count: int) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        for number in range(1, count + 1):
            well, turn = drawn[number % DRAWN], int(rng.integers(36))
            turned = demo_pipes.Well(
                np.roll(well.image, turn, axis=1), np.roll(well.mask, turn, axis=1)
            )
            yield [f"well_{number}_patch_{patch}" for patch in range(size)], *demo_wells.cut(turned)

    names, bits = demo_wells.write_images(folder / "X_train.zip", wells(4 * patches // 5 // size))
    demo_wells.write_masks(folder / "y_train.csv.gz", names, bits)
    demo_wells.write_images(folder / "X_test.zip", wells(patches // 5 // size))


def _make_up_training(own: ProjectRun) -> None:
    """Untrained weights, and for each fold the truth in doubt for its out-of-fold predictions."""
    train = blocks.prepared(own, "train", "mask")
    for task in own.tasks():
        torch.manual_seed(task.fold)
        network = networks.create(own.recipe.member(task.member).network)
        weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        weights |= {
            "scaling.center": np.zeros((), np.float32),
            "scaling.scale": np.ones((), np.float32),
        }
        sealed.write_weights(own.weights(task), weights, lineage.weights(own, task))
        held_out = train.index["fold"] == task.fold
        names, wells = train.index["name"][held_out], np.unique(train.index["group"][held_out])
        likely = (made_up(block["mask"], task.fold)[:, None] for block in train.of(wells))
        told = Predictions(names, (1, 36, 36), likely)
        predictions.write(own.oof(task), told, lineage.oof(own, task), own.progress(task))


def folder_of(folder: Path, real: Path) -> Path:
    """The benchmarks' own data directory, in which the challenge's raw files are linked, where
    there are any.
    """
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    if real.is_dir() and any(real.glob("X_train*")) and not (folder / "raw" / "corroseg").exists():
        (folder / "raw" / "corroseg").symlink_to(real.resolve())
    return folder
