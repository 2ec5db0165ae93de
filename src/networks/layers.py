"""Layers that several networks share."""

from typing import Literal

import torch
from torch import nn

Activation = Literal["sigmoid", "softmax"]


class RingConv2d(nn.Conv2d):
    """A 3x3 convolution on an unrolled pipe: azimuth closes into a ring, depth repeats its end rows.

    The padding concatenates, because the gradient of torch's replication padding is not deterministic on CUDA.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel_size=3, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x[..., -1:], x, x[..., :1]], dim=3)
        return super().forward(torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2))


def double_ring_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Twice ring convolution, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [RingConv2d(channels, outputs, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def probability(logits: torch.Tensor, activation: Activation = "sigmoid") -> torch.Tensor:
    """What logits mean: the one place where the sigmoid and the softmax are.

    Args:
        logits: (B, K, H, W) for K classes, each by itself; with "softmax" (B, K + 1, H, W), the background first.

    Returns:
        (B, K, H, W) float32, or float64 from float64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=1)[:, 1:]
