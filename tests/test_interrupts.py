"""What a terminal shows after Ctrl-C, and what a stage says that may open too few files."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.moments import ending, wait_for
from tests.workplace import ROOT, Workplace

COLUMNS = 80
# what erases a line from the cursor on, and all below it; what moves the cursor up
ERASE, ERASE_ALL, UP = "\x1b[K", "\x1b[J", "\x1b[A"
TASK_LINE = r"^  net, fold \d  epoch \d+/30, loss \d\.\d{4}, \d+ images/s, "
BOTH = ["net, fold 0", "net, fold 1"]
COLOUR = r"\x1b\[[0-9;]*m"


class Terminal:
    """A terminal that a command runs in, and what it has been sent so far."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.own, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, COLUMNS))
        os.set_blocking(self.own, False)
        self.sent = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEAD, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)

    def read(self) -> str:
        try:
            while part := os.read(self.own, 1 << 16):
                self.sent += part.decode()
        except (BlockingIOError, OSError):  # nothing more yet, or the terminal was left
            pass
        return self.sent

    def screen(self) -> list[str]:
        """The lines that stand on it, without the spaces at their ends."""
        lines, row, column = [""], 0, 0
        codes = re.compile("|".join(map(re.escape, (ERASE, ERASE_ALL, UP))) + "|.", re.DOTALL)
        for letter in codes.findall(re.sub(COLOUR, "", self.read())):
            if letter == "\r":
                column = 0
            elif letter in (ERASE, ERASE_ALL):
                lines[row] = lines[row][:column]
                lines = lines[: row + 1] if letter == ERASE_ALL else lines
            elif letter == UP:
                row = max(0, row - 1)
            elif letter == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            else:
                if column == COLUMNS:
                    row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
                lines[row] = lines[row].ljust(column)
                lines[row] = lines[row][:column] + letter + lines[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


# Takes the terminal, as a shell's foreground job has it, and becomes the command.
LEAD = (
    "import fcntl, os, signal, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\nos.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("prepared"))
    place.run("00_prepare_data.py")
    return place


def tasks_on(terminal: Terminal) -> list[str]:
    """The tasks that have a line on it."""
    below = [line for line in terminal.screen() if re.search(TASK_LINE, line)]
    return [line.split("  ")[1] for line in below]


def test_ctrl_c_clears_the_bar_and_make_adds_nothing(prepared, tmp_path, moment):
    (tmp_path / "ready").touch()  # the environment that this test runs in is ready
    _, recipe, *options = prepared.command("01_train_folds.py", "--jobs", "2")
    place = [f"VENV={tmp_path}", f"BIN={Path(sys.executable).parent}"]
    command = ["make", *place, "train", f"RECIPE={recipe}", f"ARGS={' '.join(options)}"]
    outer = ("MAKELEVEL", "MAKEFLAGS")  # of the make that may run this test
    own = {name: text for name, text in moment.environment.items() if name not in outer}
    terminal = Terminal(command, own)
    with ending(terminal.process) as make:
        # both stand still, so that both lines, once drawn, stay
        wait_for(lambda: len(moment.stopped()) == 2 and tasks_on(terminal) == BOTH, make)
        os.write(terminal.own, b"\x03")
        wait_for(lambda: terminal.read() is not None and make.poll() is not None)
    first, *told, last = [line for line in terminal.screen() if line]
    page = prepared.folder / "data/runs/tiny/live.html"
    assert first == "tiny: 3 tasks on cpu, 0 of them up to date"
    assert "".join(told) == f"learning curves while it trains: {page}"
    assert last == "error: interrupted; run the same command again to go on from here"
    assert "stopped after" in page.read_text() and 'http-equiv="refresh' not in page.read_text()


def test_too_few_files_are_told_in_one_line(prepared):
    limit = (
        "import os, resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = prepared.command("01_train_folds.py", "--jobs", "2")
    ended = subprocess.run(
        [sys.executable, "-c", limit, *command], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: too many open files (at most 10 here): raise it, as in ulimit -n 4096"
    ]
