"""Export a trained network for devices without torch, and measure what it costs there.

Usage: python -m src.cli.export RUN_FOLDER [--onnx [--int8]] [--openvino], with RUN_FOLDER as in
data/runs/<recipe>/<member>/fold0_seed0. It writes network.onnx, network_int8.onnx and
network_openvino/ into that folder.

Scaling is the first step inside: the input `image` (1, C, H, W) float32 has photographs' values as
their files have them, 0 to 255 or 65535, at the size of training; of wells the organisers' values,
with corrupt pixels repaired. The output `logits` becomes a probability by what the file's metadata
name as `activation`; they name the `classes` too. Every file is compared with torch on images of
the training data.
"""

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from src import modality, recipe
from src.artifacts.run import Run
from src.artifacts.sealed import megabytes
from src.networks.engines import THREADS, Pairs, Scaled, disagreement, opened
from src.networks.engines.onnx_format import to_int8, to_onnx
from src.networks.engines.openvino_format import need_openvino, to_openvino
from src.networks.loading import load_network
from src.networks.scaling import Scaling
from src.recipe import Member, Task
from src.report import figures
from src.terminal import command
from src.terminal.errors import UserError

CHECKED = 8  # training images that a file is compared with torch on
CALIBRATION = 64  # those that set the ranges of 8-bit activations
WARM_UP, REPEATS = 3, 30
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """A finished task and its network, in evaluation mode on the CPU."""

    folder: Path
    run: Run
    task: Task
    network: nn.Module
    scaling: Scaling

    @property
    def member(self) -> Member:
        return self.run.recipe.member(self.task.member)

    @staticmethod
    def open(folder: Path) -> "Trained":
        """
        Raises:
            UserError: not the folder of a task, or not trained to its end, or what was prepared is
                missing.
        """
        no_run = UserError(
            f"{folder}: not the folder of a run, as in data/runs/<recipe>/<member>/fold0_seed0"
        )
        full = folder.resolve()
        named = re.fullmatch(r"fold(\d{1,9})_seed(\d{1,19})", full.name)
        if not named or not (folder / "recipe.toml").is_file() or len(full.parents) < 4:
            raise no_run
        chosen = recipe.load(str(folder / "recipe.toml"))
        task = Task(full.parent.name, *map(int, named.groups()))
        run = modality.open_run(chosen, full.parents[3], Path("submissions"))
        if task not in run.tasks() or run.task(task) != full:
            raise no_run
        network, scaling = load_network(run, task, CPU)
        network = network.to(memory_format=torch.contiguous_format)
        return Trained(folder, run, task, network, scaling)

    def images(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """At most so many images that the network was trained on, before scaling and after it,
        (1, C, H, W) each, all of one size.
        """
        return self.run.modality.examples(self.run, self.task, self.scaling, count)

    def whole_scaling(self) -> Scaling:
        """What lies between the two."""
        return self.run.modality.whole_scaling(self.run, self.task, self.scaling)


class Stopwatch:
    """A file's network in a process of its own, on two threads, which takes one image whenever it
    is asked to.

    Args:
        file: one that was exported, or the weights of the run in `folder`, with which torch is
            measured.
    """

    def __init__(self, file: Path, folder: Path, shape: tuple[int, ...]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, file, folder, shape), daemon=True)
        self.process.start()
        for _ in range(WARM_UP):
            self.lap()

    def lap(self) -> tuple[float, float]:
        """Milliseconds of one image, and how many megabytes the process took at most so far
        beyond what it took without a network.
        """
        self.connection.send(True)
        return self.connection.recv()

    def stop(self) -> None:
        self.connection.send(False)
        self.process.join()


def measure(
    file: Path, folder: Path, shape: tuple[int, ...], beside: Stopwatch | None = None
) -> dict[str, float | str]:
    """What a file costs: megabytes, also compressed; milliseconds for one image on two threads;
    peak megabytes of memory.

    Args:
        beside: a network that takes an image whenever this one has taken one, so that whatever else
            the machine does slows both; how many times faster this one is is then told too, as the
            median over these pairs.
    """
    watch = Stopwatch(file, folder, shape)
    laps = [(watch.lap(), beside.lap() if beside else (1.0, 0.0)) for _ in range(REPEATS)]
    watch.stop()
    milliseconds = [own for (own, _), _ in laps]
    low, _, high = statistics.quantiles(milliseconds, n=4)
    costs = {
        "latency (ms)": round(statistics.median(milliseconds), 2),
        "middle half (ms)": f"{low:.2f} to {high:.2f}",
    }
    if beside:
        costs["times faster"] = round(
            statistics.median(other / own for (own, _), (other, _) in laps), 2
        )
    return {
        **megabytes(file.parent if file.suffix == ".xml" else file),
        **costs,
        "peak memory (MB)": round(laps[-1][0][1], 1),
    }


def _serve(connection: Connection, file: Path, folder: Path, shape: tuple[int, ...]) -> None:
    before = _peak()
    step = _step(file, folder, shape)
    while connection.recv():
        began = time.perf_counter()
        step()
        milliseconds = 1000 * (time.perf_counter() - began)
        connection.send((milliseconds, _peak() - before))


def _peak() -> float:
    """Megabytes that this process took at most. On Linux getrusage would tell those of the
    process that started it, if they were more.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return (
            int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) * 1024 / 1e6
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def _step(file: Path, folder: Path, shape: tuple[int, ...]) -> Callable[[], object]:
    image = torch.randn(shape)
    if file.suffix != ".safetensors":
        run, fed = opened(file), image.numpy()
        return lambda: run(fed)
    torch.set_num_threads(THREADS)
    network = Trained.open(folder).network

    def step() -> None:
        with torch.inference_mode():
            network(image)

    return step


def export(trained: Trained, formats: Collection[str]) -> dict[str, Path]:
    """Write a network beside its weights in some of the formats "onnx", "int8", which needs
    "onnx", and "openvino"; returns their files.
    """
    folder, images = trained.folder, list(trained.images(CHECKED))
    network, notes = scaled(trained, images), about(trained)
    files, differences = {}, {}
    if "onnx" in formats:
        files["onnx"] = folder / "network.onnx"
        differences["onnx"] = to_onnx(network, images, files["onnx"], notes)
    if "int8" in formats:
        files["int8"] = folder / "network_int8.onnx"
        to_int8(files["onnx"], files["int8"], (raw for raw, _ in trained.images(CALIBRATION)))
        differences["int8"] = disagreement(network, images, files["int8"])
    if "openvino" in formats:
        files["openvino"] = folder / "network_openvino" / "network.xml"
        differences["openvino"] = to_openvino(network, images, files["openvino"].parent, notes)
    for name, file in files.items():
        print(
            f"{file}: logits differ from torch by at most {differences[name]:.2g} on "
            f"{len(images)} training images"
        )
    return files


def scaled(trained: Trained, images: Pairs) -> Scaled:
    """A network behind its scaling.

    Raises:
        UserError: the network cannot take these images.
    """
    try:
        with torch.inference_mode():
            trained.network(images[0][1])
    except Exception as error:
        size = "x".join(map(str, images[0][1].shape[1:]))
        raise UserError(
            f"{trained.folder}: its network cannot take images of {size} ({error})"
        ) from None
    return Scaled(trained.network, trained.whole_scaling()).eval()


def about(trained: Trained) -> dict[str, str]:
    """A file's metadata."""
    return {
        "input": "values before scaling, corrupt pixels of wells repaired",
        "activation": trained.member.activation,
        "classes": json.dumps(trained.run.training()["classes"]),
    }


def main(options: argparse.Namespace) -> None:
    formats = [name for name in ("onnx", "int8", "openvino") if getattr(options, name)]
    if not formats or formats[0] == "int8":
        raise UserError(
            "nothing to write: say --onnx (with --int8 if you like), --openvino or both"
        )
    if options.openvino:
        need_openvino()
    trained = Trained.open(options.run)
    shape = tuple(next(trained.images(1))[0].shape)
    files = {"torch": trained.run.weights(trained.task), **export(trained, formats)}
    table = pd.DataFrame(
        [{"network": name, **measure(file, trained.folder, shape)} for name, file in files.items()]
    )
    size = "x".join(map(str, shape[1:]))
    print(f"\nOne image of {size}, {THREADS} CPU threads\n\n{figures.markdown(table)}")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run", type=Path, metavar="RUN_FOLDER", help="of a trained task")
    arguments.add_argument("--onnx", action="store_true", help="write network.onnx")
    arguments.add_argument(
        "--int8", action="store_true", help="also network_int8.onnx, calibrated on training images"
    )
    arguments.add_argument(
        "--openvino", action="store_true", help="write network_openvino/network.xml and .bin"
    )
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
