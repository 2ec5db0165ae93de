"""Networks for photographs: (B, channels, H, W) of any size to logits (B, classes, H, W), and a
classifier of whole photographs, to (B, classes, 1, 1).

`encoder` is a timm model by its own name, as in "resnet34" or "efficientnet_b3"; `pretrained` is as
in `src.networks.encoders`. The pipeline gives `classes`, with the background among them where the
activation is a softmax, and `channels`.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from src.networks import register
from src.networks.depthwise import quicken
from src.networks.encoders import Pretrained, check_name, features

MULTIPLE = 32  # the networks inside take heights and widths that are multiples of this
DILATED = 16  # a DeepLab's encoder shrinks so far: its last stage is dilated instead of halved
RATES = (12, 24, 36)  # atrous rates: the library's defaults


class OnPhotograph(nn.Module):
    """A network on photographs of any size: the last row and column are repeated to the next
    multiple of 32, and the logits cropped.

    Only the input is padded so, which needs no gradient: that of torch's replication padding is not
    deterministic on CUDA.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = quicken(network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        padded = pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        return self.network(padded)[:, :, :height, :width]


def _of_library(
    name: str, encoder: str, pretrained: Pretrained, classes: int, channels: int, **options: Any
) -> nn.Module:
    """A network of segmentation-models-pytorch on an encoder from timm, whose weights come as
    those of every other encoder here.
    """
    import segmentation_models_pytorch as smp

    check_name(encoder)
    network = getattr(smp, name)(
        f"tu-{encoder}", encoder_weights=None, in_channels=channels, classes=classes, **options
    )
    if pretrained:
        network.encoder.model.load_state_dict(features(encoder, pretrained, channels).state_dict())
    return OnPhotograph(network)


@register
def unet(
    encoder: str = "resnet34",
    pretrained: Pretrained = False,
    width: int = 256,
    classes: int = 1,
    channels: int = 1,
) -> nn.Module:
    """U-Net (Ronneberger et al. 2015; two-stage report on Severstal, section 3.1).

    The first step of its decoder has `width` channels, each further one half as many.
    """
    widths = tuple(max(1, width >> step) for step in range(5))
    return _of_library("Unet", encoder, pretrained, classes, channels, decoder_channels=widths)


@register
def unet_plus_plus(
    encoder: str = "resnet34", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """U-Net++ (Zhou et al. 2018)."""
    return _of_library("UnetPlusPlus", encoder, pretrained, classes, channels)


@register
def fpn(
    encoder: str = "resnet34", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """Feature pyramid network (Kirillov et al. 2019)."""
    return _of_library("FPN", encoder, pretrained, classes, channels)


@register
def linknet(
    encoder: str = "resnet34", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """LinkNet (Chaurasia and Culurciello 2017)."""
    return _of_library("Linknet", encoder, pretrained, classes, channels)


@register
def ma_net(
    encoder: str = "resnet34", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """MA-Net (Fan et al. 2020)."""
    return _of_library("MAnet", encoder, pretrained, classes, channels)


class DeepLabV3Plus(nn.Module):
    """The library's decoder and head on a dilated encoder.

    The library's own class refuses DenseNets, which halve by a pooling that a dilation cannot
    replace by itself. They are dilated in `encoders.features`, and for the others this is the
    library's network.
    """

    def __init__(self, encoder: nn.Module, channels: int, classes: int) -> None:
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder

        super().__init__()
        self.encoder = encoder
        depths = [channels, *encoder.feature_info.channels()]
        self.decoder = DeepLabV3PlusDecoder(
            depths, 5, 256, RATES, DILATED, aspp_separable=True, aspp_dropout=0.5
        )
        self.head = SegmentationHead(256, classes, kernel_size=1, upsampling=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder([x, *self.encoder(x)]))


@register
def deeplab_v3_plus(
    encoder: str = "resnet101", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """DeepLabV3+ (Chen et al. 2018) as segmentation-models-pytorch builds it, with separable
    convolutions, its encoder shrinking 16 times.

    Training needs batches of two or more: the pooled branch has one value for each photograph,
    which batch norm will not train on alone.
    """
    return OnPhotograph(
        DeepLabV3Plus(features(encoder, pretrained, channels, DILATED), channels, classes)
    )


def _convolved(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    """A convolution with batch norm and ReLU."""
    return [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class ReportedDeepLab(nn.Module):
    """Plain atrous convolutions of an encoder's last features; then, beside its features at a
    quarter of the size, two 3x3 convolutions and one of 1x1.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP

        super().__init__()
        self.encoder = encoder
        _, fine, *_, last = encoder.feature_info.channels()
        self.atrous = ASPP(last, 256, RATES, separable=False, dropout=0.5)
        self.skip = nn.Sequential(*_convolved(fine, 48, 1))
        self.decoder = nn.Sequential(*_convolved(256 + 48, 256, 3), *_convolved(256, 256, 3))
        self.head = nn.Conv2d(256, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, fine, *_, last = self.encoder(x)
        up = interpolate(self.atrous(last), scale_factor=4, mode="bilinear", align_corners=True)
        logits = self.head(self.decoder(torch.cat([up, self.skip(fine)], dim=1)))
        return interpolate(logits, scale_factor=4, mode="bilinear", align_corners=True)


@register
def deeplab_report(
    encoder: str = "resnet101", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """DeepLabV3+ as the DeepLabV3+ report on Severstal describes it (section 5.2), its encoder
    shrinking 16 times.

    Chosen here, where the report is silent or cannot be meant: the third atrous rate is 36 (the
    report has "3" after 12 and 24), a 1x1 convolution merges the five branches (it says
    "depthwise", which merges no channels), and widths (256, and 48 of the skip) and dropout are
    those of `deeplab_v3_plus`. Training needs batches of two or more, as there.
    """
    return OnPhotograph(ReportedDeepLab(features(encoder, pretrained, channels, DILATED), classes))


class BareDeepLab(nn.Module):
    """An encoder's last features, two 3x3 convolutions of 256 channels with batch norm and ReLU,
    a 1x1 head, and bilinear upsampling.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        last = encoder.feature_info.channels()[-1]
        self.decoder = nn.Sequential(*_convolved(last, 256, 3), *_convolved(256, 256, 3))
        self.head = nn.Conv2d(256, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return interpolate(
            self.head(self.decoder(self.encoder(x)[-1])),
            x.shape[2:],
            mode="bilinear",
            align_corners=True,
        )


@register
def deeplab_bare(
    encoder: str = "resnet101", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """DeepLabV3+ without its atrous module and skip, the baseline of the DeepLabV3+ report on
    Severstal, section 5.1.

    Chosen here, because the report does not say: the encoder is dilated as in `deeplab_report`, so
    that only the removed parts differ, and a 1x1 head follows the report's two convolutions, since
    256 channels are not the classes.
    """
    return OnPhotograph(BareDeepLab(features(encoder, pretrained, channels, DILATED), classes))


class Classifier(nn.Module):
    """An encoder's last features, their mean over the photograph, and a linear layer."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = quicken(encoder)
        self.head = nn.Conv2d(encoder.feature_info.channels()[-1], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x)[-1].mean((2, 3), keepdim=True))


@register
def classifier(
    encoder: str = "resnet50", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """The two-stage report's classifier on Severstal (section 3.2); with one class, whether the
    photograph shows any defect.

    `encoder` is a timm model; `pretrained` is as in `src.networks.encoders`.
    """
    return Classifier(features(encoder, pretrained, channels), classes)
