"""Networks for photographs: (B, channels, H, W) of any size to logits (B, classes, H, W).

`encoder` is a timm model by its own name, as in "resnet34" or "efficientnet_b3"; `pretrained` is as
in `src.networks.encoders`. The pipeline gives `classes`, with the background among them where the
activation is a softmax, and `channels`.
"""

import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from src.networks import register
from src.networks.encoders import Pretrained, check_name, features

MULTIPLE = 32  # the networks inside take heights and widths that are multiples of this
DILATED = 16  # a DeepLab's encoder shrinks so far: its last stage is dilated instead of halved


class OnPhotograph(nn.Module):
    """A network on photographs of any size: the last row and column are repeated to the next
    multiple of 32, and the logits cropped.

    Only the input is padded so, which needs no gradient: that of torch's replication padding is not
    deterministic on CUDA.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        padded = pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        return self.network(padded)[:, :, :height, :width]


def _of_library(
    name: str, encoder: str, pretrained: Pretrained, classes: int, channels: int
) -> nn.Module:
    """A network of segmentation-models-pytorch on an encoder from timm, whose weights come as
    those of every other encoder here.
    """
    import segmentation_models_pytorch as smp

    check_name(encoder)
    network = getattr(smp, name)(
        f"tu-{encoder}", encoder_weights=None, in_channels=channels, classes=classes
    )
    if pretrained:
        network.encoder.model.load_state_dict(features(encoder, pretrained, channels).state_dict())
    return OnPhotograph(network)


@register
def unet(
    encoder: str = "resnet34", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """U-Net (Ronneberger et al. 2015; two-stage report on Severstal, section 3.1)."""
    return _of_library("Unet", encoder, pretrained, classes, channels)


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
        # Atrous rates 12, 24 and 36, and 256 channels: the library's defaults, and those of the
        # report (its "3" is a slip for 36).
        self.decoder = DeepLabV3PlusDecoder(
            depths, 5, 256, (12, 24, 36), DILATED, aspp_separable=True, aspp_dropout=0.5
        )
        self.head = SegmentationHead(256, classes, kernel_size=1, upsampling=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder([x, *self.encoder(x)]))


@register
def deeplab_v3_plus(
    encoder: str = "resnet101", pretrained: Pretrained = False, classes: int = 1, channels: int = 1
) -> nn.Module:
    """DeepLabV3+ (Chen et al. 2018; DeepLabV3+ report on Severstal, section 5.2), its encoder
    shrinking 16 times.

    Training needs batches of two or more: the pooled branch has one value for each photograph,
    which batch norm will not train on alone.
    """
    return OnPhotograph(
        DeepLabV3Plus(features(encoder, pretrained, channels, DILATED), channels, classes)
    )


class BareDeepLab(nn.Module):
    """An encoder's last features, two 3x3 convolutions of 256 channels with batch norm and ReLU,
    a 1x1 head, and bilinear upsampling.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        layers: list[nn.Module] = []
        for inputs in (encoder.feature_info.channels()[-1], 256):
            layers += [
                nn.Conv2d(inputs, 256, 3, padding=1, bias=False),
                nn.BatchNorm2d(256),
                nn.ReLU(inplace=True),
            ]
        self.decoder = nn.Sequential(*layers)
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

    Chosen here, because the report does not say: the encoder is dilated as in `deeplab_v3_plus`, so
    that only the removed parts differ, and a 1x1 head follows the report's two convolutions, since
    256 channels are not the classes.
    """
    return OnPhotograph(BareDeepLab(features(encoder, pretrained, channels, DILATED), classes))
