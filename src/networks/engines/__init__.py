"""Trained networks as files that run without torch: ONNX, also in 8 bits, and OpenVINO's format.

Their input `image` is one image of fixed size (1, C, H, W) float32, before scaling, which is the
first step inside; their output `logits` is the network's own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

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


def checked(network: Scaled, images: Pairs, file: Path, name: Path) -> float:
    """`disagreement`, for a file that will be named `name`.

    Raises:
        UserError: that is more than `TOLERANCE`.
    """
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
