"""What is here and what is missing: python -m src.doctor [RECIPE]. Exit code 0 if the demo can run, otherwise 2 and what to do.

It tells something useful where packages are lacking: whatever needs more than Python itself is imported when its line is due.
"""

import argparse
import importlib
import os
import platform
import shutil
import sys
from pathlib import Path

from src import console, environment

LEAST_PYTHON = (3, 11)
DEMO_BYTES = 200 << 20  # what the demo writes is less than half of it
WIDTH = 13  # of the column that says what a line is about


def line(about: str, text: str) -> None:
    print(f"{about:{WIDTH}} {text}")


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def check_python() -> list[str]:
    """Say which Python this is; returns what keeps the demo from running, as every check here does."""
    line("Python", f"{platform.python_version()} at {sys.executable}")
    if sys.version_info < LEAST_PYTHON:
        return [f"Python {'.'.join(map(str, LEAST_PYTHON))} or newer is needed: install it and type make setup PYTHON=python3.11"]
    return []


def check_packages() -> list[str]:
    """Compare the environment with requirements.txt; other versions may do, lacking packages may not."""
    pinned = environment.pinned()
    here = {name: environment.installed(name) for name in pinned}
    lacking = [name for name, version in here.items() if version is None]
    other = [f"{name} {version} (not {pinned[name]})" for name, version in here.items() if version not in (None, pinned[name])]
    as_pinned = len(pinned) - len(lacking) - len(other)
    told = [f"{as_pinned} of {len(pinned)} packages as in requirements.txt"]
    told += [f"other versions: {', '.join(other)}"] if other else []
    told += [f"lacking: {', '.join(lacking)}"] if lacking else []
    line("packages", "; ".join(told))
    try:
        importlib.import_module("src.training")  # which imports whatever a stage does
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        return [f"the stages cannot be imported ({told}): type make setup, or pip install -r requirements.txt"]
    return []


def check_machine() -> list[str]:
    """Say which GPU, how many cores and how much memory there are."""
    try:
        import torch
    except Exception:
        line("GPU", "cannot be told without torch")
    else:
        line("GPU", _gpus(torch))
    line("machine", f"{len(os.sched_getaffinity(0))} cores, memory {gigabytes(memory())}")
    return []


def _gpus(torch) -> str:
    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} sees; recipes that say 'For a GPU' would take days"
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    kind = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
    return ", ".join(f"{gpu.name} with {gigabytes(gpu.total_memory)}" for gpu in found) + f", {kind}, torch {torch.__version__}"


def memory() -> float:
    """Bytes of memory, or fewer where the control group of a container allows no more."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return physical if text == "max" else min(physical, int(text))
