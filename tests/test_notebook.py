"""The notebooks for Colab and Kaggle: their cells, run in order on a tiny demo."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from src.cli import doctor
from src.terminal.environment import ROOT

TRAINING, INFERENCE = (ROOT / "notebooks" / f"{name}.ipynb" for name in ("corroseg", "inference"))
RECIPE = """
competition = "demo"
[generate]
train_patches = 40
test_patches = 8
[folds]
count = 2
[[member]]
name = "net"
network = { name = "ring_unet", channels = [4, 8] }
[[member.phase]]
epochs = 1
"""


def cells(notebook: Path = TRAINING) -> list[dict[str, object]]:
    """The cells of code."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def sources(notebook: Path = TRAINING) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(notebook)]


def as_python(source: str) -> str:
    """A cell with its shell lines and magics as calls of `shell` and `magic`, their {variables}
    filled in as IPython does.
    """
    source = re.sub(
        r"^( *)!(.*)$", lambda line: f"{line[1]}shell(f{line[2]!r})", source, flags=re.MULTILINE
    )
    return re.sub(r"^%(.*)$", lambda line: f"magic({line[1]!r})", source, flags=re.MULTILINE)


class Kernel:
    """Runs cells in a folder. Stages run inside this process, from this working tree, as the
    test of the stages runs them.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.commands, self.shown = patch, [], []
        self.names = {"shell": self.shell, "magic": self.magic}
        display = types.ModuleType("IPython.display")
        display.HTML = display.FileLink = str
        display.display = self.shown.append
        patch.setitem(sys.modules, "IPython.display", display)

    def shell(self, command: str) -> None:
        self.commands.append(command)
        words = shlex.split(command)
        if words[0] == "python" and words[1].endswith(".py"):
            self.stage(words[1], words[2:])
        elif words[:3] == ["python", "-m", "src.cli.doctor"]:
            self.patch.setattr(
                sys, "argv", words[2:3] + [word for word in words[3:4] if word == "--missing"]
            )
            assert doctor.main() == 0
            if ">" in words:
                Path(words[-1]).touch()
        elif words[:3] == ["python", "-m", "src.cli.apply"]:
            self.stage("src/cli/apply.py", words[3:])
        elif words[:3] == ["python", "-m", "pip"]:
            subprocess.run(
                [sys.executable, *words[1:], "--dry-run", "--no-index"],
                check=True,
                capture_output=True,
            )
        else:
            subprocess.run(command, shell=True, check=True, capture_output=True)

    def stage(self, script: str, arguments: list[str]) -> None:
        self.patch.setattr(sys, "argv", [script, *arguments, "--jobs", "1"])
        runpy.run_path(str(ROOT / script), run_name="__main__")

    def magic(self, line: str) -> None:
        assert line.startswith("cd ")
        self.patch.chdir(line.removeprefix("cd "))

    def run(self, source: str) -> None:
        exec(compile(as_python(source), "a cell", "exec"), self.names)


@pytest.mark.parametrize("notebook", [TRAINING, INFERENCE])
def test_no_outputs_are_stored(notebook):
    for cell in cells(notebook):
        assert not cell["outputs"] and cell["execution_count"] is None


def test_the_cells_run_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout to clone")
    settings, *others = sources()
    (tmp_path / "tiny.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    kernel = Kernel(monkeypatch)
    kernel.run(settings)
    assert kernel.names["RECIPE"] == "demo" and "# <-- yours" in settings
    recipe = "{RECIPE}"
    kernel.names |= {"REPOSITORY": str(ROOT), "OPTIONS": "--device cpu"}
    for source in others:
        # The demo in small: the same name, so that the cells find its files, but fewer wells and
        # epochs.
        kernel.run(source.replace(f".py {recipe}", f".py {tmp_path}/tiny.toml --set name=demo"))
    stages = [
        shlex.split(command)[1] for command in kernel.commands if re.match(r"python \d", command)
    ]
    assert stages == [
        "00_prepare_data.py",
        "01_train_folds.py",
        "02_predict.py",
        "03_ensemble.py",
        "04_postprocess.py",
    ]
    report, submission = kernel.shown
    assert report.startswith("<iframe srcdoc=") and "&lt;img" in report
    assert Path.cwd() == tmp_path / "corroseg" and Path(submission).is_file()


def test_raw_files_are_linked_to_where_they_belong(tmp_path, monkeypatch):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "X_train.zip").write_text("raw")
    monkeypatch.chdir(tmp_path)
    kernel = Kernel(monkeypatch)
    kernel.names |= {
        "RECIPE": "corroseg",
        "RAW_FILES": str(tmp_path / "input"),
        "RAW_FOLDER": "data/raw/corroseg",
    }
    kernel.run(next(source for source in sources() if "RAW_FILES:" in source))
    assert Path("data/raw/corroseg/X_train.zip").read_text() == "raw"
