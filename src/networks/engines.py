"""Trained networks as files that run without torch: ONNX, also in 8 bits, and OpenVINO's format.

Their input `image` is one image of fixed size (1, C, H, W) float32, before scaling, which is the
first step inside; their output `logits` is the network's own.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from src.artifacts.files import replacing, replacing_folder
from src.networks.scaling import Scaling
from src.terminal.errors import UserError

TOLERANCE = 1e-4  # of logits, between torch and a file in float32
THREADS = 2
# images before scaling and after it, (1, C, H, W) each
Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Scaled(nn.Module):
    """A network behind the scaling of its input."""

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        for name in ("center", "scale"):
            number = torch.as_tensor(getattr(scaling, name), dtype=torch.float32)
            self.register_buffer(name, number)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network((image - self.center) / self.scale)


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
        return _checked(network, images, partial, path)


def to_openvino(network: Scaled, images: Pairs, folder: Path, notes: dict[str, str]) -> float:
    """`to_onnx` in OpenVINO's format: network.xml and network.bin in a folder."""
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
        return _checked(network, images, partial / "network.xml", folder)


def need_openvino() -> None:
    """
    Raises:
        UserError: it is not installed; requirements.txt leaves it out.
    """
    if importlib.util.find_spec("openvino") is None:
        raise UserError("--openvino: OpenVINO is not installed here: pip install openvino")


def _checked(network: Scaled, images: Pairs, file: Path, name: Path) -> float:
    difference = disagreement(network, images, file)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{name}: its logits differ from torch's by {difference:.2g}, more than {TOLERANCE}; "
            "nothing is written"
        )
    return difference


def disagreement(network: Scaled, images: Pairs, file: Path) -> float:
    """The largest absolute difference between the logits of a file and those that torch makes of
    the same images, scaled by the pipeline.
    """
    run = opened(file)
    with torch.inference_mode():
        return max(
            float(np.abs(run(raw.numpy()) - network.network(seen).numpy()).max())
            for raw, seen in images
        )


def opened(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """From an image (1, C, H, W) to the logits of an exported file, on the CPU in float32."""
    if file.suffix == ".xml":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
        model = openvino.Core().compile_model(file, "CPU", settings)
        return lambda image: model(image)[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


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
