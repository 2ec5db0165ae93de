"""The networks of the CorroSeg paper (Pilchen and Gascon 2024), section 3.

Text and published code differ in places, and both are silent in some: each network says what it
follows, and docs/fidelity.md compares line by line. All but the baseline take windows of any
height. `dropout` is the paper's policy (section 5.2): "none", "A" or "B"; `copies` is how often the
one channel is repeated, 3 in the paper's code.
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
ENCODER = "resnet50.tv2_in1k"  # its pretrained weights are torchvision's, those of the paper
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

    def forward(self, y: torch.Tensor, skip: torch.Tensor, drop: nn.Module) -> torch.Tensor:
        return drop(self.convs(torch.cat([skip, _fit(self.up(y), skip)], dim=1)))


class AddStep(nn.Module):
    """Convolves three times, doubles the size, adds the skip, of which nothing is dropped."""

    def __init__(self, inputs: int, outputs: int, batch_norm: bool) -> None:
        super().__init__()
        self.convs = _convs([inputs, outputs, outputs, outputs], batch_norm)
        self.up = BlockUpsampling(outputs, outputs, 2)

    def forward(self, y: torch.Tensor, skip: torch.Tensor, drop: nn.Module) -> torch.Tensor:
        return skip + drop(_fit(self.up(self.convs(y)), skip))


def _fit(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Resized bilinearly to the height and width of `like`."""
    return interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class CorroSeg(nn.Module):
    """A ResNet50-like encoder and four decoder steps with long skips (paper, section 3.3 and Figure
    4).

    A 36x36 patch becomes 18 (64 channels), 9 (256), 5 (512), 3 (1024) and 2 (2048). The last step
    works at half size; the logits are brought to full size bilinearly. Dropout of whole channels
    acts on encoder stages 2 to 4 and on every decoder step: the inner rate on encoder stage 4 and
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
            y = step(y, skip, drop)
        return _fit(self.head(y), x)


@register
def cat_corroseg(
    batch_norm: bool = True,
    dropout: Policy = "none",
    encoder: str = ENCODER,
    pretrained: Pretrained = False,
    copies: int = 1,
) -> nn.Module:
    """Cat-CorroSeg, the paper's best: 71.9 M parameters; its code counts 73.9 M, with the unused
    classifier of its ResNet50.

    Computes what that code does, except that the skip is concatenated before the upsampled maps,
    not after them, and that convolutions before batch norm have no bias.
    """
    return CorroSeg(CatStep, Encoder(encoder, pretrained, copies), batch_norm, dropout)


@register
def add_corroseg(
    batch_norm: bool = True,
    dropout: Policy = "none",
    encoder: str = ENCODER,
    pretrained: Pretrained = False,
    copies: int = 1,
) -> nn.Module:
    """Add-CorroSeg: 78.8 M parameters; the paper's code counts 80.9 M, with the unused
    classifier of its ResNet50.

    As published it is `batch_norm = false`: with it the validation scores are lower (section 3.3).
    """
    return CorroSeg(AddStep, Encoder(encoder, pretrained, copies), batch_norm, dropout)


class XSCatUNet(nn.Module):
    """The paper's small U-Net, as its code builds it: 16, 32 and 64 channels, two convolutions a
    level with dropout of whole channels between them, concatenated skips, a 3x3 head.
    """

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies, channels = copies, (16, 32, 64)
        rates = [0.1] * (len(channels) - 1) + [0.2]
        self.encoder = nn.ModuleList(
            _dropped_convs(*step, rate)
            for step, rate in zip(pairwise((copies, *channels)), rates, strict=True)
        )
        self.up = nn.ModuleList(BlockUpsampling(i, o, 2) for o, i in pairwise(channels))
        self.decoder = nn.ModuleList(_dropped_convs(2 * o, o, 0.1) for o in channels[:-1])
        self.head = nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, skips = x.expand(-1, self.copies, -1, -1), []
        for level, block in enumerate(self.encoder):
            x = block(max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        for skip, up, block in reversed(list(zip(skips, self.up, self.decoder, strict=False))):
            x = block(torch.cat([skip, _fit(up(x), skip)], dim=1))
        return self.head(x)


def _dropped_convs(inputs: int, outputs: int, rate: float) -> nn.Sequential:
    return nn.Sequential(
        _convs([inputs, outputs], False), nn.Dropout2d(rate), _convs([outputs, outputs], False)
    )


@register
def xscat_unet(copies: int = 1) -> nn.Module:
    """XSCat-UNet, 0.117 M parameters; its dropout of .1 and .2 is part of it."""
    return XSCatUNet(copies)


class SAddUNet(nn.Module):
    """Five convolutional blocks of 64 to 1,024 channels and additive skips.

    With `pooling` each block halves the size and each step of the decoder doubles it. Without, as
    in the paper's code, the blocks work at full size, the decoder ends at 16 times the size, the
    skips are resized to it, and the head takes every 16th pixel.
    """

    def __init__(self, batch_norm: bool, dropout: str, pooling: bool, copies: int) -> None:
        super().__init__()
        outer, inner = _rates(dropout)
        self.pooling, self.copies, channels = pooling, copies, [64, 128, 256, 512, 1024]
        self.encoder = nn.ModuleList(_convs([i, o], True) for i, o in pairwise([copies, *channels]))
        self.up = nn.ModuleList(BlockUpsampling(i, o, 2) for o, i in pairwise(channels))
        self.decoder = nn.ModuleList(_convs([o, o], batch_norm) for o in channels[:-1])
        self.encoder_drops = nn.ModuleList(
            nn.Dropout2d(rate) for rate in (0, outer, outer, inner, inner)
        )
        self.decoder_drops = nn.ModuleList(
            nn.Dropout2d(rate) for rate in (outer, outer, inner, inner)
        )
        self.head = nn.Conv2d(channels[0], 1, 1, stride=1 if pooling else 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, skips = x.expand(-1, self.copies, -1, -1), []
        for level, (block, drop) in enumerate(zip(self.encoder, self.encoder_drops, strict=True)):
            pooled = level and self.pooling
            x = drop(block(max_pool2d(x, 2, ceil_mode=True) if pooled else x))
            skips.append(x)
        for level in reversed(range(len(self.up))):
            up, skip = self.up[level](x), skips[level]
            both = skip + _fit(up, skip) if self.pooling else up + _fit(skip, up)
            x = self.decoder_drops[level](self.decoder[level](both))
        return self.head(x)


@register
def sadd_unet(
    batch_norm: bool = True, dropout: Policy = "none", pooling: bool = True, copies: int = 1
) -> nn.Module:
    """SAdd-UNet; as published with `pooling = false`, which takes more than 20 GiB for a batch of
    64.
    """
    return SAddUNet(batch_norm, dropout, pooling, copies)


class FCN(nn.Module):
    """The last maps of an encoder, a head on them, and bilinear upsampling (section 3.1)."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _fit(self.head(self.encoder(x)[-1]), x)


@register
def fcn_transposed(
    encoder: str = ENCODER, pretrained: Pretrained = False, copies: int = 1
) -> nn.Module:
    """The text's FCN, upsampled by transposed convolutions.

    The code has none such, and the text no numbers. So chosen here: on the encoder, three that
    double the size to 256, 128 and 64 channels; the rest of the way is bilinear.
    """
    body = Encoder(encoder, pretrained, copies)
    head: list[nn.Module] = []
    for inputs, outputs in pairwise([body.channels[-1], 256, 128, 64]):
        head += [BlockUpsampling(inputs, outputs, 2), nn.ReLU(inplace=True)]
    return FCN(body, nn.Sequential(*head, nn.Conv2d(64, 1, 1)))


@register
def fcn_bilinear(
    encoder: str = ENCODER, pretrained: Pretrained = False, copies: int = 1
) -> nn.Module:
    """The FCN with bilinear upsampling, as the first model of the code: a sigmoid on the encoder's
    maps, 3x3 convolutions to 256, 128 and 64 channels. There the usual encoder is an
    EfficientNetV2-M.
    """
    body = Encoder(encoder, pretrained, copies)
    convs = _convs([body.channels[-1], 256, 128, 64], False)
    return FCN(body, nn.Sequential(nn.Sigmoid(), convs, nn.Conv2d(64, 1, 1)))


@register
def fcn_resnet50(pretrained: Pretrained = False, copies: int = 1) -> nn.Module:
    """torchvision's FCN on a ResNet50 dilated to an eighth of the size, the code's second one. That
    starts from weights that have also learned to segment photographs.
    """
    body = Encoder(ENCODER, pretrained, copies, output_stride=8)
    deep = body.channels[-1]
    convs = _convs([deep, deep // 4], True)
    return FCN(body, nn.Sequential(convs, nn.Dropout(0.1), nn.Conv2d(deep // 4, 1, 1)))


class BaselineCNN(nn.Module):
    """The organisers' baseline, as the paper's code builds it: five 3x3 convolutions of 32 to 512
    channels, two dense layers. It takes 36x36 patches only.

    The first dense layer has 512 * 36 * 36 inputs. With `pooling` each convolution is followed by a
    halving of the size, which leaves it 512 * 2 * 2.
    """

    def __init__(self, dropout: str, pooling: bool, copies: int) -> None:
        super().__init__()
        outer, inner = _rates(dropout)
        self.pooling, self.copies, channels = pooling, copies, [copies, 32, 64, 128, 256, 512]
        self.blocks = nn.ModuleList(_convs([i, o], False) for i, o in pairwise(channels))
        self.drops = nn.ModuleList(
            nn.Dropout2d(rate) for rate in (outer, outer, inner, inner, inner)
        )
        side, pixels = 2 if pooling else 36, 36 * 36
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512 * side * side, pixels),
            nn.ReLU(inplace=True),
            nn.Linear(pixels, pixels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (36, 36):
            raise ValueError(
                f"baseline_cnn takes 36x36 patches, not {tuple(x.shape[2:])}: set "
                "height = 36 and margin = 0"
            )
        y = x.expand(-1, self.copies, -1, -1)
        for block, drop in zip(self.blocks, self.drops, strict=True):
            y = block(y)
            y = drop(max_pool2d(y, 2, ceil_mode=True) if self.pooling else y)
        return self.dense(y).reshape(x.shape)


@register
def baseline_cnn(dropout: Policy = "none", pooling: bool = False, copies: int = 1) -> nn.Module:
    """The baseline of the challenge (section 3.1), 863.2 M parameters, which take 14 GB with their
    gradients and Adam's averages; 5.9 M with `pooling`, which is not the paper's.
    """
    return BaselineCNN(dropout, pooling, copies)
