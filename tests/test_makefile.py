"""The Makefile: what its help lists, and which command it says comes next."""

import os
import re
import shutil
import subprocess

import pytest

from src.terminal.environment import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> str:
    # of a `make test`
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, env=own
    ).stdout


def test_help_lists_every_target_recipe_and_study_and_fits_100_columns():
    told = make("help")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"all", "doctor", "help", "lint"} <= targets
    assert set(re.findall(r"^  make ([a-z]+)  ", told, re.MULTILINE)) == targets
    for path in (ROOT / "recipes").glob("*.toml"):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        assert re.search(rf"^  {path.stem} +{re.escape(title)}$", told, re.MULTILINE), (
            f"the first line of {path.name} is no short title"
        )
    for path in (ROOT / "recipes" / "studies").glob("*.toml"):
        assert re.search(rf"\b{path.stem}\b", told)
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            "all",
            [
                "make all: 00_prepare_data.py",
                *(
                    f"make all: {name}.py"
                    for name in ("01_train_folds", "02_predict", "03_ensemble")
                ),
            ],
        ),
        ("predict", ["make: 02_predict.py"]),
    ],
)
def test_stages_run_in_order_and_know_who_runs_them(tmp_path, target, told):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho $STARTED_BY: $1\n")
    python.chmod(0o755)
    (tmp_path / "ready").touch()
    last = ["make all: 04_postprocess.py"] if target == "all" else []
    assert make(f"VENV={tmp_path}", target).splitlines() == told + last
