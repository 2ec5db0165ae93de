"""A trained network in fewer and cheaper steps, for prediction alone."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # layers whose weights autocast would cast in every pass


def folded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network that computes in evaluation mode the same up to rounding; a network under masks comes back as it is.

    Where batch norm follows a convolution in an `nn.Sequential` it goes into the convolution's weights, and transposed convolutions
    whose blocks do not overlap become products of matrices.

    Args:
        dtype: bfloat16 for a network that will run under autocast to it, else float32.
    """
    if any(layer._forward_pre_hooks for layer in network.modules()):
        return network
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if type(module) is nn.Sequential:
            module.__init__(*_fused(list(module), dtype))
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.ConvTranspose2d) and _in_blocks(layer):
                setattr(module, name, BlockUpsampling(layer))
    for layer in network.modules():
        if isinstance(layer, CAST):
            layer.to(dtype)
    return network.requires_grad_(False)


def _fused(layers: list[nn.Module], dtype: torch.dtype) -> list[nn.Module]:
    """Layers that follow each other, without batch norm behind convolutions."""
    result: list[nn.Module] = []
    for layer in layers:
        follows = bool(result) and isinstance(result[-1], nn.Conv2d)
        if follows and isinstance(layer, nn.BatchNorm2d):
            result[-1] = fuse_conv_bn_eval(result[-1], layer)
        elif follows and isinstance(layer, nn.ReLU) and dtype == torch.bfloat16:
            result.append(BitReLU())
        else:
            result.append(layer)
    return result


def _in_blocks(layer: nn.ConvTranspose2d) -> bool:
    cut = any((*layer.padding, *layer.output_padding)) or layer.dilation != (1, 1)
    return layer.kernel_size == layer.stride and layer.groups == 1 and not cut


class BitReLU(nn.Module):
    """ReLU of bfloat16 in place, on a CPU five times as fast as torch's: read as integers, the same numbers are negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.view(torch.int16).clamp_(min=0)
        return x


class BlockUpsampling(nn.Module):
    """A transposed convolution whose stride is its kernel: each pixel by itself becomes a block of pixels."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.block = layer.kernel_size
        self.linear = nn.Linear(layer.in_channels, layer.out_channels * self.block[0] * self.block[1], device="meta")
        bias = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
        self.linear.weight = nn.Parameter(layer.weight.permute(2, 3, 1, 0).flatten(0, 2))
        self.linear.bias = nn.Parameter(bias.repeat(self.block[0] * self.block[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (rows, columns), (height, width) = self.block, x.shape[2:]
        blocks = self.linear(x.permute(0, 2, 3, 1)).unflatten(-1, (rows, columns, -1))  # (B, h, w, rows, columns, C)
        return blocks.transpose(2, 3).reshape(len(x), height * rows, width * columns, -1).permute(0, 3, 1, 2)
