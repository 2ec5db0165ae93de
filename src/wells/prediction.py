"""Predict one split with one network, averaged over the symmetries of the pipe."""

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad

from src.artifacts import hdf5
from src.artifacts.predictions import Predictions
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.networks.devices import LAYOUT, autocast, in_bfloat16
from src.networks.folding import folded
from src.networks.layers import probability
from src.networks.loading import load_network
from src.networks.scaling import Scaling
from src.recipe import Inference, Member, Task
from src.wells import blocks, geometry
from src.wells.windows import Windows

# of windows that a CPU predicts at once: memory for more goes back to the system every time, and
# comes a page at a time
CPU_ROWS = 2304
# of windows, drawn from a well for its batch statistics: the rows of a thousand patches say enough
ADABN_ROWS = 1024 * 36

Networks = list[tuple[float, nn.Module]]  # that predict together, each with its weight in the mean


def predict(
    network: nn.Module, arrays: Arrays, member: Member, inference: Inference, device: torch.device
) -> np.ndarray:
    """Probabilities (N, 1, H, W) float16 of a prepared split (`image`, `group`, `depth`,
    `parity`), scaled for this network.
    """
    patches = np.empty((len(arrays["image"]), 1, *arrays["image"].shape[1:]), np.float16)
    for well in np.unique(arrays["group"]):
        here = arrays["group"] == well
        patches[here] = predict_well(
            network, blocks.rows_of(arrays, here), member, inference, device
        )
    return patches


def predict_well(
    network: nn.Module, arrays: Arrays, member: Member, inference: Inference, device: torch.device
) -> np.ndarray:
    """`predict` for the patches of one well: the network as it is and by AdaBN, by
    their weights.
    """
    network, networks = network.eval(), []
    dtype = torch.bfloat16 if in_bfloat16(member, device) else torch.float32
    if inference.adabn < 1:
        networks.append((1 - inference.adabn, folded(network, dtype)))
    if inference.adabn > 0:
        networks.append((inference.adabn, folded(adabn(network, arrays, member, device), dtype)))
    patches = _predict(
        networks, arrays, window_height(network, arrays, member, device), member, inference, device
    )
    if inference.average_neighbours:
        patches = geometry.average_neighbours(
            patches, arrays["group"], arrays["depth"], arrays["parity"]
        )
    return patches[:, None].astype(np.float16)


def adabn(network: nn.Module, arrays: Arrays, member: Member, device: torch.device) -> nn.Module:
    """A copy of the network whose batch norm holds the statistics of these images (AdaBN, Li et al.
    2018), which need no labels.

    Wells differ in texture and contrast, and a network is too sure or too timid in a well unlike
    those that it was trained on. A network without batch norm comes back as it is.
    """
    network = copy.deepcopy(network).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over all batches
            layer.train()
    windows = Windows.of(arrays, member.height, device, averages=member.depth_averages)
    starts = torch.from_numpy(windows.canvas.windows(member.height, member.margin)).to(device)
    # In random order: batches of neighbours would each lack the variance that lies between distant
    # places.
    order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(), autocast(member, device):
        for batch in starts[order[: -(-ADABN_ROWS // member.height)]].split(member.batch_size):
            x = torch.cat(_as_trained(windows.inputs(batch), member))
            network(x.contiguous(memory_format=LAYOUT))
    return network.eval()


def _predict(
    networks: Networks,
    arrays: Arrays,
    height: int,
    member: Member,
    inference: Inference,
    device: torch.device,
) -> np.ndarray:
    """Probabilities (N, H, W) float32 by networks together, each row from the windows that have
    it inside.
    """
    windows = Windows.of(arrays, height, device, averages=member.depth_averages)
    starts = torch.from_numpy(windows.canvas.windows(height, member.margin)).to(device)
    total = torch.zeros_like(windows.image)
    count = torch.zeros_like(windows.image[:, :1])
    inner = torch.arange(member.margin, height - member.margin, device=device)
    size = max(
        1,
        min(member.batch_size, CPU_ROWS // height)
        if device.type == "cpu"
        else member.batch_size * member.height // height,
    )
    with torch.inference_mode():
        for batch in starts.split(size):
            seen = [
                _average_views(networks, x, member, inference)
                for x in _as_trained(windows.inputs(batch), member)
            ]
            mean = (sum(seen) / len(seen))[:, 0, inner]
            rows = (batch[:, None] + inner).flatten()
            total.index_add_(0, rows, mean.flatten(0, 1))
            count.index_add_(0, rows, torch.ones_like(mean.flatten(0, 1)[:, :1]))
    place = torch.from_numpy(windows.canvas.position).to(device)
    return (total[place] / count[place]).cpu().numpy().reshape(arrays["image"].shape)


def window_height(network: nn.Module, arrays: Arrays, member: Member, device: torch.device) -> int:
    """How tall the windows of a prediction are: as in training, or two or four times that, where it
    saves rows.

    Rows of margin are computed and thrown away, fewer of them in taller windows, and a row sees at
    least as much pipe as in those of training. A network that looks at its whole window, however
    tall, keeps the windows that it knows: in four times the height what is not a number at both
    ends then reaches the middle.
    """
    strips = geometry.strips(arrays["group"], arrays["depth"], arrays["parity"])

    def rows(height: int) -> int:
        canvas = geometry.Canvas.of(strips, arrays["image"].shape[1], margin=height)
        return len(canvas.windows(height, member.margin)) * height

    height = min((member.height * times for times in (1, 2, 4)), key=rows)
    if height == member.height:
        return height
    x = torch.zeros(1, member.inputs, 4 * member.height, arrays["image"].shape[2], device=device)
    x[:, :, [0, -1]] = torch.nan
    try:
        with torch.inference_mode():
            middle = network.eval()(x)[:, :, 2 * member.height]
    except ValueError:  # it takes one height alone
        return member.height
    return height if middle.isfinite().all() else member.height


def _as_trained(x: torch.Tensor, member: Member) -> list[torch.Tensor]:
    """The windows (B, C, H, W) as they are; and without their averages along depth too, if those
    were dropped in training.
    """
    return (
        [x, pad(x[:, :1], (0, 0, 0, 0, 0, x.shape[1] - 1))] if member.augment.drop_averages else [x]
    )


def _average_views(
    networks: Networks, x: torch.Tensor, member: Member, inference: Inference
) -> torch.Tensor:
    """Mean probability by networks together over flips, each view turned back."""
    flips = [[], [2], [3], [2, 3]] if inference.flips else [[]]
    total = torch.zeros_like(x[:, :1])
    for flip in flips:
        view = x.flip(flip).contiguous(memory_format=LAYOUT)
        with autocast(member, x.device):
            seen = sum(weight * probability(network(view)) for weight, network in networks)
        total += seen.flip(flip)
    return total / len(flips)


def predict_split(run: Run, task: Task, split: str, device: torch.device) -> Predictions:
    """What a trained task says of its held-out fold ("train") or of the test set.

    Either goes through the network a few wells at a time.
    """
    network, scaling = load_network(run, task, device)
    size = hdf5.shape(run.prepared(split), "image")[1:]
    if split == "test":
        wells = blocks.prepared(run, split, "image")
        names = wells.index["name"]
        predicted = _predict_blocks(network, scaling, wells, run, task, device)
    else:
        known = hdf5.read(run.prepared(split), "name", "fold")
        names = known["name"][known["fold"] == task.fold]
        predicted = predict_held_out(network, scaling, run, task, device)
    return Predictions(names, (1, *size), (block["probability"] for block in predicted))


def predict_held_out(
    network: nn.Module, scaling: Scaling, run: Run, task: Task, device: torch.device, *more: str
) -> Iterator[Arrays]:
    """The patches of a task's held-out fold with their `probability` (n, 1, H, W), in the order of
    train.h5, a few wells at a time; `more` names further arrays.
    """
    train = blocks.prepared(run, "train", "image", *more, every=True)
    wells = train.of(np.unique(train.index["group"][train.index["fold"] == task.fold]))
    for block in _predict_blocks(network, scaling, wells, run, task, device):
        yield blocks.rows_of(block, block["fold"] == task.fold)


def _predict_blocks(
    network: nn.Module,
    scaling: Scaling,
    wells: Iterable[Arrays],
    run: Run,
    task: Task,
    device: torch.device,
) -> Iterator[Arrays]:
    member = run.recipe.member(task.member)
    for block in wells:
        block["image"] = scaling.apply(block["image"])
        yield block | {"probability": predict(network, block, member, run.recipe.inference, device)}
