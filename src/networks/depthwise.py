"""Depthwise convolutions with gradients that CPUs compute fast in bfloat16; elsewhere, and in
float32, they are torch's own.

oneDNN has no fast kernels for some of their gradients in bfloat16: those of the input where a
stride halves the maps, and those of kernels larger than 3x3. On two cores of an AMD EPYC they took
a third of a training step of U-Net on EfficientNet-Lite0; in float32 they take a fifth of that.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d

Pair = tuple[int, int]


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise layer of another network, with that layer's own weights; `same` pads the input as
    TensorFlow does.
    """

    def __init__(self, like: nn.Conv2d, same: bool) -> None:
        options = (like.kernel_size, like.stride, like.padding, like.dilation, like.groups)
        biased = like.bias is not None
        super().__init__(like.in_channels, like.out_channels, *options, biased, device="meta")
        self.weight, self.bias, self.same = like.weight, like.bias, same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = self.padding
        if self.same:
            from timm.layers import pad_same

            x, padding = pad_same(x, self.kernel_size, self.stride, self.dilation), (0, 0)
        if self.bias is None and _in_bfloat16(x):
            return _Depthwise.apply(x, self.weight, self.stride, padding, self.dilation)
        return conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _in_bfloat16(x: torch.Tensor) -> bool:
    """Whether autocast computes in bfloat16 here, on a CPU, and gradients will be wanted."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_compiling()
    )


class _Depthwise(torch.autograd.Function):
    """(B, C, H, W) and weights (C, 1, h, w) to (B, C, H', W')."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(
        context: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> torch.Tensor:
        context.save_for_backward(x, weight)
        context.how = stride, padding, dilation
        return conv2d(x, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, weight), (stride, padding, dilation) = context.saved_tensors, context.how

        def of(wanted: list[bool], wide: bool) -> torch.Tensor:
            tensors = (gradient, x, weight)
            results = torch.ops.aten.convolution_backward(
                *(tensor.float() if wide else tensor for tensor in tensors),
                *(None, stride, padding, dilation, False, (0, 0), len(weight), wanted),
            )
            return results[wanted.index(True)].to(torch.bfloat16)

        of_x, of_weight = context.needs_input_grad[:2]
        return (
            of([True, False, False], max(stride) > 1) if of_x else None,
            of([False, True, False], max(weight.shape[2:]) > 3) if of_weight else None,
            *(None, None, None),
        )


def quicken(network: nn.Module) -> nn.Module:
    """The same network, its depthwise layers replaced by `DepthwiseConv2d`s of the same names and
    weights.
    """
    from timm.layers import Conv2dSame

    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            plain = type(layer) in (nn.Conv2d, Conv2dSame)
            if plain and layer.groups == layer.in_channels == layer.out_channels > 1:
                setattr(parent, name, DepthwiseConv2d(layer, type(layer) is Conv2dSame))
    return network
