"""What the command lines of the five stages have in common."""

import argparse
import errno
import os
import resource
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from src.terminal import console
from src.terminal.errors import UserError

TARGETS = {
    "01_train_folds.py": "train",
    "02_predict.py": "predict",
    "03_ensemble.py": "ensemble",
    "04_postprocess.py": "submit",
}
LONGEST_LINE = 900  # characters of an error


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments of whatever begins with a recipe; those of `add_places` matter where tasks run,
    --gpus-per-task where they are trained.
    """
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument(
        "recipe", metavar="RECIPE", help="a name in recipes/, or the path of a .toml file"
    )
    arguments.add_argument(
        "--set",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a value of the recipe",
    )
    arguments.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where artifacts live (default: data)"
    )
    arguments.add_argument(
        "--submissions-dir", type=Path, default=Path("submissions"), help="default: submissions"
    )
    add_places(arguments)
    arguments.add_argument(
        "--gpus-per-task",
        type=_positive,
        default=1,
        metavar="N",
        help="train each task on so many GPUs (default: 1)",
    )
    return arguments


def stage_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of the five stages: all take all, so that one line does for `make all`; --track
    matters to 01 and 04.
    """
    arguments = parser(description)
    add_force(arguments)
    arguments.add_argument(
        "--track",
        choices=["tensorboard", "mlflow"],
        action="append",
        default=[],
        help="give curves (stage 01) and scores (stage 04) to this tracker too",
    )
    return arguments


def add_force(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--force",
        action="store_true",
        help="make this stage's artifacts again although they are up to date",
    )


def add_places(arguments: argparse.ArgumentParser) -> None:
    """The arguments that say where tasks run, and how much of it is told."""
    arguments.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="auto: cuda where there is one",
    )
    arguments.add_argument(
        "--jobs",
        type=_positive,
        default=None,
        help="tasks at a time (default: one a CPU core, or one a GPU)",
    )
    arguments.add_argument(
        "--threads",
        type=_positive,
        default=None,
        help="CPU threads of a task (default: its share of the cores here)",
    )
    arguments.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run the tasks on a Dask cluster: tcp://host:8786, or a .json file",
    )
    arguments.add_argument(
        "--quiet",
        action="store_true",
        help="show errors and a summary line only; the log has the rest",
    )


def run(stage: Callable[[argparse.Namespace], None], arguments: argparse.ArgumentParser) -> None:
    """Run a stage; what the user can mend becomes one line on stderr and exit code 2."""
    try:
        options = arguments.parse_args()
        console.start(getattr(options, "quiet", False))
        stage(options)
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        _exit("interrupted; run the same command again to go on from here", code=130)
    except Exception as error:
        line = _mendable(error)
        if line:
            _exit(line)
        console.note(traceback.format_exc())  # for the log; Python shows it by itself
        raise


def _mendable(error: Exception) -> str | None:
    """What to tell the user of an error that he can mend; None for any other."""
    if _too_many_files(error):
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"too many open files (at most {most} here): raise it, as in ulimit -n 4096"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and (
        error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return (
            f"{error.filename or 'the data directory'}: {error.strerror}; mend that, or choose "
            "another --data-dir or --submissions-dir"
        )
    return None


def _too_many_files(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is the system's refusal to open one more file;
    HDF5 and others tell it in words of their own.
    """
    while error:
        words = {os.strerror(number) for number in (errno.EMFILE, errno.ENFILE)}
        if any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def then(stage: str) -> None:
    """Say what to type next: the next stage with the arguments of this one, by make if make runs
    this one.
    """
    if os.environ.get(console.STARTED_BY):
        recipe, *more = sys.argv[1:]
        more = [f"ARGS={shlex.quote(shlex.join(more))}".replace("$", "$$")] if more else []
        console.detail(
            " ".join(["next: make", TARGETS[stage], f"RECIPE={shlex.quote(recipe)}", *more])
        )
    else:
        console.detail(f"next: python {stage} {shlex.join(sys.argv[1:])}")


def _exit(message: str, code: int = 2) -> None:
    console.error("error: " + one_line(message))
    sys.exit(code)


def one_line(message: str) -> str:
    """A message that may quote hostile names: on one line, of bounded length, without what a
    terminal would take for a command.
    """
    line = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in " ".join(message.split())
    )
    return (
        line
        if len(line) <= LONGEST_LINE
        else (f"{line[: LONGEST_LINE * 2 // 3]} ... {line[-LONGEST_LINE // 3 :]}")
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
