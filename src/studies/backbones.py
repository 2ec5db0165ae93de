"""A line of a study's table for photographs: scores out of fold, and speed in the same run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from src import networks
from src.artifacts.run import Run
from src.networks.devices import LAYOUT, autocast
from src.photographs import selection
from src.photographs.confusion import activation_of, labels
from src.photographs.dataset import PhotoDataset
from src.recipe import Member
from src.scoring import averaging
from src.scoring.metrics import image_iou
from src.training.losses import of_phase

RESIZED, FULL = (256, 256), (256, 1600)  # the sizes of the DeepLabV3+ report's Table 1
REPEATS = 3


def scores(run: Run) -> tuple[float, float, float]:
    """The mean score of each photograph and class, and mIoU of photographs, all and those with
    defects, of the average of all tasks out of fold; segmentation alone.

    The score has every fold at the thresholds and sizes that are best on the others; mIoU has
    label maps, from which nothing is selected (DeepLabV3+ report, section 4).
    """
    metric, (counted, train, rows) = run.competition.metric, selection.count(run)
    counted = counted.way("unrejected")
    pixels, _ = counted.under(counted.select(metric))
    iou, shown = single_iou(run), train.shows[rows].any(1)
    defects = float(iou[shown].mean()) if shown.any() else float("nan")
    return float(metric.of(*pixels).mean()), float(iou.mean()), defects


def single_iou(run: Run) -> np.ndarray:
    """`image_iou` (N,) of each photograph held out, its labels the likeliest at each pixel."""
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    row_of = {name: row for row, name in enumerate(train.name)}
    activation = activation_of(run)
    return np.array(
        [
            image_iou(
                labels(average.of(name), activation), labels(train.mask(row_of[name]), "sigmoid")
            )
            for name in average.names
        ]
    )


def row(variation: str, run: Run, device: torch.device) -> dict[str, Any]:
    """A line of the table: parameters, mIoU and score (mean and deviation over seeds), and speed as
    in the report's Table 1.
    """
    train = PhotoDataset.open(run, "train")
    member = next(member for member in run.recipe.members if member.role == "segment")
    options = networks.untrained(run.modality.network_options(run, member))
    network = networks.create(options).to(device)
    single = np.array([scores(run.with_seeds([seed])) for seed in run.recipe.seeds])
    spread = single.std(0, ddof=1) if len(single) > 1 else np.full(3, np.nan)
    weights = sum(w.numel() for w in network.parameters())
    line: dict[str, Any] = {"variation": variation, "parameters (M)": f"{weights / 1e6:.3f}"}
    for number, title in ((1, "mIoU"), (2, "mIoU with defects"), (0, "score")):
        line[title] = float(single[:, number].mean())
        line[f"{title}, deviation over seeds"] = float(spread[number])
    rate = training_rate(network, member, train, device)
    line[f"training, batches of {member.batch_size} / s"] = _rounded(rate)
    for title, size in (("256x256", RESIZED), ("256x1600", FULL)):
        rate = prediction_rate(network, member, train, size, device)
        line[f"prediction, photographs of {title} / s"] = _rounded(rate)
    return line


def training_rate(
    network: torch.nn.Module, member: Member, train: PhotoDataset, device: torch.device
) -> float:
    """Steps a second on random batches of 256x256 at the member's batch size: forward, loss,
    backward, update; no reading.
    """
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6)
    x = torch.randn(member.batch_size, train.channels, *RESIZED, device=device)
    truth = (
        torch.rand(member.batch_size, len(train.classes), *RESIZED, device=device) < 0.02
    ).float()
    loss_of = of_phase(member.phases[0], member.activation)

    def step() -> None:
        with autocast(member, device):
            logits = network(x.contiguous(memory_format=LAYOUT))
        optimiser.zero_grad(set_to_none=True)
        loss_of(logits, truth, torch.ones_like(truth[:, :1])).backward()
        optimiser.step()

    return 1 / _median_seconds(step, device)


def prediction_rate(
    network: torch.nn.Module,
    member: Member,
    train: PhotoDataset,
    size: tuple[int, int],
    device: torch.device,
) -> float:
    """Photographs a second, one at a time."""
    network.eval()
    x = torch.randn(1, train.channels, *size, device=device).contiguous(memory_format=LAYOUT)

    def step() -> None:
        with torch.inference_mode(), autocast(member, device):
            network(x)

    return 1 / _median_seconds(step, device)


def _median_seconds(step: Callable[[], None], device: torch.device) -> float:
    """The median time of a step, after one that is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _rounded(rate: float) -> str:
    return f"{rate:.3g}"
