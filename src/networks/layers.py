"""Layers that several networks share."""

from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable

Activation = Literal["sigmoid", "softmax"]


class RingConv2d(nn.Conv2d):
    """A 3x3 convolution on an unrolled pipe: azimuth closes into a ring, depth repeats its end
    rows.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel_size=3, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Compilers and exporters know concatenations, and fuse them.
        return super().forward(ring_pad(x) if torch.compiler.is_compiling() else RingPad.apply(x))


def ring_pad(x: torch.Tensor) -> torch.Tensor:
    """Maps (B, C, H, W) as (B, C, H + 2, W + 2), with a column more at both ends of the ring and
    the end rows repeated.
    """
    x = torch.cat([x[..., -1:], x, x[..., :1]], dim=3)
    return torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)


class RingPad(torch.autograd.Function):
    """`ring_pad`, forward with one copy instead of two, and backward 2 to 20 times faster: without
    it, padding costs more than convolving. Torch's own replication padding will not do, because its
    gradient is not deterministic on CUDA.
    """

    @staticmethod
    def forward(_context: Any, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        padded = torch.empty(
            (batch, channels, height + 2, width + 2),
            dtype=x.dtype,
            device=x.device,
            memory_format=_layout(x),
        )
        padded[..., 1:-1, 1:-1] = x
        padded[..., 1:-1, 0], padded[..., 1:-1, -1] = x[..., -1], x[..., 0]
        padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]
        return padded

    @staticmethod
    @once_differentiable
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Each row and column that was repeated adds its gradient to where it came from."""
        rows = gradient[:, :, 1:-1].clone(memory_format=_layout(gradient))
        rows[:, :, 0] += gradient[:, :, 0]
        rows[:, :, -1] += gradient[:, :, -1]
        result = rows[..., 1:-1].contiguous(memory_format=_layout(gradient))
        result[..., -1] += rows[..., 0]
        result[..., 0] += rows[..., -1]
        return result


def _layout(x: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def double_ring_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Twice ring convolution, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            RingConv2d(channels, outputs, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def probability(logits: torch.Tensor, activation: Activation = "sigmoid") -> torch.Tensor:
    """What logits mean: the one place where the sigmoid and the softmax are.

    Args:
        logits: (B, K, H, W) for K classes, each by itself; with "softmax" (B, K + 1, H, W), the
            background first.

    Returns:
        (B, K, H, W) float32, or float64 from float64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=1)[:, 1:]
