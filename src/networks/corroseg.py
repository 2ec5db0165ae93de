"""The networks of the CorroSeg paper (Pilchen and Gascon 2024), section 3, as its published code builds them."""

import timm
import torch
from torch import nn
from torch.nn.functional import interpolate

from src.networks import register


class CatCorroSeg(nn.Module):
    """ResNet50 encoder, decoder with transposed convolutions and concatenated skips (paper, section 3.3 and Figure 4).

    A 36x36 patch becomes 18 (64 channels), 9 (256), 5 (512), 3 (1024) and 2 (2048). Each decoder step doubles the size by a
    transposed convolution, fits it to the skip's size, concatenates and convolves twice. The last step works at half size; the
    logits are brought to full size bilinearly.
    """

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.encoder = timm.create_model("resnet50", features_only=True, in_chans=1, pretrained=False)
        channels = self.encoder.feature_info.channels()  # 64, 256, 512, 1024, 2048
        steps = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in steps)
        self.decoder = nn.ModuleList(_double_conv(2 * o, o, batch_norm) for _, o in steps)
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, y = self.encoder(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            y = interpolate(up(y), skip.shape[2:], mode="bilinear", align_corners=False)
            y = block(torch.cat([skip, y], dim=1))
        return interpolate(self.head(y), x.shape[2:], mode="bilinear", align_corners=False)


def _double_conv(inputs: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=not batch_norm)]
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@register
def cat_corroseg(batch_norm: bool = True) -> nn.Module:
    """Cat-CorroSeg with random weights: 71.9 M parameters; the paper's code counts 73.9 M, with ResNet50's unused classifier."""
    return CatCorroSeg(batch_norm)
