"""What the stages tell: who sees which lines, in colour or not, and what the log keeps of them."""

import io
import re
import subprocess
import sys

import pytest
import torch

from src.tasks import parallel
from src.terminal import command, console, environment
from src.terminal.errors import UserError

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}  "


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No trace of who runs the tests, and afterwards none of them."""
    for name in ("NO_COLOR", console.STARTED_BY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    yield
    console.start(quiet=False)


def tell_everything() -> None:
    console.note("noted")
    console.detail("in detail")
    console.tell("said\n  indented")
    console.summary("trained 5 tasks")
    console.error("error: broken")


@pytest.mark.parametrize(
    ("quiet", "started_by", "shown"),
    [
        (False, "", ["in detail", "said", "  indented", "trained 5 tasks"]),
        (False, "make", ["in detail", "said", "  indented", "trained 5 tasks"]),
        (False, "make all", ["said", "trained 5 tasks"]),
        (True, "", ["trained 5 tasks"]),
        (True, "make all", ["trained 5 tasks"]),
    ],
)
def test_who_sees_which_lines_and_that_the_log_has_all(
    tmp_path, capsys, monkeypatch, quiet, started_by, shown
):
    monkeypatch.setenv(console.STARTED_BY, started_by)
    console.start(quiet)
    console.keep(tmp_path / "runs" / "log.txt")
    tell_everything()
    out, err = capsys.readouterr()
    assert out.splitlines() == shown
    assert err.splitlines() == ["error: broken"]
    kept = (tmp_path / "runs" / "log.txt").read_text().splitlines()
    assert all(re.match(STAMP, line) for line in kept)
    told = [re.sub(STAMP, "", line, count=1) for line in kept]
    assert told[2:] == [
        "noted",
        "in detail",
        "said",
        "  indented",
        "trained 5 tasks",
        "error: broken",
    ]


def test_colour_is_for_terminals(monkeypatch):
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    console.start(quiet=False)
    tell_everything()
    assert "\033[1;32mtrained\033[0m 5 tasks\n" in out.getvalue()
    assert "\033[1;31merror:\033[0m broken\n" in err.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), (None, None)])
def test_no_control_code_for_files_nor_for_those_who_want_none(monkeypatch, name, value):
    out, err = (Terminal(), Terminal()) if name else (io.StringIO(), io.StringIO())
    if name:
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    console.start(quiet=False)
    tell_everything()
    assert "trained 5 tasks\n" in out.getvalue() and "error: broken\n" in err.getvalue()
    assert (
        "\033" not in out.getvalue() + err.getvalue()
        and "\r" not in out.getvalue() + err.getvalue()
    )


def test_an_empty_no_color_means_nothing(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert console.styled(Terminal())


def test_the_log_begins_with_command_commit_and_versions_and_is_appended_to(tmp_path, monkeypatch):
    log = tmp_path / "log.txt"
    for recipe in ("first", "second one"):
        monkeypatch.setattr(sys, "argv", ["01_train_folds.py", recipe, "--jobs", "1"])
        console.start(quiet=True)
        console.keep(log)
    lines = [re.sub(STAMP, "", line, count=1) for line in log.read_text().splitlines()]
    assert lines[0] == "$ python 01_train_folds.py first --jobs 1"
    assert lines[2] == "$ python 01_train_folds.py 'second one' --jobs 1"
    assert f"Python {sys.version.split()[0]}" in lines[1]
    assert f"numpy {environment.installed('numpy')}" in lines[1]
    head = subprocess.run(
        ["git", "-C", str(environment.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    told = re.match(r"commit ([0-9a-f]{12,})", lines[1])
    assert (
        head.stdout.startswith(told[1])
        if head.returncode == 0
        else lines[1].startswith("no git commit")
    )


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    console.start(quiet=False)
    console.keep(tmp_path / "file" / "log.txt")
    console.say("on it goes")
    console.say("and on")
    first, *others = capsys.readouterr().out.splitlines()
    assert "log.txt cannot be written" in first and others == ["on it goes", "and on"]


def _complain(number: int) -> None:
    console.say(f"task {number} complains")


def test_what_tasks_say_in_processes_of_their_own_is_logged(tmp_path):
    console.start(quiet=True)
    console.keep(tmp_path / "log.txt")
    workers = parallel.Workers(torch.device("cpu"), jobs=2, threads=1)
    workers.run(_complain, [(0,), (1,)], [tmp_path / "0", tmp_path / "1"], [1.0, 1.0], "training")
    kept = (tmp_path / "log.txt").read_text()
    assert "task 0 complains" in kept and "task 1 complains" in kept


def _run(stage) -> int:
    with pytest.raises(SystemExit) as ended:
        command.run(stage, command.parser("a stage"))
    return ended.value.code


def test_errors_are_shown_even_when_quiet_and_logged(tmp_path, capsys, monkeypatch):
    def stage(options) -> None:
        console.keep(tmp_path / "log.txt")
        console.say("not to be seen")
        raise UserError("X is missing:\n put it there")

    monkeypatch.setattr(sys, "argv", ["stage.py", "demo", "--quiet"])
    assert _run(stage) == 2
    assert capsys.readouterr() == ("", "error: X is missing: put it there\n")
    assert "error: X is missing: put it there" in (tmp_path / "log.txt").read_text()


def test_the_log_keeps_the_traceback_of_what_nobody_expected(tmp_path, monkeypatch):
    def stage(options) -> None:
        console.keep(tmp_path / "log.txt")
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr(sys, "argv", ["stage.py", "demo"])
    with pytest.raises(ZeroDivisionError):
        command.run(stage, command.parser("a stage"))
    assert "nobody expected this" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("started_by", "argv", "told"),
    [
        ("", ["demo", "--jobs", "1"], ["next: python 02_predict.py demo --jobs 1"]),
        ("make", ["demo"], ["next: make predict RECIPE=demo"]),
        (
            "make",
            ["demo", "--set", "name=a b"],
            ["next: make predict RECIPE=demo ARGS='--set '\"'\"'name=a b'\"'\"''"],
        ),
        ("make all", ["demo"], []),
    ],
)
def test_next_is_the_command_that_the_user_would_type(capsys, monkeypatch, started_by, argv, told):
    monkeypatch.setenv(console.STARTED_BY, started_by)
    monkeypatch.setattr(sys, "argv", ["01_train_folds.py", *argv])
    console.start(quiet=False)
    command.then("02_predict.py")
    assert capsys.readouterr().out.splitlines() == told


def test_the_log_keeps_the_name_of_a_file_whose_bytes_are_no_utf8(tmp_path):
    console.keep(tmp_path / "log.txt")
    console.note("data/\udcff.zip")
    assert "data/\\udcff.zip" in (tmp_path / "log.txt").read_text(encoding="utf-8")
