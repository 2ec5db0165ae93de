"""Classifiers: whole photographs (B, channels, H, W) of any size to one logit for each class,
(B, classes, 1, 1).
"""

import torch
from torch import nn

from src.networks import register
from src.networks.encoders import Pretrained, features


class Classifier(nn.Module):
    """An encoder's last features, their mean over the photograph, and a linear layer."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
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
