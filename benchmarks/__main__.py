"""How fast the project is, each figure beside a named baseline in the same run; writes Markdown for
docs/performance.md.

Usage: python -m benchmarks [gpu] [--only NAME] [--quick]. On the challenge's files where they are
in the data directory, else on generated wells. `gpu` is for a machine with a CUDA device, and
measures training there instead.
"""

import argparse
from pathlib import Path

import torch

from benchmarks import cases, gpu, networks, stages
from benchmarks.timing import HEADER, load, machine
from src import modality, recipe
from src.artifacts.files import write_text
from src.networks.devices import choose_device
from src.terminal import command

PARTS = {
    "prepare": cases.prepare,
    "pipeline": networks.pipeline,
    "training": networks.training,
    "training_cat": networks.training_cat,
    "prediction": networks.predictions,
    "walker": cases.walker,
    "codes": cases.codes,
    "thresholds": cases.thresholds,
}
WHOLE = {"demo": stages.demo, "test_set": stages.test_set, "growth": stages.growth}
GENERATED = [*stages.GENERATED, "generate.train_patches=4000", "generate.test_patches=1000"]


def main(options: argparse.Namespace) -> None:
    folder = stages.folder_of(options.work_dir, options.data_dir / "raw" / "corroseg")
    if options.where == "gpu":
        return write(
            options.work_dir / "gpu.md",
            gpu.measure(choose_device("cuda"), folder, options.quick),
        )
    real = (folder / "raw" / "corroseg").is_dir()
    chosen = recipe.load("corroseg", [] if real else GENERATED)
    run = modality.open_run(chosen, folder, folder / "submissions")
    bench = cases.Bench(run, options.quick)
    # as stage 01 gives each of its tasks a core; on a busy machine threads wait for each other
    torch.set_num_threads(1)
    print(f"{machine(torch.device('cpu'))}; {'the challenge' if real else 'generated wells'}")
    wanted = options.only or [*PARTS, *WHOLE]
    if set(wanted) & {*PARTS}:
        prepared = stages.run(
            stages.SCRIPTS[0], "corroseg", *stages.as_options(folder, [] if real else GENERATED)
        )
        print(f"(prepared in {prepared.wall:.1f} s)")
    lines = []
    for name in wanted:
        print(f"\n{name}: {load()}", flush=True)
        if name in WHOLE:
            more = WHOLE[name](bench)
            print("\n".join(more), flush=True)
        else:
            more = [
                f"`{name}`, {load()}:",
                "",
                HEADER,
                *(comparison.line() for comparison in PARTS[name](bench)),
                "",
            ]
        lines += more
    write(options.work_dir / "performance.md", [machine(torch.device("cpu")), "", *lines])


def write(path: Path, lines: list[str]) -> None:
    write_text(path, "\n".join(lines))
    print(f"\n{path} written")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    arguments.add_argument("where", nargs="?", choices=["cpu", "gpu"], default="cpu")
    arguments.add_argument(
        "--only",
        action="append",
        choices=[*PARTS, *WHOLE],
        help="only this part; may be given again",
    )
    arguments.add_argument(
        "--quick",
        action="store_true",
        help="small sizes: to see that everything runs, not for figures",
    )
    arguments.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        help="where the challenge's raw files may be (default: data)",
    )
    arguments.add_argument(
        "--work-dir",
        type=Path,
        default=Path("data/benchmarks"),
        help="what is made meanwhile (default: data/benchmarks)",
    )
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
