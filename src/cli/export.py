"""Export a trained network to ONNX, for devices without torch, and measure what it costs there.

Usage: python -m src.cli.export RUN_FOLDER --onnx [--int8], with RUN_FOLDER as in
data/runs/<recipe>/<member>/fold0_seed0. It writes network.onnx (and network_int8.onnx) into that
folder. Input `image` and output `logits` are as the network's own; the file's metadata hold the
scaling of the input, (value / white - center) / scale, the activation, and the classes.
"""

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from src import modality, recipe
from src.artifacts import hdf5
from src.artifacts.files import replacing
from src.artifacts.run import Run
from src.artifacts.sealed import megabytes
from src.networks.loading import load_network
from src.networks.scaling import Scaling
from src.recipe import Member, Task
from src.report import figures
from src.terminal import command
from src.terminal.errors import UserError

TOLERANCE = 1e-4  # of logits, between torch and onnxruntime
CALIBRATION = 64  # training images that set the ranges of 8-bit activations
THREADS, WARM_UP, REPEATS = 2, 3, 30
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

    def images(self, count: int) -> Iterator[torch.Tensor]:
        """At most so many images that the network was trained on, (1, C, H, W) each, scaled and
        of one size.
        """
        return self.run.modality.examples(self.run, self.task, self.scaling, count)


class Calibration(CalibrationDataReader):
    """What onnxruntime asks for images with."""

    def __init__(self, images: Iterator[torch.Tensor]) -> None:
        self.images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"image": image.numpy()}


def to_onnx(network: nn.Module, image: torch.Tensor, path: Path, notes: dict[str, str]) -> float:
    """Write a network for images of this shape, and check it; returns the largest difference of
    logits on random input.

    Raises:
        UserError: onnxruntime differs from torch by more than `TOLERANCE`.
    """
    with replacing(path) as partial:
        torch.onnx.export(
            network,
            (image,),
            partial,
            dynamo=True,
            external_data=False,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
        model = onnx.load(partial)
        onnx.helper.set_model_props(model, notes)
        onnx.save(model, partial)
        difference = disagreement(network, partial, image.shape)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path}: onnxruntime differs from torch by {difference:.2g}, more "
                f"than {TOLERANCE}; nothing is written"
            )
    return difference


def disagreement(network: nn.Module, path: Path, shape: tuple[int, ...]) -> float:
    """The largest absolute difference between a network's logits and those of an ONNX file on
    standard normal input.
    """
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(image).numpy()
    return float(np.abs(expected - session(path).run(None, {"image": image.numpy()})[0]).max())


def to_int8(source: Path, target: Path, images: Iterator[torch.Tensor]) -> None:
    """Write an ONNX file with weights and activations of 8 bits, whose ranges come from these
    images.
    """
    with replacing(target) as partial:
        plain = partial.with_suffix(".plain")
        try:
            quant_pre_process(source, plain, skip_symbolic_shape=True)
            quantize_static(
                plain, partial, Calibration(images), per_channel=True, weight_type=QuantType.QInt8
            )
        finally:
            plain.unlink(missing_ok=True)


def session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file ready to run on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Stopwatch:
    """A file's network in a process of its own, on two threads, which takes one image whenever it
    is asked to.

    Args:
        file: an ONNX file, or the weights of the run in `folder`, with which torch is measured.
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
    return {**megabytes(file), **costs, "peak memory (MB)": round(laps[-1][0][1], 1)}


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
    if file.suffix == ".onnx":
        runner, fed = session(file), {"image": image.numpy()}
        return lambda: runner.run(None, fed)
    torch.set_num_threads(THREADS)
    network = Trained.open(folder).network

    def step() -> None:
        with torch.inference_mode():
            network(image)

    return step


def export(trained: Trained, int8: bool) -> dict[str, Path]:
    """Write network.onnx, and with `int8` network_int8.onnx, beside the weights; returns the
    files by name.
    """
    folder, scaling = trained.folder, trained.scaling
    files = {"onnx": folder / "network.onnx", "int8": folder / "network_int8.onnx"}
    image, prepared = next(trained.images(1)), hdf5.metadata(trained.run.prepared("train"))
    try:
        with torch.inference_mode():
            trained.network(image)
    except Exception as error:
        size = "x".join(map(str, image.shape[1:]))
        raise UserError(f"{folder}: its network cannot take images of {size} ({error})") from None
    notes = {
        "center": json.dumps(scaling.center.tolist()),
        "scale": json.dumps(scaling.scale.tolist()),
        "activation": trained.member.activation,
        "white": str(prepared.get("white", 1.0)),
        "classes": json.dumps(prepared["classes"]),
    }
    difference = to_onnx(trained.network, image, files["onnx"], notes)
    print(f"{files['onnx']}: logits differ from torch by at most {difference:.2g}")
    if not int8:
        return {"onnx": files["onnx"]}
    to_int8(files["onnx"], files["int8"], trained.images(CALIBRATION))
    difference = disagreement(trained.network, files["int8"], image.shape)
    print(f"{files['int8']}: logits differ from torch by at most {difference:.2g}")
    return files


def main(options: argparse.Namespace) -> None:
    trained = Trained.open(options.run)
    shape = tuple(next(trained.images(1)).shape)
    files = {"torch": trained.run.weights(trained.task), **export(trained, options.int8)}
    table = pd.DataFrame(
        [{"network": name, **measure(file, trained.folder, shape)} for name, file in files.items()]
    )
    size = "x".join(map(str, shape[1:]))
    print(f"\nOne image of {size}, {THREADS} CPU threads\n\n{figures.markdown(table)}")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run", type=Path, metavar="RUN_FOLDER", help="of a trained task")
    arguments.add_argument("--onnx", action="store_true", required=True, help="write network.onnx")
    arguments.add_argument(
        "--int8", action="store_true", help="also network_int8.onnx, calibrated on training images"
    )
    return arguments


if __name__ == "__main__":
    command.run(main, parser())
