"""Training on a GPU: patches a second of each network in several forms, the share of the chip's
peak, and a whole recipe by the clock.

It has never been run: no GPU was at hand when it was written.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain, stages
from benchmarks.networks import batches
from benchmarks.timing import machine, run
from src import modality, networks, recipe
from src.artifacts.sealed import Arrays
from src.networks.devices import LAYOUT, autocast, set_up_torch
from src.recipe import Member, Task
from src.terminal.errors import UserError
from src.training.loop import OPTIMISERS
from src.training.losses import of_phase
from src.wells.batches import WellTrainingSet

STEPS, REPEATS = 50, 5
TOGETHER = (1, 2, 4, 8)  # tasks on one GPU
HEADER = [
    "| network | form | patches/s | TFLOP/s | share of peak | first step (s) | pays after "
    "(patches) |",
    "|---|---|---|---|---|---|---|",
]


def wells(patches: int) -> Arrays:
    """Noise in four long wells, with a groove in each: training does not cost more on real ones."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), patches // 4).astype(np.int32)
    image, mask = (
        rng.normal(0, 1, (len(group), 36, 36)).astype(np.float32),
        np.zeros((len(group), 36, 36), np.uint8),
    )
    # half of each well is sound, as the augmentation needs
    groove = np.arange(len(group)) % 40 < 20
    mask[groove, :, 10:13], image[groove, :, 10:13] = 1, image[groove, :, 10:13] - 3
    depth = np.tile(np.arange(patches // 4), 4).astype(np.int32)
    some = {
        "group": group,
        "depth": depth,
        "parity": np.zeros_like(depth),
        "fold": (group % 4).astype(np.int8),
    }
    return {"image": image, "mask": mask, "valid": np.ones(image.shape, bool), **some}


def peak(device: torch.device) -> float:
    """Operations a second that a large bfloat16 matrix product reaches on this chip: the most
    that any network could.
    """
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _seconds(lambda: a @ b, device, 20)
    return 2 * 8192**3 / seconds


def _seconds(step: Callable[[], object], device: torch.device, times: int) -> float:
    """Median seconds of a step over `REPEATS` rounds of so many, after a round that does not
    count.
    """
    rounds = []
    for _ in range(REPEATS + 1):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(times):
            step()
        torch.cuda.synchronize(device)
        rounds.append((time.perf_counter() - began) / times)
    return statistics.median(rounds[1:])


def source_of(member: Member, device: torch.device) -> WellTrainingSet:
    """A member's training set of made-up wells."""
    chosen = recipe.load("corroseg").model_copy(update={"members": [member]})
    run = modality.open_run(chosen, Path("data"), Path("submissions"))
    return WellTrainingSet.of(run, Task(member.name, 0, 0), wells(8192), device)


def form(
    member: Member, source: WellTrainingSet, device: torch.device, how: str
) -> Callable[[], None]:
    """One training step: "plain" in float32, ours in bfloat16 channels last with a fused
    optimiser, or ours compiled.
    """
    torch.manual_seed(0)
    network, phase = networks.create(member.network).to(device).train(), member.phases[0]
    if how != "plain":
        network = network.to(memory_format=LAYOUT)
    fused = how != "plain"
    optimiser = OPTIMISERS[phase.optimiser](
        network.parameters(), lr=phase.learning_rate, weight_decay=phase.weight_decay, fused=fused
    )
    forward = (
        torch.compile(network, mode="reduce-overhead" if how == "compiled, CUDA graphs" else None)
        if "compiled" in how
        else network
    )
    stream, loss_of = batches(source), of_phase(phase)

    def step() -> None:
        image, mask, weight = next(stream)
        if how == "plain":
            with plain.concatenating():
                _update(optimiser, loss_of(forward(image), mask, weight))
            return
        if "CUDA graphs" in how:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(member, device):
            logits = forward(image.contiguous(memory_format=LAYOUT))
        _update(optimiser, loss_of(logits, mask, weight))

    return step


def _update(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def forms(member: Member, device: torch.device, most: float, steps: int) -> list[str]:
    """A line for each form; "pays after" is how many patches it takes until compiling has saved
    what it cost.
    """
    source = source_of(member, device)
    patches = member.batch_size * member.height // 36
    of_window = networks.operations(member.network, member.height, training=True)
    lines, eager = [], 0.0
    for how in ("plain", "bfloat16, channels last, fused", "compiled", "compiled, CUDA graphs"):
        step = form(member, source, device, how)
        began = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        first, seconds = time.perf_counter() - began, _seconds(step, device, steps)
        rate, reached = patches / seconds, of_window * member.batch_size / seconds
        eager = seconds if how.startswith("bfloat16") else eager
        pays = (
            f"{first / (eager - seconds) * patches:,.0f}"
            if "compiled" in how and seconds < eager
            else "-"
        )
        cells = [
            member.network["name"],
            how,
            f"{rate:,.0f}",
            f"{reached / 1e12:.2f}",
            f"{reached / most:.1%}",
            f"{first:.1f}",
            pays,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    return lines


def _worker(
    member: Member, steps: int, ready: multiprocessing.Barrier, seconds: multiprocessing.Queue
) -> None:
    device = torch.device("cuda")
    set_up_torch(1)
    step = form(
        member,
        source_of(member, device),
        device,
        "bfloat16, channels last, fused",
    )
    for _ in range(5):
        step()
    torch.cuda.synchronize(device)
    ready.wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize(device)
    seconds.put(time.perf_counter() - began)


def together(member: Member, steps: int) -> list[str]:
    """Patches a second of several tasks at a time on one GPU, each in a process of its own, as
    `--jobs` runs them.
    """
    context, lines = multiprocessing.get_context("spawn"), []
    for tasks in TOGETHER:
        ready, seconds = context.Barrier(tasks), context.Queue()
        workers = [
            context.Process(target=_worker, args=(member, steps, ready, seconds))
            for _ in range(tasks)
        ]
        for worker in workers:
            worker.start()
        slowest = max(seconds.get(timeout=600) for _ in workers)
        for worker in workers:
            worker.join()
        rate = tasks * steps * member.batch_size * member.height / 36 / slowest
        lines.append(f"- `{member.name}`, {tasks} tasks at a time: {rate:,.0f} patches/s together")
        print(lines[-1], flush=True)
    return lines


def whole(folder: Path, quick: bool) -> list[str]:
    """The default recipe, five folds of three seeds of both networks, by the clock, at several
    numbers of tasks at a time.
    """
    if not (folder / "raw" / "corroseg").is_dir():
        raise UserError(
            f"{folder / 'raw' / 'corroseg'} is missing: the whole recipe is timed "
            "on the challenge's files"
        )
    lines = []
    for jobs in TOGETHER[:1] if quick else TOGETHER:
        settings = [f"name=jobs{jobs}", *(["member.phase.epochs=1"] if quick else [])]
        given = ["corroseg", *stages.as_options(folder, settings)]
        run(stages.SCRIPTS[0], *given)
        trained = run(stages.SCRIPTS[1], *given, "--device", "cuda", "--jobs", str(jobs), "--force")
        predicted = run(
            stages.SCRIPTS[2], *given, "--device", "cuda", "--jobs", str(jobs), "--force"
        )
        lines.append(
            f"- five folds x three seeds, --jobs {jobs}: training {trained.wall:.0f} s, "
            f"stage 02 {predicted.wall:.0f} s"
        )
        print(lines[-1], flush=True)
    return lines


def measure(device: torch.device, folder: Path, quick: bool) -> list[str]:
    """Everything that this file measures, as Markdown."""
    # as src.tasks.parallel sets it: cuBLAS is deterministic only with this
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_up_torch(torch.get_num_threads())
    steps, most = 3 if quick else STEPS, peak(device)
    members = [*recipe.load("corroseg", []).members, *recipe.load("corroseg_cat", []).members]
    lines = [
        machine(device),
        "",
        f"A bfloat16 product of two 8192 x 8192 matrices reaches {most / 1e12:.0f} TFLOP/s.",
        "",
        *HEADER,
    ]
    for member in members:
        lines += forms(member, device, most, steps)
    lines += ["", *(line for member in members for line in together(member, steps)), ""]
    return [*lines, *whole(folder, quick), ""]
