"""Two published designs for the CorroSeg challenge, written from their descriptions; the third is
Cat-CorroSeg (`corroseg.py`).

Where a description gives no number, the docstrings say which one was chosen.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from src.networks import register


class PlainUNet(nn.Module):
    """Three 3x3 convolutions a level, strided convolutions downwards, transposed ones upwards,
    concatenated skips; no batch norm.

    Padding is with zeros at all four borders. Heights and widths must be multiples of 2 ** (levels
    - 1): of 4 with three levels.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            _three_convs(1 if level == 0 else o, o) for level, o in enumerate(channels)
        )
        self.down = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise(channels)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 2, stride=2) for o, i in pairwise(channels)
        )
        self.decoder = nn.ModuleList(_three_convs(2 * o, o) for o in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 1)
        for layer in (*self.encoder.modules(), *self.down, *self.decoder.modules()):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.encoder[0](x)]
        for down, block in zip(self.down, self.encoder[1:], strict=True):
            skips.append(block(down(skips[-1]).relu()))
        y = skips.pop()
        for up, block, skip in reversed(list(zip(self.up, self.decoder, skips, strict=True))):
            y = block(torch.cat([skip, up(y)], dim=1))
        return self.head(y)


def _three_convs(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@register
def plain_unet(channels: Sequence[int] = (24, 48, 80)) -> nn.Module:
    """perkan's plain U-Net, (B, 1, H, W) to logits (B, 1, H, W); 0.415 M parameters.

    Not described and so chosen here: three levels, because 36 halves twice; the channels, to reach
    the 0.4 M that are described; the initial weights of He et al. 2015, because nothing else keeps
    the scale of so many layers without normalisation.
    """
    return PlainUNet(list(channels))


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018): x (B, C, H, W) times a factor for each
    channel, then one for each pixel.

    Equation 2: the channels' factors come from their means and maxima over the image, through one
    shared two-layer network; equation 3: the pixels' from the mean and maximum over the channels,
    through a 7x7 convolution. The hidden layer has C / 4 units, not the paper's C / 16, which
    leaves nothing of 8 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        self.channels = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        self.pixels = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (
            x
            * torch.sigmoid(self.channels(x.mean((2, 3))) + self.channels(x.amax((2, 3))))[
                :, :, None, None
            ]
        )
        return x * torch.sigmoid(
            self.pixels(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1))
        )


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, then CBAM, added to the input (He et al. 2016; Woo et
    al. 2018, Figure 3).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.attention = CBAM(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.shortcut(x) + self.attention(self.convs(x))).relu()


class AttentionGate(nn.Module):
    """Additive attention on a skip (Oktay et al. 2018, equations 1 and 2): skip (B, C, H, W) times
    a factor from 0 to 1 for each pixel.

    Args of `forward`: the skip, and the decoder's features `gating` (B, C, H, W), here already
    doubled to the skip's size, where the paper resamples the skip's factors instead.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.of_skip = nn.Conv2d(channels, hidden, 1, bias=False)
        self.of_gating = nn.Conv2d(channels, hidden, 1)
        self.factor = nn.Conv2d(hidden, 1, 1)

    def forward(self, skip: torch.Tensor, gating: torch.Tensor) -> torch.Tensor:
        return skip * torch.sigmoid(
            self.factor((self.of_skip(skip) + self.of_gating(gating)).relu())
        )


class GatedStep(nn.Module):
    """Doubles the size, crops it to the skip's, concatenates the gated skip, then a residual
    block.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.gate = AttentionGate(outputs)
        self.block = ResidualBlock(2 * outputs, outputs)

    def forward(self, y: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        # larger where an odd size was halved
        y = self.up(y)[:, :, : skip.shape[2], : skip.shape[3]]
        return self.block(torch.cat([self.gate(skip, y), y], dim=1))


class AttentionUNet(nn.Module):
    """A residual U-Net with CBAM in every block and attention gates on the skips; any height and
    width, padded with zeros.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(ResidualBlock(i, o) for i, o in pairwise([1, *channels]))
        self.steps = nn.ModuleList(GatedStep(i, o) for o, i in pairwise(channels))
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        y = skips.pop()
        for step, skip in reversed(list(zip(self.steps, skips, strict=True))):
            y = step(y, skip)
        return self.head(y)


class Doubled(nn.Module):
    """Shows a network the ring twice, so that no groove is cut at the seam: half of it to either
    side, then takes the middle.

    (B, C, H, W) becomes (B, C, H, 2 W), the strip beside itself. Of the two logits for each column
    the middle ones are kept and not averaged with the others: they lie at least W / 2 columns from
    the zeros beyond the borders, the others at most that. So they are those of a closed ring, as
    far as the network looks no further than W / 2 columns.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width, half = x.shape[3], x.shape[3] // 2
        doubled = torch.cat([x[..., width - half :], x, x[..., : width - half]], dim=3)
        return self.network(doubled)[..., half : half + width]


@register
def attention_unet(channels: Sequence[int] = (8, 16, 32, 64), doubled: bool = True) -> nn.Module:
    """The first place's network (tamontealegrep), (B, 1, H, W) to logits (B, 1, H, W); 0.132 M
    parameters.

    Not described and so chosen here: four levels, because 72 columns halve three times, and
    channels that double from level to level. `doubled = false` leaves the width as it is: for
    sections of 36 columns that begin at any azimuth, which are rolls.
    """
    network = AttentionUNet(list(channels))
    return Doubled(network) if doubled else network
