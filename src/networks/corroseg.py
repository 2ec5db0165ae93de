"""The networks of the CorroSeg paper (Pilchen and Gascon 2024), section 3, as its published code
builds them.

All but the baseline take windows of any height. `dropout` is the paper's policy (section 5.2):
"none", "A" or "B".
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d

from src.networks import register
from src.networks.encoders import Encoder, Pretrained
from src.networks.products import BlockUpsampling, DeepConv2d

Policy = Literal["none", "A", "B"]
# Dropout rates of the outer and of the inner layers of each policy.
POLICIES: dict[str, tuple[float, float]] = {"none": (0.0, 0.0), "A": (0.1, 0.2), "B": (0.2, 0.3)}


def _rates(dropout: str) -> tuple[float, float]:
    if dropout not in POLICIES:
        raise ValueError(f"dropout is one of {', '.join(POLICIES)}, not '{dropout}'")
    return POLICIES[dropout]


def _convs(channels: list[int], batch_norm: bool) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU for each step of the list of channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [DeepConv2d(inputs, outputs, bias=not batch_norm)]
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class CatStep(nn.Module):
    """Doubles the size, concatenates the skip, convolves twice."""

    def __init__(self, inputs: int, outputs: int, batch_norm: bool) -> None:
        super().__init__()
        self.up = BlockUpsampling(inputs, outputs, 2)
        self.convs = _convs([2 * outputs, outputs, outputs], batch_norm)

    def forward(self, y: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.convs(torch.cat([skip, _fit(self.up(y), skip)], dim=1))


class AddStep(nn.Module):
    """Convolves three times, doubles the size, adds the skip."""

    def __init__(self, inputs: int, outputs: int, batch_norm: bool) -> None:
        super().__init__()
        self.convs = _convs([inputs, outputs, outputs, outputs], batch_norm)
        self.up = BlockUpsampling(outputs, outputs, 2)

    def forward(self, y: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return skip + _fit(self.up(self.convs(y)), skip)


def _fit(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Resized bilinearly to the height and width of `like`."""
    return interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class CorroSeg(nn.Module):
    """A ResNet50-like encoder and four decoder steps with long skips (paper, section 3.3 and Figure
    4).

    A 36x36 patch becomes 18 (64 channels), 9 (256), 5 (512), 3 (1024) and 2 (2048). The last step
    works at half size; the logits are brought to full size bilinearly. Dropout of whole channels
    follows encoder stages 2 to 4 and every decoder step: the inner rate after encoder stage 4 and
    the first two steps, the outer rate elsewhere.
    """

    def __init__(
        self,
        step: Callable[[int, int, bool], nn.Module],
        encoder: Encoder,
        batch_norm: bool,
        dropout: str,
    ) -> None:
        super().__init__()
        outer, inner = _rates(dropout)
        self.encoder = encoder
        encoder.drop_after([0, outer, outer, inner, 0])
        channels = encoder.channels
        self.steps = nn.ModuleList(
            step(i, o, batch_norm) for i, o in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.drops = nn.ModuleList(nn.Dropout2d(rate) for rate in (inner, inner, outer, outer))
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, y = self.encoder(x)
        for step, drop, skip in zip(self.steps, self.drops, reversed(skips), strict=True):
            y = drop(step(y, skip))
        return _fit(self.head(y), x)


@register
def cat_corroseg(
    batch_norm: bool = True,
    dropout: Policy = "none",
    encoder: str = "resnet50",
    pretrained: Pretrained = False,
    copies: int = 1,
) -> nn.Module:
    """Cat-CorroSeg, the paper's best: 71.9 M parameters; its code counts 73.9 M, with the unused
    classifier of its ResNet50.
    """
    return CorroSeg(CatStep, Encoder(encoder, pretrained, copies), batch_norm, dropout)


@register
def add_corroseg(
    batch_norm: bool = True,
    dropout: Policy = "none",
    encoder: str = "resnet50",
    pretrained: Pretrained = False,
    copies: int = 1,
) -> nn.Module:
    """Add-CorroSeg: 78.8 M parameters; the paper's code counts 80.9 M, with the unused
    classifier of its ResNet50.
    """
    return CorroSeg(AddStep, Encoder(encoder, pretrained, copies), batch_norm, dropout)


class XSCatUNet(nn.Module):
    """The paper's small U-Net: 16, 32 and 64 channels, two convolutions a level with dropout
    between them, concatenated skips.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        rates = [0.1] * (len(channels) - 1) + [0.2]
        self.encoder = nn.ModuleList(
            _dropped_convs(*step, rate)
            for step, rate in zip(pairwise((1, *channels)), rates, strict=True)
        )
        self.up = nn.ModuleList(BlockUpsampling(i, o, 2) for o, i in pairwise(channels))
        self.decoder = nn.ModuleList(_dropped_convs(2 * o, o, 0.1) for o in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        for skip, up, block in reversed(list(zip(skips, self.up, self.decoder, strict=False))):
            x = block(torch.cat([skip, _fit(up(x), skip)], dim=1))
        return self.head(x)


def _dropped_convs(inputs: int, outputs: int, rate: float) -> nn.Sequential:
    return nn.Sequential(
        _convs([inputs, outputs], False), nn.Dropout(rate), _convs([outputs, outputs], False)
    )


@register
def xscat_unet() -> nn.Module:
    """XSCat-UNet, 0.117 M parameters."""
    return XSCatUNet()


class SAddUNet(nn.Module):
    """Five convolutional blocks of 64 to 1,024 channels and additive skips.

    The paper's code keeps all five at full size, which takes more than 20 GiB at batch 64; here
    each block halves the size.
    """

    def __init__(self, batch_norm: bool, dropout: str) -> None:
        super().__init__()
        outer, inner = _rates(dropout)
        channels = [64, 128, 256, 512, 1024]
        self.encoder = nn.ModuleList(_convs([i, o], True) for i, o in pairwise([1, *channels]))
        self.up = nn.ModuleList(BlockUpsampling(i, o, 2) for o, i in pairwise(channels))
        self.decoder = nn.ModuleList(_convs([o, o], batch_norm) for o in channels[:-1])
        self.encoder_drops = nn.ModuleList(
            nn.Dropout2d(rate) for rate in (0, outer, outer, inner, inner)
        )
        self.decoder_drops = nn.ModuleList(
            nn.Dropout2d(rate) for rate in (outer, outer, inner, inner)
        )
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, (block, drop) in enumerate(zip(self.encoder, self.encoder_drops, strict=True)):
            x = drop(block(max_pool2d(x, 2, ceil_mode=True) if level else x))
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.decoder_drops[level](
                self.decoder[level](skips[level] + _fit(self.up[level](x), skips[level]))
            )
        return self.head(x)


@register
def sadd_unet(batch_norm: bool = True, dropout: Policy = "none") -> nn.Module:
    """SAdd-UNet with pooling; additive skips."""
    return SAddUNet(batch_norm, dropout)


class FCN(nn.Module):
    """Three blocks of two convolutions and a pooling, then upsampling by transposed convolutions
    or bilinearly (section 3.1).
    """

    def __init__(self, transposed: bool, batch_norm: bool, dropout: str) -> None:
        super().__init__()
        outer, inner = _rates(dropout)
        channels = [64, 128, 256]
        blocks = [_convs([i, o, o], True) for i, o in pairwise([1, *channels])]
        self.blocks = nn.ModuleList(blocks)
        self.drops = nn.ModuleList(nn.Dropout2d(rate) for rate in (outer, inner, inner))
        up: list[nn.Module] = []
        for inputs, outputs in zip(
            [*channels[::-1]], [*channels[-2::-1], channels[0]], strict=True
        ):
            up += [nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=not batch_norm)]
            up += (
                [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                if batch_norm
                else [nn.ReLU(inplace=True)]
            )
        self.up = nn.Sequential(*up) if transposed else nn.Identity()
        self.head = nn.Conv2d(channels[0] if transposed else channels[-1], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for block, drop in zip(self.blocks, self.drops, strict=True):
            y = drop(max_pool2d(block(y), 2, ceil_mode=True))
        return _fit(self.head(self.up(y)), x)


@register
def fcn_transposed(batch_norm: bool = True, dropout: Policy = "none") -> nn.Module:
    """Fully convolutional network, upsampled by transposed convolutions."""
    return FCN(True, batch_norm, dropout)


@register
def fcn_bilinear(dropout: Policy = "none") -> nn.Module:
    """Fully convolutional network, upsampled bilinearly."""
    return FCN(False, True, dropout)


class BaselineCNN(nn.Module):
    """The organisers' baseline: five 3x3 convolutions of 32 to 512 channels, two dense layers.
    It takes 36x36 patches only.
    """

    def __init__(self, dropout: str) -> None:
        super().__init__()
        outer, inner = _rates(dropout)
        channels = [32, 64, 128, 256, 512]
        self.blocks = nn.ModuleList(_convs([i, o], False) for i, o in pairwise([1, *channels]))
        self.drops = nn.ModuleList(
            nn.Dropout2d(rate) for rate in (outer, outer, inner, inner, inner)
        )
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512 * 2 * 2, 1024),
            nn.ReLU(inplace=True),
            nn.Linear(1024, 36 * 36),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (36, 36):
            raise ValueError(
                f"baseline_cnn takes 36x36 patches, not {tuple(x.shape[2:])}: set "
                "height = 36 and margin = 0"
            )
        y = x
        for block, drop in zip(self.blocks, self.drops, strict=True):
            y = drop(max_pool2d(block(y), 2, ceil_mode=True))
        return self.dense(y).reshape(x.shape)


@register
def baseline_cnn(dropout: Policy = "none") -> nn.Module:
    """The baseline of the challenge (section 3.1)."""
    return BaselineCNN(dropout)
