"""A network as an ONNX file, also in 8 bits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from src.artifacts.files import replacing
from src.networks.engines import Pairs, Scaled, checked


def to_onnx(network: Scaled, images: Pairs, path: Path, notes: dict[str, str]) -> float:
    """Write a network for images of this size, and check it; returns `disagreement`.

    Raises:
        UserError: that is more than `TOLERANCE`.
    """
    with replacing(path) as partial:
        torch.onnx.export(
            network,
            (images[0][0],),
            partial,
            dynamo=True,
            external_data=False,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
        model = onnx.load(partial)
        onnx.helper.set_model_props(model, notes)
        onnx.save(model, partial)
        return checked(network, images, partial, path)


def to_int8(source: Path, target: Path, images: Iterator[torch.Tensor]) -> None:
    """Write an ONNX file with weights and activations of 8 bits, whose ranges come from these
    images, before scaling.
    """
    with replacing(target) as partial:
        plain = partial.with_suffix(".plain")
        try:
            quant_pre_process(source, plain, skip_symbolic_shape=True)
            quantize_static(
                plain, partial, Calibration(images), per_channel=True, weight_type=QuantType.QInt8
            )
        finally:
            plain.unlink(missing_ok=True)


class Calibration(CalibrationDataReader):
    """What onnxruntime asks for images with."""

    def __init__(self, images: Iterator[torch.Tensor]) -> None:
        self.images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"image": image.numpy()}
