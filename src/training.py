"""Fit one task: one member on all folds but one, from one seed. Nothing is shared between tasks."""

import csv
import io
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src import artifacts, augment, competitions, networks
from src.artifacts import Arrays, CreatedFrom, Paths
from src.cleaning import Scaling, fit_scaling
from src.errors import UserError
from src.inference import autocast, load_network, predict, predictions_from, read_split, rows_of, set_up_torch
from src.losses import combine
from src.recipe import Member, Phase, Recipe, Task, to_toml
from src.schedule import learning_rate
from src.windows import Windows

Report = Callable[[float], None]  # told the finished share of a task, 0 to 1
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def weights_from(recipe: Recipe, task: Task, prepared: str) -> CreatedFrom:
    """What a task's weights are made from; `prepared` is the digest of the prepared file."""
    return {"format": str(artifacts.FORMAT), "prepared": prepared, "member": artifacts.digest(recipe.member(task.member))}


def check(recipe: Recipe) -> None:
    """Build every network once, without memory, so that a wrong name, option or height is found before anything is trained."""
    for member in recipe.members:
        with torch.device("meta"):
            network = networks.create(member.network)
        factor = getattr(network, "factor", 1)
        if member.height % factor or member.margin % factor:
            raise UserError(
                f"member '{member.name}': height {member.height} and margin {member.margin} must be multiples of {factor} "
                f"for network '{member.network['name']}'"
            )


def is_done(recipe: Recipe, task: Task, paths: Paths, prepared: str) -> bool:
    """Whether a task's weights and predictions are up to date."""
    if not artifacts.up_to_date(paths.weights(recipe, task), weights_from(recipe, task, prepared)):
        return False
    return artifacts.up_to_date(paths.oof(recipe, task), predictions_from(recipe, task, paths, prepared))


def run_task(recipe: Recipe, task: Task, paths: Paths, prepared: str, device: torch.device, threads: int, force: bool) -> None:
    """Fit a task and predict its held-out fold; whatever is up to date already is kept.

    Args:
        prepared: digest of the prepared file.
        threads: CPU threads to use.
        force: train again also where the weights are up to date.
    """
    set_up_torch(threads)
    with artifacts.locked(paths.task(recipe, task)):  # the workers of a killed run may still be at it
        _fit_task(recipe, task, paths, prepared, device, force)
        _predict_task(recipe, task, paths, prepared, device, force)
        paths.progress(recipe, task).unlink(missing_ok=True)


def _fit_task(recipe: Recipe, task: Task, paths: Paths, prepared: str, device: torch.device, force: bool) -> None:
    folder, inputs = paths.task(recipe, task), weights_from(recipe, task, prepared)
    if not force and artifacts.up_to_date(paths.weights(recipe, task), inputs):
        return
    if force:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    artifacts.write_text(folder / "recipe.toml", to_toml(recipe))
    train = read_split(paths, recipe, "train", "mask", "fold")
    Fit(recipe, task, folder, inputs, device).run(train, lambda share: artifacts.write_text(paths.progress(recipe, task), f"{share:.4f}"))


def _predict_task(recipe: Recipe, task: Task, paths: Paths, prepared: str, device: torch.device, force: bool) -> None:
    inputs = predictions_from(recipe, task, paths, prepared)
    if not force and artifacts.up_to_date(paths.oof(recipe, task), inputs):
        return
    train = read_split(paths, recipe, "train", "fold")
    network, scaling = load_network(recipe, task, paths, device)
    name, probability = predict_held_out(network, scaling, train, task.fold, recipe, recipe.member(task.member), device)
    artifacts.write_arrays(paths.oof(recipe, task), {"name": name, "probability": probability}, inputs)


def predict_held_out(
    network: nn.Module, scaling: Scaling, train: Arrays, fold: int, recipe: Recipe, member: Member, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Names and probabilities of the patches of a held-out fold."""
    near = rows_of(train, np.isin(train["group"], np.unique(train["group"][train["fold"] == fold])))
    near["image"] = scaling.apply(near["image"])
    held_out = near["fold"] == fold
    return near["name"][held_out], predict(network, near, member, recipe.inference, device)[held_out]


@dataclass
class Fit:
    """One training, epoch by epoch, with a checkpoint after each.

    Every epoch starts from a random state of its own, drawn from the task and the epoch's number: a training that was killed and
    resumed gives the same bytes as one that was not.
    """

    recipe: Recipe
    task: Task
    folder: Path
    created_from: CreatedFrom
    device: torch.device

    def run(self, train: Arrays, report: Report) -> None:
        member = self.recipe.member(self.task.member)
        trained_on = (train["fold"] >= 0) & (train["fold"] != self.task.fold)
        scaling = fit_scaling(train["image"][trained_on], train["valid"][trained_on], self.recipe.data.scaling == "per_pixel")
        weight = train["valid"] & trained_on[:, None, None]
        known = np.isin(train["group"], train["group"][trained_on])
        scaled = rows_of(train, known) | {"image": scaling.apply(train["image"][known])}
        windows = Windows.of(scaled, member.height, self.device, weight[known])

        torch.manual_seed(self.seed_of(-1))
        network = networks.create(member.network).to(self.device, memory_format=torch.channels_last)
        state = self.resume(network)
        start = state["epoch"]
        for epoch in range(start, member.epochs):
            phase, first = _phase_at(member.phases, epoch)
            if epoch in (first, start):
                optimiser = _optimiser(network, phase)
                if epoch == start and epoch > first:
                    optimiser.load_state_dict(state["optimiser"])
            began = time.monotonic()
            loss = self.epoch(network, optimiser, windows, epoch, report)
            line = {"epoch": epoch + 1, "loss": f"{loss:.6f}", "learning_rate": f"{optimiser.param_groups[0]['lr']:.3g}"}
            if member.selection == "best_on_held_out":
                line["held_out_score"] = self.keep_best(network, scaling, train, state)
            state["history"].append(line | {"seconds": f"{time.monotonic() - began:.1f}"})
            self.write_history(state["history"])
            if epoch + 1 < member.epochs:  # after the last one the weights themselves follow
                self.save_checkpoint(network, optimiser, state, epoch + 1)
        self.finish(network, scaling, state)

    def epoch(self, network: nn.Module, optimiser: torch.optim.Optimizer, windows: Windows, epoch: int, report: Report) -> float:
        """Train on every window once; returns the mean loss."""
        member, seed = self.recipe.member(self.task.member), self.seed_of(epoch)
        phase, first = _phase_at(member.phases, epoch)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        starts = windows.shuffled(member.augment.depth_shift, generator)
        symmetries = augment.draw(member.augment, len(starts), windows.image.shape[1], generator, self.device)
        loss_of = combine(phase.loss)
        network.train()
        total = torch.zeros((), device=self.device)
        for step, begin in enumerate(range(0, len(starts), member.batch_size)):
            share = begin / len(starts)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(phase, (epoch - first + share) / phase.epochs)
            batch = slice(begin, begin + member.batch_size)
            image, mask, weight = (
                symmetries[batch].apply(windows.take(tensor, starts[batch])) for tensor in (windows.image, windows.mask, windows.weight)
            )
            with autocast(member, self.device):
                logits = network(image.contiguous(memory_format=torch.channels_last))
            loss = loss_of(logits, mask, weight)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(image)
            if step % 10 == 0:
                report((epoch + share) / member.epochs)
        return float(total) / len(starts)

    def seed_of(self, epoch: int) -> int:
        """A seed for this member, fold, seed and epoch (-1: the initial weights)."""
        return int(artifacts.digest(f"{self.task.member} {self.task.fold} {self.task.seed} {epoch}")[:15], 16)

    def keep_best(self, network: nn.Module, scaling: Scaling, train: Arrays, state: dict[str, Any]) -> str:
        """Score the held-out fold, as the CorroSeg paper does to pick an epoch, and keep the weights of the best so far."""
        member = self.recipe.member(self.task.member)
        score_of = competitions.get(self.recipe.competition).score
        _, probability = predict_held_out(network, scaling, train, self.task.fold, self.recipe, member, self.device)
        score = float(score_of(probability[:, 0] > 0.5, train["mask"][train["fold"] == self.task.fold]).mean())
        if score > state["best_score"]:
            state["best_score"], state["best"] = score, {name: tensor.clone() for name, tensor in network.state_dict().items()}
        return f"{score:.6f}"

    def resume(self, network: nn.Module) -> dict[str, Any]:
        """The state after the last finished epoch, with its weights in the network; or that before the first."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            try:
                state = torch.load(path, map_location=self.device, weights_only=True)
                if state["created_from"] == self.created_from:
                    network.load_state_dict(state["network"])
                    return state
            except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
                print(f"{path} is damaged: this task starts again from its first epoch")
        return {"epoch": 0, "history": [], "best_score": -1.0, "best": {}}

    def save_checkpoint(self, network: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any], epoch: int) -> None:
        state |= {"epoch": epoch, "network": network.state_dict(), "optimiser": optimiser.state_dict(), "created_from": self.created_from}
        with artifacts.replacing(self.folder / "checkpoint.pt") as partial:
            torch.save(state, partial)

    def write_history(self, history: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, history[0])
        writer.writeheader()
        writer.writerows(history)
        artifacts.write_text(self.folder / "history.csv", text.getvalue())

    def finish(self, network: nn.Module, scaling: Scaling, state: dict[str, Any]) -> None:
        """Write the weights with their scaling; the checkpoint has served."""
        weights = state["best"] or network.state_dict()
        arrays = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
        arrays |= {"scaling.center": scaling.center, "scaling.scale": scaling.scale}
        artifacts.write_weights(self.folder / "weights.safetensors", arrays, self.created_from)
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)


def _phase_at(phases: list[Phase], epoch: int) -> tuple[Phase, int]:
    """The phase that an epoch belongs to, and the phase's first epoch."""
    first = 0
    for phase in phases:
        if epoch < first + phase.epochs:
            return phase, first
        first += phase.epochs
    raise IndexError(epoch)


def _optimiser(network: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    return OPTIMISERS[phase.optimiser](network.parameters(), lr=phase.learning_rate, weight_decay=phase.weight_decay, fused=True)
