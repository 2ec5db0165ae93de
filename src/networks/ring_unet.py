"""A small U-Net for unrolled pipes."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from src.networks import register
from src.networks.layers import double_ring_conv


class RingUNet(nn.Module):
    """36 -> 18 -> 9 columns around the ring and likewise downwards, with concatenated skips.

    Every layer commutes with rolling the azimuth by a multiple of 2 ** levels. Heights must be such multiples; any such height
    will do, so that the network may see the pipe above and below a patch.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.factor = 2 ** (len(channels) - 1)
        self.encoder = nn.ModuleList(double_ring_conv(i, o) for i, o in pairwise([1, *channels]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for o, i in pairwise(channels))
        self.decoder = nn.ModuleList(double_ring_conv(2 * o, o) for o in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] % self.factor == 0 and x.shape[3] % self.factor == 0, f"{tuple(x.shape)} is no multiple of {self.factor}"
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.decoder[level](torch.cat([skips[level], self.up[level](x)], dim=1))
        return self.head(x)


@register
def ring_unet(channels: Sequence[int] = (16, 32, 64)) -> nn.Module:
    """The small U-Net; `channels` are those of each level, the first at full size."""
    return RingUNet(list(channels))
