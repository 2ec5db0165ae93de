"""What this runs on: the packages that requirements.txt names, and the commit. Needs nothing but
Python itself.
"""

import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned() -> dict[str, str]:
    """The packages of requirements.txt and their versions, in its order."""
    lines = (
        line.partition("#")[0].strip()
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    )
    return dict(line.split("==") for line in lines if line)


def installed(name: str) -> str | None:
    """The version of a package here; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that is checked out, with "-dirty" behind it if files were changed since."""
    ask = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return (
            "commit "
            + subprocess.run(
                ask, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
        )
    except (OSError, subprocess.SubprocessError):
        return "no git commit"
