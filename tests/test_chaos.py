"""A short form of `make chaos`."""

import subprocess
import sys

from tests.workplace import ROOT


def test_stages_that_are_killed_at_random_moments_go_on_to_the_same_bytes():
    """In a process of its own, because it forks, which one with threads must not."""
    command = [sys.executable, "-m", "tests.chaos", "--kills", "4", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()[-1].startswith("4 kills")
        and "the same bytes every time" in done.stdout
    )
