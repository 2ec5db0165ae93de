"""Fit one task: one member on all folds but one, from one seed. Nothing is shared between tasks."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from src import artifacts, competitions, networks
from src.artifacts import Arrays, CreatedFrom, Paths
from src.artifacts.files import locked
from src.competitions import PhotoCompetition
from src.photographs import confusion, dataset
from src.photographs import prediction as photographs_prediction
from src.photographs.batches import PhotoSource
from src.photographs.dataset import Gallery
from src.recipe import Member, Phase, Photograph, Recipe, Task, to_toml
from src.scoring.metrics import soft_iou
from src.terminal import console
from src.terminal.errors import UserError, did_you_mean
from src.training import checkpoints, gradient_caching, pruning, ranks
from src.training.losses import of_phase
from src.training.schedules import learning_rate
from src.wells import prediction
from src.wells.batches import Batch, PipeSource
from src.wells.cleaning import Scaling
from src.wells.prediction import (
    LAYOUT,
    autocast,
    load_network,
    predict,
    predictions_from,
    read_split,
    rows_of,
    set_up_torch,
    weights_from,
)

Report = Callable[[float], None]  # told the finished share of a task, 0 to 1
# scores of a network on the held-out fold, by column of the history
HeldOut = Callable[[nn.Module], dict[str, float]]
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def check(recipe: Recipe, paths: Paths, gpus: int = 1) -> None:
    """Let every network see a window once, without memory, so that what cannot work is found before
    anything is trained.

    Raises:
        UserError: an unknown network or option, windows or photographs that a network cannot take,
            a loss that does not fit, or what several GPUs cannot do.
    """
    for member in recipe.members:
        if gpus > 1 and (member.prunings or member.selection != "last"):
            raise UserError(
                f"member '{member.name}': --gpus-per-task {gpus} takes neither "
                "pruning nor a selection of epochs: use 1"
            )
        for phase in member.phases:
            of_phase(phase, member.activation)
    if isinstance(competitions.get(recipe.competition), PhotoCompetition):
        return dataset.check(recipe, paths)
    width = artifacts.read_shape(paths.prepared(recipe), "train/image")[2]
    for member in recipe.members:
        if (
            member.photograph != Photograph()
            or member.role != "segment"
            or member.activation != "sigmoid"
        ):
            raise UserError(
                f"member '{member.name}': photograph, role and activation are for "
                f"photographs; {recipe.competition} has pipes"
            )
        network = networks.sketch(member.network)
        try:
            network(torch.empty(2, member.inputs, member.height, width, device="meta"))
        except Exception as error:
            raise UserError(
                f"member '{member.name}': network '{member.network['name']}' cannot take windows "
                "of "
                f"{member.height} rows and {width} columns ({error}): choose another height or "
                "network"
            ) from None


def is_done(recipe: Recipe, task: Task, paths: Paths, prepared: str) -> bool:
    """Whether a task's weights and predictions are up to date."""
    if not artifacts.up_to_date(paths.weights(recipe, task), weights_from(recipe, task, prepared)):
        return False
    return artifacts.up_to_date(
        paths.oof(recipe, task), predictions_from(recipe, task, paths, prepared)
    )


def discard(recipe: Recipe, paths: Paths, prepared: str) -> None:
    """Remove what every task has made, so that it is made again; done at once, a run that is
    then killed can go on like any other.
    """
    for task in recipe.tasks():
        _, dense = checkpoints.dense_from(recipe, task, paths, weights_from(recipe, task, prepared))
        made = (
            paths.weights(recipe, task),
            paths.oof(recipe, task),
            paths.checkpoint(recipe, task),
            paths.progress(recipe, task),
            dense,
        )
        for path in made:
            path.unlink(missing_ok=True)


def run_task(
    recipe: Recipe,
    task: Task,
    paths: Paths,
    prepared: str,
    device: torch.device,
    threads: int,
    gpus: int = 1,
) -> None:
    """Fit a task and predict its held-out fold; whatever is up to date already is kept.

    Args:
        prepared: digest of the prepared file.
        threads: CPU threads to use.
        gpus: to train on, from the current one on.
    """
    set_up_torch(threads)
    photographs = isinstance(competitions.get(recipe.competition), PhotoCompetition)
    # the workers of a killed run may still be at it
    with locked(paths.task(recipe, task) / ".lock", paths.task(recipe, task)):
        inputs = weights_from(recipe, task, prepared)
        if not artifacts.up_to_date(paths.weights(recipe, task), inputs, quiet=True):
            artifacts.write_text(paths.saved_recipe(recipe, task), to_toml(recipe))
            ranks.run(gpus, device, fit_task, recipe, task, paths, inputs, max(1, threads // gpus))
        paths.checkpoint(recipe, task).unlink(missing_ok=True)  # it has served
        inputs = predictions_from(recipe, task, paths, prepared)
        if not artifacts.up_to_date(paths.oof(recipe, task), inputs, quiet=True):
            (photographs_prediction.predict_held_out if photographs else _predict_held_out)(
                recipe, task, paths, inputs, device
            )
        paths.progress(recipe, task).unlink(missing_ok=True)


def fit_task(
    recipe: Recipe,
    task: Task,
    paths: Paths,
    inputs: CreatedFrom,
    threads: int,
    device: torch.device,
) -> None:
    """Fit a task on this device, alone or as one of the ranks that share it."""
    set_up_torch(threads)
    fit, progress = Fit(recipe, task, paths, inputs, device), paths.progress(recipe, task)

    def report(share: float) -> None:
        progress.write_text(f"{share:.4f}", encoding="utf-8")

    if isinstance(competitions.get(recipe.competition), PhotoCompetition):
        fit_photographs(fit, Gallery.open(paths, recipe, "train"), threads, report)
    else:
        fit_pipes(fit, read_split(paths, recipe, "train", "mask", "fold"), report)


def fit_pipes(fit: "Fit", train: Arrays, report: Report) -> None:
    """Fit on every patch of the prepared training split that is in another fold."""
    recipe, task, member = fit.recipe, fit.task, fit.recipe.member(fit.task.member)
    source = PipeSource.of(train, task.fold, member, recipe.data.scaling == "per_pixel", fit.device)
    score_of = competitions.get(recipe.competition).score
    truth = train["mask"][train["fold"] == task.fold]

    def held_out(network: nn.Module) -> dict[str, float]:
        _, probability = predict_held_out(
            network, source.scaling, train, task.fold, recipe, member, fit.device
        )
        official = float(score_of(probability[:, 0] > 0.5, truth).mean())
        return {"held_out_score": official, "held_out_soft_iou": soft_iou(probability[:, 0], truth)}

    fit.run(source, report, held_out)


def fit_photographs(fit: "Fit", train: Gallery, threads: int, report: Report) -> None:
    """Fit on every photograph that is in another fold."""
    rows, member = (
        np.flatnonzero((train.fold >= 0) & (train.fold != fit.task.fold)),
        fit.recipe.member(fit.task.member),
    )
    # on a CPU they would take the cores from the training itself
    workers = threads if fit.device.type == "cuda" else 0
    source = PhotoSource(train, rows, member, fit.device, workers, train.scaling(rows))
    fit.run(
        source,
        report,
        confusion.HeldOut(
            train, np.flatnonzero(train.fold == fit.task.fold), member, source.scaling, fit.device
        ),
    )


def _predict_held_out(
    recipe: Recipe, task: Task, paths: Paths, inputs: CreatedFrom, device: torch.device
) -> None:
    train = read_split(paths, recipe, "train", "fold")
    network, scaling = load_network(recipe, task, paths, device)
    name, probability = predict_held_out(
        network, scaling, train, task.fold, recipe, recipe.member(task.member), device
    )
    prediction.check_finite(probability, paths.weights(recipe, task))
    artifacts.write_arrays(
        paths.oof(recipe, task), {"name": name, "probability": probability}, inputs
    )


def predict_held_out(
    network: nn.Module,
    scaling: Scaling,
    train: Arrays,
    fold: int,
    recipe: Recipe,
    member: Member,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Names and probabilities of the patches of a held-out fold."""
    near = rows_of(train, np.isin(train["group"], np.unique(train["group"][train["fold"] == fold])))
    near["image"] = scaling.apply(near["image"])
    held_out = near["fold"] == fold
    return near["name"][held_out], predict(network, near, member, recipe.inference, device)[
        held_out
    ]


@dataclass
class Fit:
    """One training, epoch by epoch, with a checkpoint after each.

    Every epoch starts from a random state of its own, drawn from the task and the epoch's number: a
    training that was killed and resumed gives the same bytes as one that was not.
    """

    recipe: Recipe
    task: Task
    paths: Paths
    created_from: CreatedFrom
    device: torch.device
    most: int = 0  # samples at once, where there was no memory for a whole batch

    def run(self, source: PipeSource | PhotoSource, report: Report, held_out: HeldOut) -> None:
        """Train and write weights and history; `held_out` scores an epoch where the recipe
        selects or watches one.
        """
        member = self.recipe.member(self.task.member)
        torch.manual_seed(self.seed_of(-1))
        network = ranks.with_common_statistics(source.network(), self.device).to(
            self.device, memory_format=LAYOUT
        )
        state = self.resume(network)
        average = _average_of(network, member.ema, state)
        start, self.most = state["epoch"], state["most"]
        for epoch in range(start, member.epochs):
            if member.patience and epoch - state["best_epoch"] > member.patience:
                break
            phase, first = _phase_at(member.phases, epoch)
            if epoch in (first, start):
                freeze(network, phase.frozen)
                resumed = epoch == start and epoch > first
                pruner = phase.pruning and pruning.Pruner(
                    network, phase.pruning, state["scores"] if resumed else None
                )
                # after the pruner, which may have put masks on the weights
                optimiser = _optimiser(network, phase)
                if resumed:
                    optimiser.load_state_dict(state["optimiser"])
            began = time.monotonic()
            losses = [float(line["loss"]) for line in state["history"][first:]]
            loss = self.epoch(
                network,
                optimiser,
                source.epoch(epoch, self.seed_of(epoch)),
                epoch,
                losses,
                report,
                pruner,
                average,
            )
            self.check_finite(network, loss, epoch)
            line = {
                "epoch": epoch + 1,
                "loss": f"{loss:.6f}",
                "learning_rate": f"{optimiser.param_groups[0]['lr']:.3g}",
            }
            if member.prunings:
                line |= {"weights": str(pruning.count_weights(network))}
            if member.selection == "best_on_held_out" or (
                member.watch and (epoch + 1) % member.watch == 0
            ):
                scores = held_out(average.module if average else network)
                line |= {name: f"{score:.6f}" for name, score in scores.items()}
                if member.selection == "best_on_held_out":
                    self.keep_best(
                        average.module if average else network,
                        scores["held_out_soft_iou"],
                        state,
                        epoch,
                    )
            state["history"].append(
                line
                | {
                    "seconds": f"{time.monotonic() - began:.1f}",
                    "device": prediction.describe(self.device),
                }
            )
            self.write_history(state["history"])
            if average:
                state["average"] = average.state_dict()
            # after the last one the weights themselves follow
            if epoch + 1 < member.epochs and ranks.first():
                state |= {"scores": pruner.scores if pruner else {}}
                self.save_checkpoint(network, optimiser, state, epoch + 1)
            if member.prunings and epoch + 1 == sum(phase.epochs for phase in member.dense_phases):
                self.save_dense(network, state["history"])
        if ranks.first():
            self.finish(average.module if average else network, source.scaling, state)

    def epoch(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        samples: tuple[int, Iterable[Batch]],
        epoch: int,
        losses: list[float],
        report: Report,
        pruner: pruning.Pruner | None = None,
        average: AveragedModel | None = None,
    ) -> float:
        """Train on batches, of which there are so many, and let `average` follow the weights;
        returns the mean loss.

        Args:
            losses: those of the phase's epochs so far.
        """
        member, (steps, batches) = self.recipe.member(self.task.member), samples
        phase, first = _phase_at(member.phases, epoch)
        torch.manual_seed(self.seed_of(epoch))
        loss_of = of_phase(phase, member.activation)
        _train_mode(network, phase.frozen)
        spread = ranks.spread(network)

        def forward(image: torch.Tensor) -> torch.Tensor:
            with autocast(member, self.device):
                return spread(image.contiguous(memory_format=LAYOUT))

        total, seen = torch.zeros((), device=self.device), 0
        for step, (image, mask, weight) in enumerate(batches):
            # half way through the step, so that neither the first nor the last learns nothing
            share = (step + 0.5) / steps
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(phase, (epoch - first + share) / phase.epochs, losses)
            loss, most = gradient_caching.gradients(
                network, forward, loss_of, (image, mask, weight), self.most or len(image)
            )
            if most < (self.most or len(image)):
                console.say(
                    f"{self.paths.task(self.recipe, self.task)}: "
                    f"{gradient_caching.describe(network, len(image), most)}"
                )
                self.most = most
            if pruner:
                pruner.observe()
            optimiser.step()
            if pruner and pruner.advance(
                *((epoch - first + (step + n) / steps) / phase.epochs for n in (0, 1)), image
            ):
                _renew(optimiser, network)
            if average:
                average.update_parameters(network)
            total += loss * len(image)
            seen += len(image)
            if step % 10 == 0:
                report((epoch + share) / member.epochs)
        return float(total) / seen

    def check_finite(self, network: nn.Module, loss: float, epoch: int) -> None:
        """
        Raises:
            UserError: an epoch ended with a loss or with weights that are no finite numbers;
                nothing of it has been written.
        """
        numbers = [
            tensor.isfinite().all()
            for tensor in network.state_dict().values()
            if tensor.is_floating_point()
        ]
        if math.isfinite(loss) and bool(torch.stack(numbers).all()):
            return
        phases = self.recipe.member(self.task.member).phases
        phase, _ = _phase_at(phases, epoch)
        number = next(place for place, own in enumerate(phases, 1) if own is phase)
        what = "the weights are not finite" if math.isfinite(loss) else f"the loss is {loss}"
        raise UserError(
            f"{self.paths.task(self.recipe, self.task)}: {what} after epoch {epoch + 1}, in "
            f"phase {number} of {len(phases)}: lower its learning_rate ({phase.learning_rate:g})"
        )

    def seed_of(self, epoch: int) -> int:
        """A seed for this member, fold, seed and epoch (-1: the initial weights)."""
        return int(
            artifacts.digest(f"{self.task.member} {self.task.fold} {self.task.seed} {epoch}")[:15],
            16,
        )

    def keep_best(
        self, network: nn.Module, score: float, state: dict[str, Any], epoch: int
    ) -> None:
        """Keep the weights of the best soft IoU on the held-out fold so far, as the CorroSeg
        paper picks its epoch.
        """
        if score > state["best_score"]:
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            state |= {"best_score": score, "best_epoch": epoch, "best": best}

    def resume(self, network: nn.Module) -> dict[str, Any]:
        """The state after the last finished epoch, with its weights in the network; or that
        before the first.
        """
        fresh = {
            "epoch": 0,
            "most": 0,
            "history": [],
            "best_score": -1.0,
            "best_epoch": 0,
            "best": {},
        }
        created_from, dense = checkpoints.dense_from(
            self.recipe, self.task, self.paths, self.created_from
        )
        for path, made_from in (
            (self.paths.checkpoint(self.recipe, self.task), self.created_from),
            (dense, created_from),
        ):
            state = checkpoints.load(
                path,
                network,
                made_from,
                bool(self.recipe.member(self.task.member).prunings),
                self.device,
            )
            if state:
                self.write_history(state["history"])
                return fresh | state
        return fresh

    def save_checkpoint(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        state: dict[str, Any],
        epoch: int,
    ) -> None:
        state |= {"epoch": epoch, "most": self.most, "created_from": self.created_from}
        state |= {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        checkpoints.save(state, self.paths.checkpoint(self.recipe, self.task))

    def save_dense(self, network: nn.Module, history: list[dict[str, Any]]) -> None:
        """Keep the network as it is before pruning, for other recipes that train alike up to
        here: see `checkpoints.dense_from`.
        """
        created_from, path = checkpoints.dense_from(
            self.recipe, self.task, self.paths, self.created_from
        )
        checkpoints.save(
            {
                "epoch": len(history),
                "network": network.state_dict(),
                "history": history,
                "created_from": created_from,
            },
            path,
        )

    def write_history(self, history: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(name for line in history for name in line))
        writer.writeheader()
        writer.writerows(history)
        if ranks.first():
            artifacts.write_text(self.paths.history(self.recipe, self.task), text.getvalue())

    def finish(self, network: nn.Module, scaling: Scaling, state: dict[str, Any]) -> None:
        """Write the weights with their scaling."""
        weights = state["best"] or pruning.plain_state(network)
        arrays = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
        arrays |= {"scaling.center": scaling.center, "scaling.scale": scaling.scale}
        artifacts.write_weights(
            self.paths.weights(self.recipe, self.task), arrays, self.created_from
        )


def _renew(optimiser: torch.optim.Optimizer, network: nn.Module) -> None:
    """Let an optimiser go on with the parameters of a network that has lost channels; it forgets
    its momenta, which fit no more.
    """
    optimiser.param_groups[0]["params"] = [
        weights for weights in network.parameters() if weights.requires_grad
    ]
    optimiser.state.clear()


def _average_of(network: nn.Module, decay: float, state: dict[str, Any]) -> AveragedModel | None:
    """The running average of a network's weights and batch statistics, continued from `state`
    where it has one; None without decay.
    """
    if not decay:
        return None
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    if "average" in state:
        average.load_state_dict(state["average"])
    return average


def _phase_at(phases: list[Phase], epoch: int) -> tuple[Phase, int]:
    """The phase that an epoch belongs to, and the phase's first epoch."""
    first = 0
    for phase in phases:
        if epoch < first + phase.epochs:
            return phase, first
        first += phase.epochs
    raise IndexError(epoch)


def freeze(network: nn.Module, frozen: list[str]) -> None:
    """Let only those weights learn whose names begin with none of `frozen`.

    Raises:
        UserError: a beginning that no weight has, or nothing left to learn.
    """
    # a weight under a mask
    names = [name.removesuffix("_orig") for name, _ in network.named_parameters()]
    for beginning in frozen:
        if not any(_within(name, beginning) for name in names):
            raise UserError(
                f'frozen = "{beginning}": '
                f"{did_you_mean(beginning, {name.rpartition('.')[0] for name in names})[:200]}"
            )
    for name, weights in zip(names, network.parameters(), strict=True):
        weights.requires_grad = not any(_within(name, beginning) for beginning in frozen)
    if not any(weights.requires_grad for weights in network.parameters()):
        raise UserError("frozen leaves nothing of the network to learn: name fewer parts")


def _train_mode(network: nn.Module, frozen: list[str]) -> None:
    """Training mode, but evaluation mode for frozen parts, whose batch statistics are to stay
    too.
    """
    network.train()
    for name, module in network.named_modules():
        if any(_within(name, beginning) for beginning in frozen):
            module.eval()


def _within(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(beginning + ".")


def _optimiser(network: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    learning = [weights for weights in network.parameters() if weights.requires_grad]
    more = {"momentum": phase.momentum} if phase.optimiser == "sgd" else {}
    return OPTIMISERS[phase.optimiser](
        learning, lr=phase.learning_rate, weight_decay=phase.weight_decay, fused=True, **more
    )
