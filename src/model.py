"""A trained model from Python: `Model.load("models/corroseg_quick").predict(array)`."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from src.artifacts.run import Run
from src.modality import open_model
from src.stages.apply import apply
from src.tasks.parallel import Options
from src.terminal import console


@dataclass(frozen=True)
class Prediction:
    """What a model says of one well or photograph.

    Args:
        probability: float32, of a well (rows, 36 or 72), of a photograph (K, H, W), K classes.
        mask: uint8 of the same shape, 1 where there is a defect.
        unlike: what lies outside the range of the training data, in words; "" where nothing does.
    """

    probability: np.ndarray
    mask: np.ndarray
    unlike: str


@dataclass(frozen=True)
class Model:
    """A model folder, or its zip, that was opened and compared with its digests."""

    run: Run
    options: Options
    unpacked: TemporaryDirectory  # what a zip held, for as long as the model is in use

    @staticmethod
    def load(folder: str | Path, device: str = "auto") -> "Model":
        """
        Args:
            device: "cpu", "cuda" or "auto", which is cuda where there is one.

        Raises:
            UserError: it is not whole.
        """
        unpacked = TemporaryDirectory()
        run = open_model(Path(folder).absolute(), Path(unpacked.name), Path(unpacked.name))
        return Model(run, Options(device=device, jobs=1), unpacked)

    def predict(self, image: np.ndarray) -> Prediction:
        """One well or photograph, predicted as `make apply` does it.

        Args:
            image: of a well its thickness as the instrument gives it, (rows, 36), or (rows, 72)
                for one that is scanned with 72 azimuths, NaN where nothing was measured; of a
                photograph (H, W) or (H, W, C), of the type that the training photographs have.

        Raises:
            UserError: an image that the model cannot take.
        """
        with TemporaryDirectory() as work, console.silent():
            new, output = Path(work) / "new.npy", Path(work) / "out"
            np.save(new, image)
            run = replace(self.run, new=new, data=output / "work", submissions=output)
            ((_, line),) = apply(run, self.options)["images"].items()
            _, probability, mask = next(run.modality.maps(run))
            return Prediction(probability.astype(np.float32), mask, line["unlike"])
