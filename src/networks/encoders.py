"""Encoders from timm, with weights from timm, from a file, or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from src.errors import UserError, did_you_mean

Pretrained = bool | str


class Encoder(nn.Module):
    """Features of a timm network at 1/2, 1/4 ... of the input's size, finest first.

    Args:
        name: a timm model.
        pretrained: False for random weights, True for timm's own, or the path of a .safetensors file of them.
        copies: the input's one channel is repeated this many times; 3 is what photographs have (CorroSeg paper).

    Raises:
        UserError: an unknown name, or weights that cannot be had or do not fit; never a random start instead.
    """

    def __init__(self, name: str, pretrained: Pretrained, copies: int) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise UserError(f"no encoder '{name}' in timm: {did_you_mean(name, timm.list_models())[:200]}")
        self.copies = copies
        self.features = _create(name, pretrained, copies)
        self.channels: list[int] = self.features.feature_info.channels()
        self.drops = nn.ModuleList()

    def drop_after(self, rates: list[float]) -> None:
        """Drop whole channels of each stage's output, for the stages after it and for the skips alike."""
        self.drops = nn.ModuleList(nn.Dropout2d(rate) for rate in rates)
        for drop, name in zip(self.drops, self.features.feature_info.module_name(), strict=True):
            module = self.features.get_submodule(name.replace(".", "_"))
            module.register_forward_hook(lambda _module, _inputs, output, drop=drop: drop(output))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.features(x.expand(-1, self.copies, -1, -1) if self.copies > 1 else x)


def _create(name: str, pretrained: Pretrained, copies: int) -> nn.Module:
    options: dict[str, Any] = {"features_only": True, "in_chans": copies}
    if isinstance(pretrained, str):
        path = Path(pretrained)
        if not path.is_file():
            raise UserError(f"pretrained weights {path} are missing: put them there, or set pretrained = false")
        try:
            load_file(path)
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)
        except (safetensors.SafetensorError, RuntimeError, KeyError) as error:
            raise UserError(f"pretrained weights {path} do not fit encoder '{name}' ({str(error)[:120]})") from None
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    with fetching(name):
        return timm.create_model(name, pretrained=True, **options)


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
