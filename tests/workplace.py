"""A folder in which the five scripts run, as a user runs them."""

import io
import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = [
    "00_prepare_data.py",
    "01_train_folds.py",
    "02_predict.py",
    "03_ensemble.py",
    "04_postprocess.py",
]
RECIPE = """
competition = "demo"
[generate]
train_patches = 60
test_patches = 16
[folds]
count = 3
[[member]]
name = "net"
network = { name = "ring_unet", channels = [4, 8] }
batch_size = 16
[[member.phase]]
epochs = 30
learning_rate = 0.01
"""


class Workplace:
    """A folder with a recipe, its data and its submissions."""

    def __init__(self, folder: Path, recipe: str = RECIPE) -> None:
        self.folder, self.recipe = folder, folder / "tiny.toml"
        if not self.recipe.exists():
            self.recipe.write_text(recipe)

    def command(self, stage: str, *more: str) -> list[str]:
        folders = [
            "--data-dir",
            str(self.folder / "data"),
            "--submissions-dir",
            str(self.folder / "submissions"),
        ]
        return [str(ROOT / stage), str(self.recipe), *folders, "--device", "cpu", *more]

    def start(
        self, stage: str, *more: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen:
        """The stage in a process of its own, which leads a group with its workers, two tasks at
        a time.
        """
        command = [sys.executable, *self.command(stage, "--jobs", "2", *more)]
        return subprocess.Popen(
            command,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            start_new_session=True,
            env=environment,
        )

    def start_all(self, said: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
        """All five stages one after the other in one process, which loads torch once."""
        code = (
            "import runpy, sys\nfor command in eval(sys.argv[1]):\n sys.argv = command\n "
            "runpy.run_path(command[0], run_name='__main__')"
        )
        commands = [self.command(stage, "--jobs", "1") for stage in STAGES]
        with open(said, "w") as file:  # in ROOT, where Python finds what it imports
            command = [sys.executable, "-c", code, repr(commands)]
            return subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
            )

    def call(self, stage: str, *more: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of the stage, run inside this process to save the time
        that torch takes to load.
        """
        out, err = io.StringIO(), io.StringIO()
        script, *arguments = self.command(stage, "--jobs", "1", *more)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", [script, *arguments])
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                return end.code, out.getvalue(), err.getvalue()
        return 0, out.getvalue(), err.getvalue()

    def run(self, stage: str, *more: str) -> str:
        code, out, err = self.call(stage, *more)
        assert code == 0, err
        return out

    def refused(self, stage: str, *more: str) -> str:
        """The one line on stderr of a stage that ends with exit code 2."""
        code, _, err = self.call(stage, *more)
        lines = [line for line in err.splitlines() if line and "% |" not in line]  # without the bar
        assert code == 2, err
        assert len(lines) == 1, err
        return lines[0]

    def files(self, pattern: str) -> dict[str, bytes]:
        """What the stages made: all files but the logs and live pages, which tell of every run."""
        found = [
            path
            for path in sorted(self.folder.glob(pattern))
            if path.is_file() and path.name not in ("log.txt", "live.html")
        ]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


def without_times(name: str, content: bytes) -> bytes:
    """A file but for how long training took: histories tell it, the page does, and the scores
    hold the page's checksum and their own.
    """
    if name.endswith("history.csv"):
        rows = [line.split(b",") for line in content.splitlines()]
        place = rows[0].index(b"seconds")
        return b"\n".join(b",".join(row[:place] + row[place + 1 :]) for row in rows)
    if name.endswith("tiny.html") and b"What was trained" in content:
        page, times = re.subn(rb'<td class="n">[^<]*</td>(?=<td>[^<]*</td></tr>)', b"", content)
        assert times == 1, f"{name} tells of the training of its one member {times} times"
        return page
    if name.endswith("tiny.json"):
        scores = json.loads(content)
        del scores["checksum"]
        scores["files"].pop("tiny.html", None)  # apply writes none
        return json.dumps(scores).encode()
    return content
