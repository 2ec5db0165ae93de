"""What a study tells of networks for photographs: scores out of fold, and speed measured in the
same run.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from src import networks
from src.artifacts import Paths
from src.photographs import selection
from src.photographs.averaging import Average, oof_average
from src.photographs.dataset import Gallery
from src.recipe import Member, Recipe
from src.scoring import metrics
from src.training.losses import of_phase
from src.wells.prediction import LAYOUT, autocast

RESIZED, FULL = (256, 256), (256, 1600)  # the sizes of the DeepLabV3+ report's Table 1
REPEATS = 3


def scores(recipe: Recipe, paths: Paths, seeds: list[int]) -> tuple[float, float]:
    """Mean Dice of each photograph and class, and mIoU of photographs (DeepLabV3+ report, section
    4), of the average of some seeds.

    Out of fold, every fold at the thresholds and sizes that have the best Dice on the others;
    segmentation alone.
    """
    chosen, train = recipe.model_copy(update={"seeds": seeds}), Gallery.open(paths, recipe, "train")
    average, sizes = oof_average(chosen, paths, "segment"), selection.sizes_of(chosen)
    rows = np.array([row for row, name in enumerate(train.name) if name in average.names])
    dice, fold = selection.score_rows(train, average, rows, sizes), train.fold[rows]
    rules = {
        number: selection.rule_without(number, dice, train.shows[rows], None, fold)
        for number in np.unique(fold).tolist()
    }
    iou = [
        _iou(train, average, row, rules[number], sizes)
        for row, number in zip(rows, fold.tolist(), strict=True)
    ]
    nested, _ = selection.nested(dice, train.shows[rows], None, fold)
    return float(nested.mean()), float(np.mean(iou))


def _iou(
    train: Gallery, average: Average, row: int, rule: selection.Rule, sizes: list[int]
) -> float:
    threshold, size = selection.THRESHOLDS[list(rule.threshold)], [sizes[s] for s in rule.size]
    mask = selection.mask_of(average.of(train.name[row]), threshold, size)
    return float(metrics.image_iou(mask[None], train.mask(row)[None])[0])


def row(variation: str, recipe: Recipe, paths: Paths, device: torch.device) -> dict[str, Any]:
    """A line of the table: parameters, mIoU and Dice (mean and deviation over seeds), and speed
    as in the report's Table 1.
    """
    train = Gallery.open(paths, recipe, "train")
    member = next(member for member in recipe.members if member.role == "segment")
    network = networks.create(
        networks.untrained(
            networks.for_photographs(member, len(train.classes), train.moments.shape[2])
        )
    ).to(device)
    single = np.array([scores(recipe, paths, [seed]) for seed in recipe.seeds])
    spread = single.std(0, ddof=1) if len(single) > 1 else np.full(2, np.nan)
    line: dict[str, Any] = {
        "variation": variation,
        "parameters (M)": f"{sum(w.numel() for w in network.parameters()) / 1e6:.3f}",
    }
    for number, title in ((1, "mIoU"), (0, "Dice")):
        line |= {
            title: float(single[:, number].mean()),
            f"{title}, deviation over seeds": float(spread[number]),
        }
    line[f"training, batches of {member.batch_size} / s"] = _rounded(
        training_rate(network, member, train, device)
    )
    for title, size in (("256x256", RESIZED), ("256x1600", FULL)):
        line[f"prediction, photographs of {title} / s"] = _rounded(
            prediction_rate(network, member, train, size, device)
        )
    return line


def training_rate(
    network: torch.nn.Module, member: Member, train: Gallery, device: torch.device
) -> float:
    """Steps a second on random batches of 256x256 at the member's batch size: forward, loss,
    backward, update; no reading.
    """
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6)
    x = torch.randn(member.batch_size, train.moments.shape[2], *RESIZED, device=device)
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
    train: Gallery,
    size: tuple[int, int],
    device: torch.device,
) -> float:
    """Photographs a second, one at a time."""
    network.eval()
    x = torch.randn(1, train.moments.shape[2], *size, device=device).contiguous(
        memory_format=LAYOUT
    )

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
