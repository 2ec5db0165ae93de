"""Encoders from timm, with weights from timm, from a file, or none.

Here and in the files of other libraries' networks these are imported where they are used: that
takes seconds, which the stages would spend again and again for networks that most recipes do not
have.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import nn

from src.networks.scaling import Scaling
from src.terminal.errors import UserError, did_you_mean

Pretrained = bool | str


class Encoder(nn.Module):
    """Features of a timm network at 1/2, 1/4 ... of the input's size, finest first.

    Args:
        name: a timm model.
        pretrained: False for random weights, True for timm's own, or the path of a .safetensors
            file of them.
        copies: the input's one channel is repeated this many times; 3 is what photographs have
            (CorroSeg paper).
        output_stride: the last features have 1 / output_stride of the size.

    Random weights begin with every batch norm's factor at 1, as torchvision's do, where timm has 0
    for the last one of a residual block.

    Raises:
        UserError: an unknown name, or weights that cannot be had or do not fit; never a random
            start instead.
    """

    def __init__(
        self, name: str, pretrained: Pretrained, copies: int, output_stride: int = 32
    ) -> None:
        super().__init__()
        self.copies = copies
        self.features = features(name, pretrained, copies, output_stride)
        for layer in self.features.modules():
            if isinstance(layer, nn.BatchNorm2d) and not pretrained:
                nn.init.ones_(layer.weight)
        self.channels: list[int] = self.features.feature_info.channels()
        self.drops = nn.ModuleList()

    def drop_after(self, rates: list[float]) -> None:
        """Drop whole channels of each stage's output, for the stages after it and for the skips
        alike.
        """
        self.drops = nn.ModuleList(nn.Dropout2d(rate) for rate in rates)
        for drop, name in zip(self.drops, self.features.feature_info.module_name(), strict=True):
            module = self.features.get_submodule(name.replace(".", "_"))
            module.register_forward_hook(lambda _module, _inputs, output, drop=drop: drop(output))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.features(x.expand(-1, self.copies, -1, -1) if self.copies > 1 else x)


def features(
    name: str, pretrained: Pretrained, channels: int, output_stride: int = 32
) -> nn.Module:
    """timm's network for features: (B, channels, H, W) to a list of them, finest first, the last at
    1 / output_stride of the size.

    Raises:
        UserError: an unknown name, or weights that cannot be had or do not fit; never a random
            start instead.
    """
    check_name(name)
    dilated = output_stride != 32
    by_hand = dilated and name.startswith("densenet")  # timm refuses to dilate these
    options: dict[str, Any] = {"features_only": True, "in_chans": channels}
    options |= {"output_stride": output_stride} if dilated and not by_hand else {}
    network = _create(name, pretrained, options)
    if by_hand:
        assert output_stride == 16, f"a DenseNet is dilated to 16, not {output_stride}"
        _dilate_densenet(network)
    return network


def check_name(name: str) -> None:
    """Raises a `UserError` where timm has no network of this name."""
    import timm

    if not timm.is_model(name):
        raise UserError(
            f"no encoder '{name}' in timm: {did_you_mean(name, timm.list_models())[:200]}"
        )


def trained_scaling(name: str, channels: int) -> Scaling:
    """How the photographs, white being 1, were scaled that timm's weights of an encoder were
    trained on; other than three channels get the mean over red, green and blue.
    """
    import timm

    trained = timm.get_pretrained_cfg(name)
    mean, deviation = (np.array(values, np.float32) for values in (trained.mean, trained.std))
    if channels != 3:
        mean, deviation = (np.full(channels, own.mean(), np.float32) for own in (mean, deviation))
    return Scaling(mean, deviation)


def _dilate_densenet(network: nn.Module) -> None:
    """Leave out the last halving; the 3x3 convolutions behind it then look at every second
    pixel, as far as before.
    """
    network.features_transition3.pool = nn.Identity()
    for layer in network.features_denseblock4.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.dilation = layer.padding = (2, 2)


def _create(name: str, pretrained: Pretrained, options: dict[str, Any]) -> nn.Module:
    import timm

    # it warns of every layer that a file holds beyond these features
    logging.getLogger("timm").setLevel(logging.ERROR)
    if isinstance(pretrained, str):
        return _from_file(name, Path(pretrained), options)
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    with fetching(name):
        return timm.create_model(name, pretrained=True, **options)


def _from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    import timm

    if not path.is_file():
        raise UserError(
            f"pretrained weights {path} are missing: put them there, or set pretrained = false"
        )
    try:
        held = {_plain(key) for key in load_file(path)}
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options
        )
    except (safetensors.SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(
            f"pretrained weights {path} do not fit encoder '{name}' ({str(error)[:120]})"
        ) from None
    # timm leaves random what a file lacks, and says nothing.
    lacking = [
        key
        for key in network.state_dict()
        if _plain(key) not in held and not key.endswith("num_batches_tracked")
    ]
    if lacking:
        raise UserError(
            f"pretrained weights {path} do not fit encoder '{name}' (they lack "
            f"{len(lacking)} arrays, as {lacking[0]})"
        )
    return network


def _plain(key: str) -> str:
    """A weight's name without the dots and underscores in which timm's networks and files of one
    encoder differ.
    """
    return key.replace(".", "").replace("_", "")


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turns whatever a hub's client raises into one line."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"pretrained weights of '{name}' could not be fetched ({type(error).__name__}): "
            'give a local file, pretrained = "path.safetensors", or set pretrained = false'
        ) from None
