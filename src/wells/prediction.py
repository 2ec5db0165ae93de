"""Predict one split with one network, averaged over the symmetries of the pipe."""

import copy
import platform
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad

from src import artifacts, networks
from src.artifacts import Arrays, CreatedFrom, Paths, streams
from src.networks.folding import folded
from src.networks.layers import probability
from src.recipe import Inference, Member, Recipe, Task
from src.terminal.errors import UserError
from src.wells import blocks, geometry
from src.wells.cleaning import Scaling
from src.wells.windows import Windows

# of images and weights: the faster one for convolutions, on CPUs and GPUs
LAYOUT = torch.channels_last
# of windows that a CPU predicts at once: memory for more goes back to the system every time, and
# comes a page at a time
CPU_ROWS = 2304
# of windows, drawn from a well for its batch statistics: the rows of a thousand patches say enough
ADAPT_ROWS = 1024 * 36

Networks = list[tuple[float, nn.Module]]  # that predict together, each with its weight in the mean


def choose_device(name: str) -> torch.device:
    """The device for `--device`: "auto" takes CUDA where there is one; asking for CUDA where
    there is none is an error.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe(device: torch.device) -> str:
    """What a device is called by its maker, a CPU with the threads in use: what a time is worth
    depends on it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [
        line.partition(":")[2].strip()
        for line in _cpuinfo().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def set_up_torch(threads: int) -> None:
    """The CPU threads to use, and the same bytes for the same task on the same machine."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # nothing reads such memory, and filling it costs a tenth of training
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


def autocast(member: Member, device: torch.device) -> AbstractContextManager[None]:
    """The precision of the member's forward passes: bfloat16 where asked for, or where "auto"
    finds hardware for it.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_in_bfloat16(member, device))


def _in_bfloat16(member: Member, device: torch.device) -> bool:
    return member.precision == "bfloat16" or (member.precision == "auto" and _has_bfloat16(device))


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo().split()))


def _cpuinfo() -> str:
    """What Linux says of the CPU; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def load_network(
    recipe: Recipe, task: Task, paths: Paths, device: torch.device, classes: int | None = None
) -> tuple[nn.Module, Scaling]:
    """The trained network of a task, in evaluation mode, and the scaling of its input.

    Args:
        classes: of a network for photographs.

    Raises:
        UserError: the weights are missing, damaged, or of another network.
    """
    path = paths.weights(recipe, task)
    arrays = artifacts.read_weights(path)
    scaling = Scaling(arrays.pop("scaling.center"), arrays.pop("scaling.scale"))
    member = recipe.member(task.member)
    options = (
        member.network
        if classes is None
        else networks.for_photographs(member, classes, len(scaling.center))
    )
    network = networks.create(networks.untrained(options))
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if any(pruning.channels for pruning in member.prunings):
        from src.training.pruning import fit_state  # with Torch-Pruning, whose import takes seconds

        fit_state(network, state)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise UserError(
            f"{path} holds the weights of another network: run 01_train_folds.py {recipe.name}"
        ) from None
    return network.to(device, memory_format=LAYOUT).eval(), scaling


def predict(
    network: nn.Module, arrays: Arrays, member: Member, inference: Inference, device: torch.device
) -> np.ndarray:
    """Probabilities (N, 1, H, W) float16 of a prepared split (`image`, `group`, `depth`,
    `phase`), scaled for this network.
    """
    patches = np.empty((len(arrays["image"]), 1, *arrays["image"].shape[1:]), np.float16)
    for well in np.unique(arrays["group"]):
        here = arrays["group"] == well
        patches[here] = predict_well(network, rows_of(arrays, here), member, inference, device)
    return patches


def predict_well(
    network: nn.Module, arrays: Arrays, member: Member, inference: Inference, device: torch.device
) -> np.ndarray:
    """`predict` for the patches of one well: the network as it is and adapted to the well, by
    their weights.
    """
    network, networks = network.eval(), []
    dtype = torch.bfloat16 if _in_bfloat16(member, device) else torch.float32
    if inference.adapt < 1:
        networks.append((1 - inference.adapt, folded(network, dtype)))
    if inference.adapt > 0:
        networks.append((inference.adapt, folded(adapted(network, arrays, member, device), dtype)))
    patches = _predict(
        networks, arrays, window_height(network, arrays, member, device), member, inference, device
    )
    if inference.average_twins:
        patches = geometry.average_twins(patches, arrays["group"], arrays["depth"], arrays["phase"])
    return patches[:, None].astype(np.float16)


def check_finite(probability: np.ndarray, weights: Path) -> None:
    """
    Raises:
        UserError: a network with these weights predicts what is no number.
    """
    if not np.isfinite(probability).all():
        raise UserError(
            f"{weights}: the network predicts probabilities that are not finite: train it again "
            "with a lower learning_rate"
        )


def adapted(network: nn.Module, arrays: Arrays, member: Member, device: torch.device) -> nn.Module:
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
    windows = Windows.of(
        arrays, member.height, device, averages=member.depth_averages, beside=member.beside
    )
    starts = torch.from_numpy(windows.canvas.windows(member.height, member.margin)).to(device)
    # In random order: batches of neighbours would each lack the variance that lies between distant
    # places.
    order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(), autocast(member, device):
        for batch in starts[order[: -(-ADAPT_ROWS // member.height)]].split(member.batch_size):
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
    windows = Windows.of(
        arrays, height, device, averages=member.depth_averages, beside=member.beside
    )
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
    strips = geometry.strips(arrays["group"], arrays["depth"], arrays["phase"])

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
    """Mean probability by networks together over flips and rolls, each view turned back."""
    flips = [[], [2], [3], [2, 3]] if inference.flips else [[]]
    views = list(product(flips, inference.rolls))
    total = torch.zeros_like(x[:, :1])
    for flip, roll in views:
        view = x.flip(flip).roll(roll, dims=3).contiguous(memory_format=LAYOUT)
        with autocast(member, x.device):
            seen = sum(weight * probability(network(view)) for weight, network in networks)
        total += seen.roll(-roll, dims=3).flip(flip)
    return total / len(views)


def weights_from(recipe: Recipe, task: Task, prepared: str) -> CreatedFrom:
    """What a task's weights are made from; `prepared` is the digest of the prepared file."""
    member = recipe.member(task.member)
    # then training knows nothing of the margin, which is for prediction
    if member.selection == "last":
        member = member.model_copy(update={"margin": 0})
    return {
        "format": str(artifacts.FORMAT),
        "prepared": prepared,
        "member": artifacts.digest(member),
    }


def predictions_from(recipe: Recipe, task: Task, paths: Paths, prepared: str) -> CreatedFrom:
    """What a task's predictions are made from.

    Raises:
        UserError: the task has not been trained, or not with this recipe on this data.
    """
    weights = paths.weights(recipe, task)
    if not artifacts.up_to_date(weights, weights_from(recipe, task, prepared), quiet=True):
        raise UserError(
            f"{weights} is missing, damaged or of other data or settings: run "
            "01_train_folds.py with the same arguments first"
        )
    how = artifacts.digest(recipe.inference, str(recipe.member(task.member).margin))
    return {"prepared": prepared, "weights": artifacts.digest_files([weights]), "inference": how}


def test_from(recipe: Recipe, task: Task, paths: Paths, prepared: str) -> CreatedFrom:
    """What a task's test predictions are made from."""
    return predictions_from(recipe, task, paths, prepared)


def predict_test(
    recipe: Recipe,
    task: Task,
    paths: Paths,
    inputs: CreatedFrom,
    device: torch.device,
    threads: int,
) -> None:
    """Predict the test set with one task's network, a few wells in memory at a time; `inputs` is
    what `test_from` says of it.
    """
    set_up_torch(threads)
    network, scaling = load_network(recipe, task, paths, device)
    wells, shape = (
        blocks.prepared(recipe, paths, "test", ["image"]),
        artifacts.read_shape(paths.prepared(recipe), "test/image")[1:],
    )
    with streams.filling(paths.test(recipe, task), inputs) as file:
        file.put("name", wells.index["name"])
        file.create("probability", (len(wells), 1, *shape), np.float16)
        for block in wells:
            block["image"] = scaling.apply(block["image"])
            own = predict(network, block, recipe.member(task.member), recipe.inference, device)
            check_finite(own, paths.weights(recipe, task))
            file.write("probability", int(block["place"][0]), own)


def read_split(paths: Paths, recipe: Recipe, split: str, *more: str) -> Arrays:
    """What prediction needs of a prepared split; `more` names further arrays, such as "mask".
    Without `valid` all pixels are valid.
    """
    arrays = artifacts.read_split(
        paths.prepared(recipe),
        split,
        ["name", "image", "group", "depth", "phase", *more],
        ["valid"],
    )
    return {"valid": np.ones(arrays["image"].shape, bool), **arrays}


def rows_of(arrays: Arrays, which: np.ndarray) -> Arrays:
    """The same arrays with only the patches `which` (a mask or indices)."""
    return {name: array[which] for name, array in arrays.items()}
