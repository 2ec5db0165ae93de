"""What the command lines of the five stages have in common."""

import argparse
import errno
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from src import artifacts
from src.errors import UserError


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every stage takes; those from --device on matter to stages 01 and 02, --gpus-per-task to 01 alone."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("recipe", metavar="RECIPE", help="a name in recipes/, or the path of a .toml file")
    arguments.add_argument(
        "--set", metavar="KEY.PATH=VALUE", action="append", default=[], dest="overrides", help="override a value of the recipe"
    )
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where artifacts live (default: data)")
    arguments.add_argument("--submissions-dir", type=Path, default=Path("submissions"), help="default: submissions")
    arguments.add_argument("--force", action="store_true", help="make this stage's artifacts again although they are up to date")
    arguments.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda where there is one")
    arguments.add_argument("--jobs", type=_positive, default=None, help="tasks at a time (default: one a CPU core, or one a GPU)")
    arguments.add_argument("--threads", type=_positive, default=None, help="CPU threads of a task (default: its share of the cores here)")
    arguments.add_argument("--cluster", metavar="ADDRESS", help="run the tasks on a Dask cluster: tcp://host:8786, or a .json file")
    arguments.add_argument("--gpus-per-task", type=_positive, default=1, metavar="N", help="train each task on so many GPUs (default: 1)")
    return arguments


def paths(options: argparse.Namespace) -> artifacts.Paths:
    """Where artifacts live; in full for a cluster, whose workers start elsewhere."""
    return artifacts.Paths(options.data_dir.absolute() if options.cluster else options.data_dir, options.submissions_dir)


def run(stage: Callable[[argparse.Namespace], None], arguments: argparse.ArgumentParser) -> None:
    """Run a stage; what the user can mend becomes one line on stderr and exit code 2."""
    try:
        stage(arguments.parse_args())
    except UserError as error:
        _exit(str(error))
    except KeyboardInterrupt:
        _exit("interrupted; run the same command again to go on from here", code=130)
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _exit(f"{error.filename or 'the data directory'}: {error.strerror}; mend that, or choose another --data-dir or --submissions-dir")


def then(stage: str) -> str:
    """What to type next: the next stage with the arguments of this one."""
    return f"next: python {stage} {shlex.join(sys.argv[1:])}"


def _exit(message: str, code: int = 2) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
