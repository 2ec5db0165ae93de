"""The gradients of a batch that is too large for the memory of the GPU: in parts, one after the
other.
"""

from collections.abc import Callable

import torch
from torch import distributed, nn

from src.training.data import Batch
from src.training.losses import Loss

Forward = Callable[[torch.Tensor], torch.Tensor]


def gradients(
    network: nn.Module, forward: Forward, loss_of: Loss, batch: Batch, most: int
) -> tuple[torch.Tensor, int]:
    """Leave the gradients of a batch's loss in the network, with no more samples at once than there
    is memory for.

    Args:
        forward: from images (B, C, H, W) to the network's logits.
        most: how many samples at once to try first.

    Returns:
        The loss, and how many samples at once it took in the end.

    Raises:
        torch.OutOfMemoryError: even one sample is too large, or the task has several GPUs.
    """
    statistics, device = _statistics(network), batch[0].device
    before = [tensor.clone() for tensor in statistics]
    drawn = (
        torch.get_rng_state(),
        torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    )
    while True:
        network.zero_grad(set_to_none=True)
        try:
            return _gradients(forward, loss_of, batch, most, statistics), most
        except torch.OutOfMemoryError:
            # the other ranks of a task would wait for this one
            if most == 1 or distributed.is_initialized():
                raise
        # Beyond the handler, so that what the failed attempt held is free by now.
        most = -(-min(most, len(batch[0])) // 2)
        _restore(statistics, before)
        torch.set_rng_state(drawn[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(drawn[1], device)
            torch.cuda.empty_cache()


def _gradients(
    forward: Forward, loss_of: Loss, batch: Batch, most: int, statistics: list[torch.Tensor]
) -> torch.Tensor:
    """The loss of a whole batch, whose gradients reach the network part by part (GradCache: Gao et
    al. 2021, section 3).

    All logits come first, without what gradients need; they are small. The loss of all of them
    gives each its gradient, with which every part passes through the network a second time. This is
    exact for losses over the whole batch too, unlike a sum over parts.
    """
    image, mask, weight = batch
    parts = -(-len(image) // most)
    if parts == 1:
        loss = loss_of(forward(image), mask, weight)
        loss.backward()
        return loss.detach()
    pieces, before = image.tensor_split(parts), [tensor.clone() for tensor in statistics]
    with (
        torch.no_grad(),
        torch.random.fork_rng([image.device] if image.device.type == "cuda" else []),
    ):
        logits = torch.cat([forward(piece) for piece in pieces])
    _restore(statistics, before)  # the second pass will count, with the same random numbers
    logits.requires_grad_()
    loss = loss_of(logits, mask, weight)
    loss.backward()
    for piece, gradient in zip(pieces, logits.grad.tensor_split(parts), strict=True):
        forward(piece).backward(gradient)
    return loss.detach()


def _statistics(network: nn.Module) -> list[torch.Tensor]:
    """The running statistics of batch norm, which every forward pass moves."""
    return [tensor for layer in _batch_norms(network) for tensor in layer.buffers()]


def _restore(statistics: list[torch.Tensor], before: list[torch.Tensor]) -> None:
    for tensor, old in zip(statistics, before, strict=True):
        tensor.copy_(old)


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [
        layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]


def describe(network: nn.Module, samples: int, most: int) -> str:
    """What it changes that batches of so many samples go through the network in parts, for the
    terminal.
    """
    line = (
        f"out of memory on the GPU: batches of {samples} go through the network {most} at a "
        "time from here on, twice a step; "
    )
    line += "every loss is still that of the whole batch"
    return line + (
        ", but batch norm takes the mean and variance of each part by itself"
        if _batch_norms(network)
        else ""
    )
