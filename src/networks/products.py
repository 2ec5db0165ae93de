"""Convolutions that CPUs do faster as one product of matrices, forward and backward; elsewhere they
are torch's own.

Weights and their names are those of torch's layers.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

# maps so small and so deep: their weights are more than they are themselves
FEW_PIXELS, MANY_CHANNELS = 9, 512


def _by_product(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class BlockUpsampling(nn.ConvTranspose2d):
    """A transposed convolution whose stride is its kernel: each pixel by itself becomes a block
    of (rows, columns) pixels.
    """

    def __init__(self, inputs: int, outputs: int, block: int | tuple[int, int]) -> None:
        super().__init__(inputs, outputs, block, stride=block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Blocks.apply(x, self.weight, self.bias) if _by_product(x) else super().forward(x)


class DeepConv2d(nn.Conv2d):
    """A 3x3 convolution of maps with a border of zeros."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = x.shape[2] * x.shape[3] <= FEW_PIXELS and self.in_channels >= MANY_CHANNELS
        return (
            _Neighbours.apply(x, self.weight, self.bias)
            if deep and _by_product(x)
            else super().forward(x)
        )


class _Blocks(torch.autograd.Function):
    """(B, C, h, w), weights (C, K, rows, columns) and bias (K,) to (B, K, h rows, w columns)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        (batch, inputs, height, width), (_, outputs, rows, columns) = x.shape, weight.shape
        pixels, matrix = (
            x.permute(0, 2, 3, 1).reshape(-1, inputs),
            weight.permute(2, 3, 1, 0).reshape(-1, inputs),
        )
        context.save_for_backward(pixels, matrix)
        context.blocks = (batch, height, width, rows, columns, outputs)
        blocks = (
            torch.addmm(bias.repeat(rows * columns), pixels, matrix.T)
            .view(context.blocks)
            .transpose(2, 3)
        )
        result = _empty(x, (batch, outputs, height * rows, width * columns))
        result.permute(0, 2, 3, 1).view(blocks.shape).copy_(blocks)
        return result

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(
        context: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        (pixels, matrix), (batch, height, width, rows, columns, outputs) = (
            context.saved_tensors,
            context.blocks,
        )
        blocks = (
            gradient.permute(0, 2, 3, 1)
            .reshape(batch, height, rows, width, columns, outputs)
            .transpose(2, 3)
        )
        blocks = blocks.reshape(-1, rows * columns * outputs)
        x = (blocks @ matrix).view(batch, height, width, -1).permute(0, 3, 1, 2)
        weight = (blocks.T @ pixels).view(rows, columns, outputs, -1).permute(3, 2, 0, 1)
        return x, weight, _sum(blocks).view(-1, outputs).sum(0)


class _Neighbours(torch.autograd.Function):
    """A 3x3 convolution of (B, C, h, w) by weights (K, C, 3, 3) and a bias (K,) or None, with a
    border of zeros.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        batch, _, height, width = x.shape
        padded = pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        shifted = [
            padded[:, row : row + height, column : column + width]
            for row in range(3)
            for column in range(3)
        ]
        neighbours, matrix = (
            torch.cat(shifted, dim=3).flatten(0, 2),
            weight.permute(0, 2, 3, 1).flatten(1),
        )
        context.save_for_backward(neighbours, matrix)
        context.shape, context.bias = (batch, height, width, -1), bias is not None
        result = _empty(x, (batch, len(matrix), height, width))
        pixels = torch.mm(neighbours, matrix.T, out=result.permute(0, 2, 3, 1).flatten(0, 2))
        if bias is not None:
            pixels += bias
        return result

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(
        context: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        (neighbours, matrix), (batch, height, width, _) = context.saved_tensors, context.shape
        pixels = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        shifted = (pixels @ matrix).view(batch, height, width, 9, -1)
        x = shifted.new_zeros(
            (batch, height + 2, width + 2, shifted.shape[4]), dtype=_exact(shifted)
        )
        for place in range(9):
            row, column = divmod(place, 3)
            x[:, row : row + height, column : column + width] += shifted[:, :, :, place]
        x = x[:, 1:-1, 1:-1].to(gradient.dtype).permute(0, 3, 1, 2)
        weight = (pixels.T @ neighbours).view(len(matrix), 3, 3, -1).permute(0, 3, 1, 2)
        return x, weight, _sum(pixels) if context.bias else None


def _empty(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Not a view of what was computed: a ReLU may work in place on it."""
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _exact(x: torch.Tensor) -> torch.dtype:
    """What sums of x are taken in."""
    return torch.promote_types(x.dtype, torch.float32)


def _sum(x: torch.Tensor) -> torch.Tensor:
    return x.sum(0, dtype=_exact(x))
