"""Fit one task: one member on all folds but one, from one seed, epoch by epoch."""

import csv
import io
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from src.artifacts import lineage, sealed
from src.artifacts.digests import digest
from src.artifacts.files import write_text
from src.artifacts.run import Run
from src.networks import devices
from src.networks.devices import LAYOUT, autocast
from src.recipe import Phase, Task
from src.terminal import console
from src.terminal.errors import UserError, did_you_mean
from src.training import checkpoints, gradient_caching, pruning, ranks
from src.training.data import Batch, TrainingSet
from src.training.losses import Loss, of_phase
from src.training.schedules import learning_rate

# told the finished share of a task, 0 to 1, and how to say more, which may wait for the device
Report = Callable[[float, Callable[[], str]], None]
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Fit:
    """One training, epoch by epoch, with a checkpoint after each.

    Every epoch starts from a random state of its own, drawn from the task and the epoch's number: a
    training that was killed and resumed gives the same bytes as one that was not.
    """

    def __init__(self, run: Run, task: Task, data: TrainingSet, device: torch.device) -> None:
        self.at, self.task, self.data, self.device = run, task, data, device
        self.member = run.recipe.member(task.member)
        self.inputs = lineage.weights(run, task)
        torch.manual_seed(self.seed_of(-1))
        network = ranks.with_common_statistics(data.network(), device)
        self.network = network.to(device, memory_format=LAYOUT)
        self.state = self.resume()
        self.average = _average_of(self.network, self.member.ema, self.state)
        # samples at once, where there was no memory for a whole batch
        self.most = self.state["most"]
        self.pruner: pruning.Pruner | None = None
        self.optimiser: torch.optim.Optimizer | None = None

    @property
    def trained(self) -> nn.Module:
        """The network that is kept: the running average, where there is one."""
        return self.average.module if self.average else self.network

    def run(self, report: Report) -> None:
        """Train, and write weights and history."""
        start = self.state["epoch"]
        for epoch in range(start, self.member.epochs):
            stop = self.member.early_stopping
            if stop and epoch - self.state["best_epoch"] > stop:
                break
            phase, first = _phase_at(self.member.phases, epoch)
            if epoch in (first, start):
                self.begin(phase, resumed=epoch > first)
            began = time.monotonic()
            line = self.epoch(epoch, report) | self.evaluate(epoch)
            line |= {"seconds": f"{time.monotonic() - began:.1f}"}
            self.state["history"].append(line | {"device": devices.describe(self.device)})
            self.keep(epoch)
        if ranks.first():
            self.finish()

    def begin(self, phase: Phase, resumed: bool) -> None:
        """Freeze, prune and optimise as a phase says, from its beginning or from a checkpoint."""
        freeze(self.network, phase.frozen)
        if self.pruner:
            self.pruner.release()
        scores = self.state["scores"] if resumed else None
        self.pruner = phase.pruning and pruning.Pruner(self.network, phase.pruning, scores)
        # after the pruner, which may have put masks on the weights
        self.optimiser = _optimiser(self.network, phase)
        if resumed:
            self.optimiser.load_state_dict(self.state["optimiser"])

    def epoch(self, epoch: int, report: Report) -> dict[str, Any]:
        """Train on every batch once; returns a line of the history.

        Raises:
            UserError: the loss or a weight is no finite number.
        """
        steps, batches = self.data.epoch(epoch, self.seed_of(epoch))
        phase, first = _phase_at(self.member.phases, epoch)
        losses = [float(line["loss"]) for line in self.state["history"][first:]]
        torch.manual_seed(self.seed_of(epoch))
        loss_of = of_phase(phase, self.member.activation)
        _train_mode(self.network, phase.frozen)
        spread = ranks.spread(self.network)

        def forward(image: torch.Tensor) -> torch.Tensor:
            with autocast(self.member, self.device):
                return spread(image.contiguous(memory_format=LAYOUT))

        total, seen, began = torch.zeros((), device=self.device), 0, time.monotonic()

        def words() -> str:
            pace = seen / (time.monotonic() - began)
            return (
                f"epoch {epoch + 1}/{self.member.epochs}, loss {float(total) / seen:.4f}, "
                f"{pace:.{0 if pace >= 10 else 1}f} images/s"
            )

        for step, batch in enumerate(batches):
            # half way through the step, so that neither the first nor the last learns nothing
            share = (step + 0.5) / steps
            done = (epoch - first) * steps + step
            rate = learning_rate(phase, (epoch - first + share) / phase.epochs, losses, done)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            total += self.step(forward, loss_of, batch) * len(batch[0])
            seen += len(batch[0])
            between = [(epoch - first + (step + n) / steps) / phase.epochs for n in (0, 1)]
            if self.pruner and self.pruner.advance(*between, batch[0]):
                _renew(self.optimiser, self.network)
            if self.average:
                self.average.update_parameters(self.network)
            if step % 10 == 0:
                report((epoch + share) / self.member.epochs, words)
        loss = float(total) / seen
        self.check_finite(loss, epoch)
        rate = self.optimiser.param_groups[0]["lr"]
        line = {"epoch": epoch + 1, "loss": f"{loss:.6f}", "learning_rate": f"{rate:.3g}"}
        if self.member.prunings:
            line |= {"weights": str(pruning.count_weights(self.network))}
        return line

    def step(self, forward: gradient_caching.Forward, loss_of: Loss, batch: Batch) -> torch.Tensor:
        """One step of the optimiser; returns the batch's loss."""
        samples = len(batch[0])
        allowed = self.most or samples
        loss, most = gradient_caching.gradients(self.network, forward, loss_of, batch, allowed)
        if most < allowed:
            summary = gradient_caching.describe(self.network, samples, most)
            console.say(f"{self.at.task(self.task)}: {summary}")
            self.most = most
        if self.pruner:
            self.pruner.observe()
        self.optimiser.step()
        return loss

    def check_finite(self, loss: float, epoch: int) -> None:
        """
        Raises:
            UserError: an epoch ended with a loss or with weights that are no finite numbers;
                nothing of it has been written.
        """
        numbers = [
            tensor.isfinite().all()
            for tensor in self.network.state_dict().values()
            if tensor.is_floating_point()
        ]
        if math.isfinite(loss) and bool(torch.stack(numbers).all()):
            return
        phase, _ = _phase_at(self.member.phases, epoch)
        number = next(n for n, own in enumerate(self.member.phases, 1) if own is phase)
        what = "the weights are not finite" if math.isfinite(loss) else f"the loss is {loss}"
        raise UserError(
            f"{self.at.task(self.task)}: {what} after epoch {epoch + 1}, in phase {number} of "
            f"{len(self.member.phases)}: lower its learning_rate ({phase.learning_rate:g})"
        )

    def evaluate(self, epoch: int) -> dict[str, str]:
        """Scores on the held-out fold, where the recipe wants them of this epoch."""
        selects, every = self.member.selection == "best_on_held_out", self.member.eval_every
        if not selects and not (every and (epoch + 1) % every == 0):
            return {}
        scores = self.data.held_out(self.trained)
        *_, score = scores.values()
        if selects and score > self.state["best_score"]:
            # the best of its IoU so far, as in the pruning study; the CorroSeg paper's code picks
            # the lowest held-out loss, which under smooth IoU is nearly 1 minus it
            best = {name: tensor.clone() for name, tensor in self.trained.state_dict().items()}
            self.state |= {"best_score": score}
            self.state |= {"best_epoch": epoch, "best": best}
        return {name: f"{score:.6f}" for name, score in scores.items()}

    def keep(self, epoch: int) -> None:
        """Write the history and, unless the weights themselves follow, a checkpoint."""
        self.write_history()
        if epoch + 1 < self.member.epochs and ranks.first():
            self.save_checkpoint(epoch + 1)
        if self.member.prunings and epoch + 1 == sum(p.epochs for p in self.member.dense_phases):
            self.save_dense()

    def seed_of(self, epoch: int) -> int:
        """A seed for this member, fold, seed and epoch (-1: the initial weights)."""
        named = f"{self.task.member} {self.task.fold} {self.task.seed} {epoch}"
        return int(digest(named)[:15], 16)

    def resume(self) -> dict[str, Any]:
        """The state after the last finished epoch, with its weights in the network; or that
        before the first.
        """
        fresh = {"epoch": 0, "most": 0, "history": [], "scores": {}}
        fresh |= {"best_score": -1.0, "best_epoch": 0, "best": {}}
        prunes = bool(self.member.prunings)
        inputs, dense = checkpoints.dense(self.at, self.task)
        for path, own in ((self.at.checkpoint(self.task), self.inputs), (dense, inputs)):
            state = checkpoints.load(path, self.network, own, prunes, self.device)
            if state:
                self.state = fresh | state
                self.write_history()
                return self.state
        return fresh

    def save_checkpoint(self, epoch: int) -> None:
        if self.average:
            self.state["average"] = self.average.state_dict()
        self.state |= {"epoch": epoch, "most": self.most}
        self.state |= {"scores": self.pruner.scores if self.pruner else {}}
        self.state |= {"network": self.network.state_dict()}
        self.state |= {"optimiser": self.optimiser.state_dict()}
        checkpoints.save(self.state, self.inputs, self.at.checkpoint(self.task))

    def save_dense(self) -> None:
        """Keep the network as it is before pruning, for other recipes that train alike up to
        here: see `checkpoints.dense`.
        """
        inputs, path = checkpoints.dense(self.at, self.task)
        history = self.state["history"]
        state = {"epoch": len(history), "network": self.network.state_dict(), "history": history}
        checkpoints.save(state, inputs, path)

    def write_history(self) -> None:
        history, text = self.state["history"], io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(name for line in history for name in line))
        writer.writeheader()
        writer.writerows(history)
        if ranks.first():
            write_text(self.at.history(self.task), text.getvalue())

    def finish(self) -> None:
        """Write the weights with their scaling."""
        weights = self.state["best"] or pruning.plain_state(self.trained)
        arrays = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
        arrays |= {"scaling.center": self.data.scaling.center}
        arrays |= {"scaling.scale": self.data.scaling.scale}
        sealed.write_weights(self.at.weights(self.task), arrays, self.inputs)


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
