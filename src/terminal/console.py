"""What the stages tell: lines on the terminal, and every line with date and time in the log beside
the run.

Six kinds of lines, from the least to the most important: `note` goes to the log alone; `detail` is
left out by `make all`; `say` by --quiet; `summary`, `warning` and `error` are always shown. Colour
is for terminals only, and for those who did not set NO_COLOR.
"""

import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from src.terminal import environment

NOTE, DETAIL, SAY, SUMMARY, WARNING, ERROR = 10, 15, 20, 25, 30, 40
# of a line's first word: bold green, yellow, red
COLOURS = {SUMMARY: "1;32", WARNING: "1;33", ERROR: "1;31"}
# the environment variable in which the Makefile says "make" or "make all"
STARTED_BY = "STARTED_BY"

State = tuple[int, Path | None]

_logger = logging.getLogger("corroseg")
_logger.propagate = False
_logger.setLevel(NOTE)


def start(quiet: bool) -> None:
    """Begin to show lines on the terminal: all but notes, or fewer under `make all` and with
    --quiet.
    """
    brief = os.environ.get(STARTED_BY) == "make all"
    resume((SUMMARY if quiet else SAY if brief else DETAIL, None))


@contextmanager
def silent() -> Iterator[None]:
    """Nothing is shown until the block ends: for who calls stages from Python."""
    before = state()
    resume((ERROR, None))
    try:
        yield
    finally:
        resume(before)


def keep(log: Path) -> None:
    """From here on keep every line in the file `log` too, below what it holds; first the command
    and what it runs on.
    """
    resume((state()[0], log))
    packages = ", ".join(
        f"{name} {environment.installed(name) or 'absent'}" for name in environment.pinned()
    )
    note(f"$ {shlex.join(['python', *sys.argv])}")
    note(
        f"{environment.commit()}; Python {platform.python_version()} on {platform.platform()}, "
        f"{os.cpu_count()} cores; {packages}"
    )


def state() -> State:
    """What is shown and where it is kept: for `resume` in another process."""
    shown = min(
        (handler.level for handler in _logger.handlers if isinstance(handler, _Terminal)),
        default=DETAIL,
    )
    return shown, next(
        (handler.path for handler in _logger.handlers if isinstance(handler, _Log)), None
    )


def resume(state: State) -> None:
    """Show and keep lines as the process does whose `state()` this is."""
    shown, log = state
    _logger.handlers[:] = [_Terminal(shown), *([_Log(log)] if log else [])]


def note(text: str) -> None:
    _logger.log(NOTE, text)


def detail(text: str) -> None:
    _logger.log(DETAIL, text)


def say(text: str) -> None:
    _logger.log(SAY, text)


def tell(text: str) -> None:
    """Say some lines, of which the indented ones are details."""
    for line in text.splitlines():
        (detail if line.startswith("  ") else say)(line)


def summary(text: str) -> None:
    _logger.log(SUMMARY, text)


def warning(text: str) -> None:
    _logger.log(WARNING, text)


def error(text: str) -> None:
    _logger.log(ERROR, text)


def says() -> bool:
    """Whether what is said is shown, and a bar therefore too."""
    return state()[0] <= SAY


def styled(stream: TextIO) -> bool:
    """Whether a stream may get colours and other control codes: https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Terminal(logging.Handler):
    """Standard output, or for errors standard error; whatever these are at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        stream, text = (sys.stderr if record.levelno >= ERROR else sys.stdout), record.getMessage()
        if styled(stream):
            if record.levelno in COLOURS:
                word, space, rest = text.partition(" ")
                text = f"\033[{COLOURS[record.levelno]}m{word}\033[0m{space}{rest}"
            text = "\r\033[K" + text  # in place of a progress bar, which draws itself anew below
        print(text, file=stream, flush=True)


class _Log(logging.Handler):
    """A file that grows line by line, and may be one of several processes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(record.created))
        lines = [f"{now}  {line}\n" for line in record.getMessage().splitlines()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(lines))
        except OSError as error:
            _logger.removeHandler(self)
            say(
                f"warning: {self.path} cannot be written ({error.strerror}): this run goes on "
                "without a log"
            )
