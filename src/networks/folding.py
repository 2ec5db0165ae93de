"""A trained network in fewer and cheaper steps, for prediction alone."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# layers whose weights autocast would cast in every pass
CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def folded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network that computes in evaluation mode the same up to rounding.

    Where batch norm follows a convolution in an `nn.Sequential` it goes into the convolution's
    weights. A network whose weights are under masks, or not torch's, comes back as it is.

    Args:
        dtype: bfloat16 for a network that will run under autocast to it, else float32.
    """
    if not list(network.parameters()) or any(
        layer._forward_pre_hooks for layer in network.modules()
    ):
        return network
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if type(module) is nn.Sequential:
            module.__init__(*_fused(list(module), dtype))
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


class BitReLU(nn.Module):
    """ReLU of bfloat16 in place, on a CPU five times as fast as torch's: read as integers, the
    same numbers are negative.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.view(torch.int16).clamp_(min=0)
        return x
