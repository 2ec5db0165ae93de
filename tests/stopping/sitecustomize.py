"""Python runs this first in each process whose PYTHONPATH has this folder: see tests/moments.py.

Artifacts and checkpoints get their names by `os.replace`. A process that has put a file of the
name STOP_AFTER in place says so in the folder STOP_IN, and stands still while the gate there is
locked.
"""

import fcntl
import os

_replace = os.replace


def _replace_and_stop(source, target, **more) -> None:
    _replace(source, target, **more)
    if os.path.basename(target) == os.environ["STOP_AFTER"]:
        folder = os.environ["STOP_IN"]
        said = f"{folder}/{os.getpid()}"
        with open(f"{said}.partial", "w") as file:
            file.write(os.fspath(target))
        _replace(f"{said}.partial", f"{said}.stopped")
        with open(f"{folder}/gate") as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)


os.replace = _replace_and_stop
