"""One task on several devices: ranks, a process each, that share every batch and keep equal weights
(PyTorch's DistributedDataParallel).

Every rank draws the same batches, runs its share of each through the network, and knows the logits
of all: any loss is then the loss of the whole batch. Gradients of the ranks are summed, and batch
norm takes its statistics over the whole batch (SyncBatchNorm, on CUDA only), so that the weights
are those of one device up to rounding.
"""

import os
from collections.abc import Callable
from multiprocessing import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn.parallel import DistributedDataParallel

from src.tasks.parallel import die_with
from src.terminal.errors import UserError


def run(number: int, device: torch.device, function: Callable[..., None], *call: Any) -> None:
    """Run `function(*call, device)` once, or as so many ranks of one process group, on the GPUs
    from the current one on.

    On a CPU all ranks share it, which serves the tests alone: there batch norm takes the statistics
    of each rank's own share.

    Raises:
        UserError: what a rank raised as such, or a rank was killed.
    """
    if number == 1:
        return function(*call, device)
    devices = [
        torch.device("cuda", torch.cuda.current_device() + rank)
        if device.type == "cuda"
        else device
        for rank in range(number)
    ]
    said = multiprocessing.get_context("spawn").SimpleQueue()
    with TemporaryDirectory() as folder:
        own = (os.getpid(), devices, f"file://{folder}/ranks", said, function, call)
        try:
            multiprocessing.spawn(_rank, own, nprocs=number)
        except ProcessExitedException as error:
            died = (
                f"one of the {number} processes of a task died ({error}), most likely out of "
                "memory: use a smaller batch_size"
            )
            raise UserError(died if said.empty() else said.get()) from None


def _rank(
    rank: int,
    parent: int,
    devices: list[torch.device],
    meet: str,
    said: SimpleQueue,
    function: Callable[..., None],
    call: tuple[Any, ...],
) -> None:
    die_with(parent)
    device = devices[rank]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=meet, rank=rank, world_size=len(devices))
    try:
        function(*call, device)
    except (UserError, torch.OutOfMemoryError) as error:
        said.put(str(error))
        # at once: an orderly end would wait for the other ranks, which wait for this one
        os._exit(2)
    distributed.destroy_process_group()


def first() -> bool:
    """Whether this process is the one of its task that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def with_common_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, its batch norm over all ranks where there are several."""
    together = distributed.is_initialized() and device.type == "cuda"
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if together else network


def spread(network: nn.Module) -> nn.Module:
    """What takes a whole batch and returns its logits, as the network itself does, with the work
    shared where there are several ranks.
    """
    return _Spread(network) if distributed.is_initialized() else network


class _Spread(nn.Module):
    """Logits (B, ...) of a batch (B, ...): this rank's share to be differentiated, those of the
    other ranks as constants.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.replica, self.rank, self.ranks = (
            DistributedDataParallel(network),
            distributed.get_rank(),
            distributed.get_world_size(),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # too few to share: all ranks do the same, and the mean of equal gradients is the gradient
        if len(image) < self.ranks:
            return self.replica(image)
        shares = image.tensor_split(self.ranks)
        own = self.replica(shares[self.rank])
        before, after = (
            sum(map(len, part)) for part in (shares[: self.rank], shares[self.rank + 1 :])
        )
        with torch.no_grad():
            whole = torch.cat(
                [own.new_zeros(before, *own.shape[1:]), own, own.new_zeros(after, *own.shape[1:])]
            )
            distributed.all_reduce(whole)
        # a sum is wanted, and the replica takes the mean over the ranks
        own.register_hook(lambda gradient: gradient * self.ranks)
        return torch.cat([whole[:before], own, whole[before + len(own) :]])
