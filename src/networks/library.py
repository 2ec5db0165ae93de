"""Networks of segmentation-models-pytorch, fitted to the sizes of unrolled pipes."""

from contextlib import nullcontext

import torch
from torch import nn

from src.networks import register
from src.networks.encoders import fetching

MULTIPLE = 32  # the library's networks take heights and widths that are multiples of this


class OnRing(nn.Module):
    """A library network on windows of any size: padded around the ring and along depth to the
    next multiple of 32, then cropped.
    """

    def __init__(self, network: nn.Module, copies: int) -> None:
        super().__init__()
        self.network, self.copies = network, copies

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        rows = torch.arange(-(-height // MULTIPLE) * MULTIPLE, device=x.device).clamp(
            max=height - 1
        )
        columns = torch.arange(-(-width // MULTIPLE) * MULTIPLE, device=x.device) % width
        padded = x[:, :, rows[:, None], columns].expand(-1, self.copies, -1, -1)
        return self.network(padded)[:, :, :height, :width]


@register
def deeplab_v3(encoder: str = "resnet50", pretrained: bool = False, copies: int = 1) -> nn.Module:
    """DeepLabV3 (Chen et al. 2017), which the CorroSeg paper tried and left (section 3.2)."""
    import segmentation_models_pytorch as smp

    with fetching(encoder) if pretrained else nullcontext():
        network = smp.DeepLabV3(
            encoder,
            encoder_weights="imagenet" if pretrained else None,
            in_channels=copies,
            classes=1,
        )
    return OnRing(network, copies)
