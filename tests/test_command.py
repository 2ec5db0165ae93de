"""Errors of the command line: one line, whatever they quote."""

import argparse

import pytest

from src.terminal import command
from src.terminal.errors import UserError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a\n b\t c", "a b c"),
        ("\x1b[2Jname", "\\x1b[2Jname"),
        ("\udcff.png", "\\udcff.png"),
        ("a\u202eb\0", "a\\u202eb\\x00"),
        ("Bohrung ä 井戸", "Bohrung ä 井戸"),
        (
            "start" + "x" * 5000 + "what to do",
            "start" + "x" * 595 + " ... " + "x" * 290 + "what to do",
        ),
    ],
)
def test_a_message_becomes_one_printable_line(
    capfd: pytest.CaptureFixture[str], message: str, line: str
) -> None:
    def stage(options: argparse.Namespace) -> None:
        raise UserError(message)

    class Parser(argparse.ArgumentParser):
        def parse_args(self) -> argparse.Namespace:
            return argparse.Namespace()

    with pytest.raises(SystemExit) as caught:
        command.run(stage, Parser())
    assert caught.value.code == 2
    assert capfd.readouterr() == ("", f"error: {line}\n")
