"""What is here and what is missing: python -m src.cli.doctor [RECIPE]. Exit code 0 if the demo can
run, otherwise 2 and what to do.

It tells something useful where packages are lacking: whatever needs more than Python itself is
imported when its line is due.
"""

import argparse
import importlib
import os
import platform
import shutil
import sys
from pathlib import Path
from types import ModuleType

from src.terminal import console, environment
from src.terminal.errors import UserError

LEAST_PYTHON = (3, 11)
DEMO_BYTES = 200 << 20  # what the demo writes is less than half of it
# what importing a lacking, mismatched or damaged package raises
UNUSABLE = (ImportError, RuntimeError, OSError)
WIDTH = 13  # of the column that says what a line is about


def line(about: str, text: str) -> None:
    print(f"{about:{WIDTH}} {text}")


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def check_python() -> list[str]:
    """Say which Python this is; returns what keeps the demo from running, as every check here
    does.
    """
    line("Python", f"{platform.python_version()} at {sys.executable}")
    if sys.version_info < LEAST_PYTHON:
        return [
            f"Python {'.'.join(map(str, LEAST_PYTHON))} or newer is needed: install it and "
            "type make setup PYTHON=python3.11"
        ]
    return []


def check_packages() -> list[str]:
    """Compare the environment with requirements.txt; other versions may do, lacking packages may
    not.
    """
    pinned = environment.pinned()
    here = {name: environment.installed(name) for name in pinned}
    lacking = [name for name, version in here.items() if version is None]
    other = [
        f"{name} {version} (not {pinned[name]})"
        for name, version in here.items()
        if version not in (None, pinned[name])
    ]
    as_pinned = len(pinned) - len(lacking) - len(other)
    told = [f"{as_pinned} of {len(pinned)} packages as in requirements.txt"]
    told += [f"other versions: {', '.join(other)}"] if other else []
    told += [f"lacking: {', '.join(lacking)}"] if lacking else []
    line("packages", "; ".join(told))
    try:
        importlib.import_module("src.stages.train")  # which imports whatever a stage does
    except UNUSABLE as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        return [
            f"the stages cannot be imported ({told}): type make setup, or pip install -r "
            "requirements.txt"
        ]
    return []


def check_machine() -> list[str]:
    """Say which GPU, how many cores and how much memory there are."""
    try:
        import torch
    except UNUSABLE:
        line("GPU", "cannot be told without torch")
    else:
        line("GPU", _gpus(torch))
    line("machine", f"{len(os.sched_getaffinity(0))} cores, {gigabytes(memory())} of memory")
    return []


def _gpus(torch: ModuleType) -> str:
    if not torch.cuda.is_available():
        return (
            f"none that torch {torch.__version__} sees; recipes that say 'For a GPU' are slow "
            "without one"
        )
    found = [
        torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())
    ]
    kind = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
    return (
        ", ".join(f"{gpu.name} with {gigabytes(gpu.total_memory)}" for gpu in found)
        + f", {kind}, torch {torch.__version__}"
    )


def memory() -> float:
    """Bytes of memory, or fewer where the control group of a container allows no more."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return physical if text == "max" else min(physical, int(text))


def check_disk(name: str, data: Path) -> list[str]:
    """Compare the free disk with what a recipe will write, which the prepared file tells."""
    there = next(
        folder for folder in (data.absolute(), *data.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(there).free
    try:
        needs = f"{name} writes up to {gigabytes(needed(name, data))}"
    except FileNotFoundError:
        needs = f"how much {name} writes is known after stage 00"
    except UNUSABLE:
        needs = "what a recipe writes cannot be told without its packages"
    line("disk", f"{gigabytes(free)} free for {data}; {needs}")
    if free < DEMO_BYTES:
        return [
            f"the demo needs {DEMO_BYTES >> 20} MB in {there}: free some, or choose another "
            "--data-dir"
        ]
    return (
        []
        if os.access(there, os.W_OK)
        else [f"{there} cannot be written: change that, or choose another --data-dir"]
    )


def needed(name: str, data: Path) -> float:
    """Bytes that stages 01 to 03 of a recipe write: weights, a checkpoint a core, and
    probabilities, which may be compressed.

    Raises:
        FileNotFoundError: nothing is prepared yet.
    """
    from src import modality, networks, recipe
    from src.artifacts import hdf5

    run = modality.open_run(recipe.load(name), data, data)
    for split in ("train", "test"):
        if not run.prepared(split).exists():
            raise FileNotFoundError(run.prepared(split))
    classes = len(hdf5.metadata(run.prepared("train"))["classes"])
    train, test = (
        2 * classes * _pixels(hdf5.shape(run.prepared(split), "image"))
        for split in ("train", "test")
    )
    tasks, members = run.tasks(), run.recipe.members
    folds = len(tasks) / len(members) / len(run.recipe.seeds)
    bytes_of = {
        member.name: 4
        * sum(
            weights.numel()
            for weights in networks.sketch(run.modality.network_options(run, member)).parameters()
        )
        for member in members
    }
    probabilities = train * len(tasks) / folds + test * len(tasks) + train + test
    checkpoints = 3 * max(bytes_of.values()) * len(os.sched_getaffinity(0))
    return probabilities + checkpoints + sum(bytes_of[task.member] for task in tasks)


def _pixels(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * shape[2]


def check_raw(data: Path) -> list[str]:
    """Say which competitions' raw files are there, and where to get the others; none keeps the
    demo from running.
    """
    try:
        from src import modality, recipe
    except UNUSABLE:
        there = sorted(path.name for path in (data / "raw").glob("*") if path.is_dir())
        line(
            "raw files",
            f"in {data / 'raw'}: {', '.join(there) or 'none'}; their contents are "
            "looked at once the packages are there",
        )
        return []
    runs = [
        modality.open_run(recipe.load(path.stem), data, data)
        for path in sorted(recipe.RECIPES.glob("*.toml"))
    ]
    for run in {run.raw: run for run in runs}.values():
        competition = run.competition
        if competition.generate:
            line(run.raw.name, competition.source)
            continue
        try:
            files = competition.files(run.raw, run.recipe.data)
            count = len({path for split in files.values() for path in split})
            line(run.raw.name, f"{count} raw files in {run.raw}")
        except (UserError, OSError) as error:
            line(run.raw.name, f"{error}; source: {competition.source}")
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        default="demo",
        help="whose need of disk is told (default: demo)",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where artifacts live (default: data)"
    )
    parser.add_argument(
        "--missing",
        action="store_true",
        help="only list the packages of requirements.txt that are lacking, for pip",
    )
    options = parser.parse_args()
    if options.missing:
        print(
            "\n".join(
                f"{name}=={version}"
                for name, version in environment.pinned().items()
                if environment.installed(name) is None
            )
        )
        return 0
    try:
        problems = (
            check_python()
            + check_packages()
            + check_machine()
            + check_disk(options.recipe, options.data_dir)
        )
        problems += check_raw(options.data_dir)
    except UserError as error:
        problems = [str(error)]
    if problems:
        console.error(f"error: {problems[0]}")
        return 2
    console.summary(
        "ready: the demo can run, by make all or by python 00_prepare_data.py demo "
        "and the four stages after it"
    )
    return 0


if __name__ == "__main__":
    console.start(quiet=False)
    sys.exit(main())
