"""A tiny challenge to write to disk, and the real files where they lie beside the repository."""

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# One thread a process, before any library starts its own: tests run side by side, tiny networks
# gain nothing from more, and their number decides the order of sums and so the bytes.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}

import numpy as np
import pytest
from hypothesis import settings

from src.terminal import console
from tests import moments

# the same examples every time, however slow
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.load_profile("fixed")

SHARED = Path(__file__).parents[2] / "shared" / "data"
Patches = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def lines_are_shown() -> None:
    """What is said goes to the standard output, as in a stage."""
    console.start(quiet=False)


@pytest.fixture
def moment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[moments.Moment]:
    """After a checkpoint was saved: see tests/moments.py."""
    with moments.after_saving("checkpoint.pt", tmp_path_factory.mktemp("moment")) as one:
        yield one


@dataclass
class Challenge:
    """Images by name in natural order, and the masks of the training images."""

    train: Patches
    masks: Patches
    test: Patches

    def write(self, folder: Path) -> Path:
        """Write everything as the organisers hand it out: zips of .npy files and a CSV of masks."""
        folder.mkdir(parents=True, exist_ok=True)
        for split, images in (("train", self.train), ("test", self.test)):
            with zipfile.ZipFile(folder / f"X_{split}.zip", "w") as archive:
                for name, image in images.items():
                    content = io.BytesIO()
                    np.save(content, image)
                    archive.writestr(f"images/{name}.npy", content.getvalue())
        rows = [name + "," + ",".join(map(str, mask.ravel())) for name, mask in self.masks.items()]
        (folder / "y_train.csv").write_text(
            "\n".join(["," + ",".join(map(str, range(36 * 36))), *rows]) + "\n"
        )
        return folder


@pytest.fixture
def challenge() -> Challenge:
    """Training wells 1, 2 and 10, test well 3: 36x36 patches of noise."""
    rng = np.random.default_rng(0)

    def draw(wells: dict[int, int]) -> Patches:
        names = [
            f"well_{well}_patch_{patch}" for well, count in wells.items() for patch in range(count)
        ]
        return {name: rng.normal(0, 0.02, (36, 36)).astype(np.float32) for name in names}

    train = draw({1: 3, 2: 11, 10: 2})
    masks = {name: (image < -0.02).astype(np.uint8) for name, image in train.items()}
    return Challenge(train, masks, draw({3: 4}))


@pytest.fixture(scope="session")
def corroseg_folder() -> Path:
    return _shared("corroseg")


@pytest.fixture(scope="session")
def severstal_folder() -> Path:
    return _shared("severstal_mini")


@pytest.fixture(scope="session")
def magnetic_tile_folder() -> Path:
    return _shared("magnetic_tile")


@pytest.fixture(scope="session")
def nea_folder() -> Path:
    return _shared("nea")


@pytest.fixture(scope="session")
def lite0() -> Path:
    """ImageNet weights of EfficientNet-Lite0."""
    return _shared("weights") / "tf_efficientnet_lite0.safetensors"


def _shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real files in shared/data/{name} beside the repository")
    return SHARED / name
