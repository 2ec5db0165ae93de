"""Damaged raw inputs, recipes and model folders, by the thousand: each run of stage 00, or of
apply, must end in a prepared file or in one clear line.

    python tests/fuzz.py --cases 1200 --seed 0            what `make fuzz` runs
    python tests/fuzz.py --only 417 --seed 0              one case again, with all that it printed

Stage 00 runs in forked children of a process that has imported everything, by the script itself, so
that exit codes and lines are the real ones; `--end-to-end` of the cases run once more as commands
of their own, and must end the same. A case fails if it ends with a traceback or with another exit
code than 0 and 2; says nothing, more than a line, or something unprintable; takes more than `CPU`
or `WALL` seconds or `MEMORY`; leaves a prepared file that no later stage can use; or, where stage
00 refused its input, has changed or left anything beside the file that was prepared before.
"""

import argparse
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import h5py
import numpy as np
from fuzz_inputs import INPUTS, Input
from fuzz_mutations import MUTATIONS, Job, Mutation

from src.artifacts import sealed

REPOSITORY = Path(__file__).parents[1]
MEMORY = 2 << 30  # bytes resident, all libraries included
CPU, WALL = 30, 600  # seconds
PREPARED, REFUSED = "prepared", "refused"
PAIRS = [(own, mutation) for mutation in MUTATIONS for own in INPUTS]


@dataclass(frozen=True)
class Ended:
    """How a run ended: `code` is its exit code, negative for a signal."""

    code: int
    out: str
    error: str
    memory: int  # most bytes resident


def forked(
    action: Callable[[], None], folder: Path, memory: int = MEMORY, cpu: int = CPU, wall: int = WALL
) -> Ended:
    """Run `action` in a child of this process, with what it may take limited; its output goes
    through files in `folder`.
    """
    printed = [folder / "out", folder / "error"]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number, path in enumerate(printed, start=1):
                os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
            # as Python itself opens them
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
            _limit(memory, cpu, wall)
            action()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    texts = [path.read_text("utf-8", "backslashreplace") for path in printed]
    return Ended(os.waitstatus_to_exitcode(status), *texts, usage.ru_maxrss << 10)


def _limit(memory: int, cpu: int, wall: int) -> None:
    own = int(re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
    # an end before the machine's memory is full
    resource.setrlimit(resource.RLIMIT_DATA, (own + memory, own + memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, wall)  # nobody handles it: it ends the process


@dataclass(frozen=True)
class Case:
    """A damaged input in a folder of its own."""

    number: int
    input: Input
    mutation: Mutation
    what: str
    folder: Path
    job: Job

    @property
    def arguments(self) -> list[str]:
        """The script or module, and its arguments."""
        if self.job.recipe is None:
            laid = str(self.folder / "laid" / "tiles")
            more = [laid] if not self.is_model else [str(self.new), laid, "--jobs", "1"]
            packed = [p for p in self.job.raw.iterdir() if p.suffix == ".zip"]
            return ["-m", self.input.module, str(packed[0] if packed else self.job.raw), *more]
        recipe, overrides = (
            self.folder / "tiny.toml",
            [f"--set={text}" for text in self.job.overrides],
        )
        return [
            "00_prepare_data.py",
            str(recipe),
            "--data-dir",
            str(self.folder / "data"),
            *overrides,
        ]

    @property
    def is_model(self) -> bool:
        return self.input.module == "src.cli.apply"

    @property
    def new(self) -> Path:
        """The well that a model is applied to."""
        return self.folder / "new.npy"

    def write_recipe(self) -> None:
        if self.is_model:
            np.save(self.new, np.random.default_rng(0).normal(0, 0.02, (72, 36)))
        if self.job.recipe is not None:
            (self.folder / "tiny.toml").write_bytes(
                self.job.recipe.encode("utf-8", "surrogateescape")
            )

    def run_here(self) -> None:
        """The script as the command line would run it."""
        os.chdir(REPOSITORY)
        script, *sys.argv[1:] = self.arguments
        if script == "-m":  # as a file: the module itself has been imported, with all competitions
            script = sys.argv.pop(1).replace(".", "/") + ".py"
        runpy.run_path(script, run_name="__main__")

    @property
    def made(self) -> Path:
        return self.folder / ("laid" if self.job.recipe is None else "data/prepared")


def template(own: Input, folder: Path) -> Path:
    """The input whole, and prepared once: what every case starts from a copy of."""
    case = Case(-1, own, None, "whole", folder, Job(folder / "data" / "raw" / own.raw, own.recipe))
    case.job.raw.mkdir(parents=True)
    own.write(case.job.raw)
    case.write_recipe()
    ended = forked(case.run_here, folder)
    if ended.code or ended.error:
        raise SystemExit(f"{own.name}: the whole input does not pass: {ended.error or ended.out}")
    if own.recipe is None:
        shutil.rmtree(folder / "laid")
    return folder


def cases(templates: dict[str, Path], options: argparse.Namespace, work: Path) -> Iterator[Case]:
    """Every mutation of every input, in an order of its own, again and again; mutations that
    have nothing to work on are left out.
    """
    order = np.random.default_rng([options.seed, 0])
    for number in count(1):
        if number % len(PAIRS) == 1:
            round_ = order.permutation(len(PAIRS))
        own, mutation = PAIRS[round_[(number - 1) % len(PAIRS)]]
        if options.only in (None, number) and not (options.quick and mutation.slow):
            case = damage(
                number, own, mutation, templates[own.name], options.seed, work / str(number)
            )
            if case:
                yield case
        if number == options.only:
            return


def damage(
    number: int, own: Input, mutation: Mutation, whole: Path, seed: int, folder: Path
) -> Case | None:
    shutil.copytree(whole, folder)
    job = Job(folder / "data" / "raw" / own.raw, own.recipe)
    # zipfile's, of the doubles that it is made to write
    with warnings.catch_warnings(action="ignore"):
        what = mutation.apply(np.random.default_rng([seed, number]), job)
    if what is None:
        shutil.rmtree(folder)
        return None
    case = Case(number, own, mutation, what, folder, job)
    case.write_recipe()
    return case


def judge(case: Case, ended: Ended, before: dict[str, bytes], memory: int = MEMORY) -> str:
    """`PREPARED`, `REFUSED`, or what is wrong."""
    if ended.memory > memory:
        return "took too much memory"
    if ended.code in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return "hung"
    if ended.code == 0:
        problem = "printed on stderr" if ended.error else useless(case.made)
        return problem or ("must be refused" if case.mutation.refused else PREPARED)
    if ended.code != 2 or "Traceback" in ended.error:
        return f"ended with code {ended.code}"
    return unclear(ended, case) or (
        "damaged what was there" if contents(case.made) != before else REFUSED
    )


def unclear(ended: Ended, case: Case) -> str | None:
    """Why a refusal is not one clear line that names a place: a file, or a key of the recipe."""
    line = ended.error.removesuffix("\n")
    named = any(
        word in line
        for word in (
            str(case.folder),
            "recipe",
            "--set",
            "y_train",
            *(text[:20] for text in case.job.overrides),
        )
    )
    if not (
        line.startswith("error: ")
        and ended.error.endswith("\n")
        and line.isprintable()
        and len(line) < 1500
    ):
        return "said it unclearly"
    return None if named and line.count(": ") >= 2 else "did not say where, or what to do"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def useless(made: Path) -> str | None:
    """Why what was made is of no use, if it is of none: the contract of the prepared file, in
    short.
    """
    found = sorted(p for p in made.rglob("*.h5") if not {"runs", "ensembles"} & {*p.parts})
    if not found:
        return None if (made / "tiles" / "groups.csv").is_file() else "made nothing"
    for path in found:
        if not sealed.is_sound(path) or not sealed.inputs_of(path):
            return "made a file without its origin"
        with h5py.File(path) as file:
            names = file["name"].asstr()[:].tolist()
            if len(set(names)) < len(names) or len(file["image"]) != len(names):
                return "made names twice"
            small = (image for image in file["image"] if image.nbytes < 1 << 24)
            if not all(np.isfinite(image).all() for image in small):
                return "made values that are not finite"
            masks = file["mask"] if path.stem == "train" else ()
            if any(mask.max(initial=0) > 1 for mask in masks if mask.nbytes < 1 << 24):
                return "made labels that are none"
    return None


def again(case: Case, whole: Path) -> Ended:
    """The case as a command of its own, from the same state."""
    shutil.rmtree(case.made, ignore_errors=True)
    if case.job.recipe is not None:
        shutil.copytree(whole / "data" / "prepared", case.made)
    done = subprocess.run(
        [sys.executable, *case.arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        errors="backslashreplace",
    )
    return Ended(done.returncode, done.stdout, done.stderr, 0)


def table(outcomes: Counter[tuple[str, str]], rows: list[str]) -> str:
    """Cases by row and outcome."""
    wrong = sorted({outcome for _, outcome in outcomes} - {PREPARED, REFUSED})
    columns = [PREPARED, REFUSED, *wrong]
    width = max(map(len, rows)) + 2
    lines = ["".ljust(width) + "cases  " + "  ".join(columns)]
    for row in [*rows, "all"]:
        counts = [
            sum(
                n
                for (own, outcome), n in outcomes.items()
                if row in (own, "all") and outcome == column
            )
            for column in columns
        ]
        lines.append(
            row.ljust(width)
            + f"{sum(counts):5}  "
            + "  ".join(f"{n:{len(column)}}" for n, column in zip(counts, columns, strict=True))
        )
    return "\n".join(lines)


def outcomes(options: argparse.Namespace, work: Path) -> Iterator[tuple[Case, Ended, str]]:
    """Run case after case; the folder of each is gone once the next one is asked for."""
    templates = {
        own.name: template(own, work / f"whole {number}") for number, own in enumerate(INPUTS)
    }
    every = max(1, options.cases // max(1, options.end_to_end))
    for number, case in enumerate(islice(cases(templates, options, work), options.cases), start=1):
        before = contents(case.made) if case.made.exists() else {}
        ended = forked(case.run_here, work)
        outcome = judge(case, ended, before)
        if options.end_to_end and number % every == 0 and outcome in (PREPARED, REFUSED):
            alone = again(case, templates[case.input.name])
            if (alone.code, alone.error) != (ended.code, ended.error):
                outcome = "ends otherwise by itself"
        yield case, ended, outcome
        shutil.rmtree(case.folder)


def main(options: argparse.Namespace) -> int:
    warm_up()
    by_kind, by_input = Counter(), Counter()
    # what was found until then is printed
    with tempfile.TemporaryDirectory(prefix="fuzz") as work, suppress(KeyboardInterrupt):
        for case, ended, outcome in outcomes(options, Path(work)):
            by_kind[case.mutation.kind, outcome] += 1
            by_input[case.input.name, outcome] += 1
            if outcome not in (PREPARED, REFUSED) or options.only:
                print(
                    f"case {case.number}, {case.input.name}, {case.mutation.kind} "
                    f"({case.what}): {outcome}"
                )
                print(
                    "\n".join(
                        (ended.out + ended.error)
                        .strip()
                        .splitlines()[-(999 if options.only else 6) :]
                    ),
                    flush=True,
                )
    kinds = [
        kind
        for kind in dict.fromkeys(own.kind for own in MUTATIONS)
        if any(kind == row for row, _ in by_kind)
    ]
    print(table(by_kind, kinds), "", table(by_input, [own.name for own in INPUTS]), sep="\n")
    failures = sum(n for (_, outcome), n in by_kind.items() if outcome not in (PREPARED, REFUSED))
    print(f"{by_kind.total()} cases of seed {options.seed}: {failures} failed")
    return 1 if failures or (by_kind.total() < options.cases and not options.only) else 0


def warm_up() -> None:
    """Import what stage 00 and apply import, and let children share it."""
    from src import competitions
    from src.photographs import dataset  # noqa: F401
    from src.stages import apply  # noqa: F401

    competitions.get("folder")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--cases", type=int, default=1200)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--end-to-end", type=int, default=8, help="so many of the cases run once more by themselves"
    )
    arguments.add_argument("--only", type=int, help="the number of one case")
    arguments.add_argument(
        "--quick",
        action="store_true",
        help="without bombs and large images, which take seconds each",
    )
    sys.exit(main(arguments.parse_args()))
