"""A network in OpenVINO's format. That library is not in requirements.txt."""

import importlib.util
from pathlib import Path

import torch

from src.artifacts.files import replacing_folder
from src.networks.engines import Pairs, Scaled, checked
from src.terminal.errors import UserError


def need_openvino() -> None:
    """
    Raises:
        UserError: it is not installed; requirements.txt leaves it out.
    """
    if importlib.util.find_spec("openvino") is None:
        raise UserError("--openvino: OpenVINO is not installed here: pip install openvino")


def to_openvino(network: Scaled, images: Pairs, folder: Path, notes: dict[str, str]) -> float:
    """Write a network for images of this size as network.xml and network.bin in a folder, and check
    it; returns `disagreement`.

    Raises:
        UserError: that is more than `TOLERANCE`.
    """
    import openvino

    with replacing_folder(folder) as partial:
        image = images[0][0]
        # without the size here OpenVINO would leave it open, and compute more slowly
        model = openvino.convert_model(
            torch.export.export(network, (image,)), input=[list(image.shape)]
        )
        model.input().set_names({"image"})
        model.output().set_names({"logits"})
        for key, note in notes.items():
            model.set_rt_info(note, key)
        openvino.save_model(model, partial / "network.xml", compress_to_fp16=False)
        return checked(network, images, partial / "network.xml", folder)
