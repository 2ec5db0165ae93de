"""A small U-Net for unrolled pipes."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from src.networks import register
from src.networks.layers import double_ring_conv
from src.networks.products import BlockUpsampling
from src.terminal.errors import UserError

Pool = tuple[int, int]  # rows, columns


class RingUNet(nn.Module):
    """Ring convolutions at every level, with concatenated skips; between two levels the map is
    pooled along depth and azimuth.

    Every layer commutes with rolling the azimuth by a multiple of the product of the column pools.
    Heights must be multiples of the product of the row pools; any such height will do, so that the
    network may see the pipe above and below a patch.
    """

    def __init__(self, inputs: int, channels: list[int], pools: list[Pool]) -> None:
        super().__init__()
        self.pools = pools
        self.factor = tuple(math.prod(sizes) for sizes in zip(*pools, strict=True)) or (1, 1)
        self.encoder = nn.ModuleList(
            double_ring_conv(i, o) for i, o in pairwise([inputs, *channels])
        )
        self.up = nn.ModuleList(
            BlockUpsampling(i, o, pool)
            for (o, i), pool in zip(pairwise(channels), pools, strict=True)
        )
        self.decoder = nn.ModuleList(double_ring_conv(2 * o, o) for o in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = self.factor
        assert x.shape[2] % rows == 0 and x.shape[3] % columns == 0, (
            f"{tuple(x.shape)} is no multiple of {rows} rows, {columns} columns"
        )
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(nn.functional.max_pool2d(x, self.pools[level - 1]) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.decoder[level](torch.cat([skips[level], self.up[level](x)], dim=1))
        return self.head(x)


@register
def ring_unet(
    channels: Sequence[int] = (16, 32, 64),
    pool_rows: Sequence[int] = (),
    pool_columns: Sequence[int] = (),
    inputs: int = 1,
) -> nn.Module:
    """The small U-Net; `channels` are those of each level, the first at full size, `inputs` the
    number of channels that it is given.

    `pool_rows` and `pool_columns`, one number for each step down (2 unless given), say by how much
    it shrinks depth and azimuth. A groove runs through hundreds of rows at nearly constant azimuth:
    deep levels that shrink depth alone see it as a whole.
    """
    steps = len(channels) - 1
    rows, columns = list(pool_rows) or [2] * steps, list(pool_columns) or [2] * steps
    if not channels or not len(rows) == len(columns) == steps:
        found = f"{len(channels)}, {len(rows)} and {len(columns)}"
        raise UserError(
            "network 'ring_unet' needs channels, and one number fewer of pool_rows "
            f"and of pool_columns, not {found}"
        )
    return RingUNet(inputs, list(channels), list(zip(rows, columns, strict=True)))
