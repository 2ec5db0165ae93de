"""What a stage imports before it begins: libraries of networks take seconds, five times a run."""

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = (
    "timm",
    "torchvision",
    "segmentation_models_pytorch",
    "torch_pruning",
    "sklearn",
    "torch._dynamo",
)


@pytest.mark.parametrize(
    "stage", ["00_prepare_data", "02_predict", "03_ensemble", "04_postprocess"]
)
def test_a_stage_begins_without_the_libraries_that_take_seconds_to_import(stage):
    code = (
        f"import sys; __import__({stage!r}); print(*[name for name in {SLOW} if name in "
        "sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
