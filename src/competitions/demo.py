"""The demo: the CorroSeg challenge on wells that the project generates itself, with the truth of its test wells."""

from dataclasses import replace
from pathlib import Path

from src.competitions import corroseg, demo_wells
from src.errors import UserError
from src.recipe import Generate


def generate(folder: Path, truth: Path, settings: Generate) -> None:
    """Write raw files in the challenge's own format into `folder`, and the test set's masks to `truth`."""
    try:
        demo_wells.generate(folder, truth, settings.seed, settings.train_patches, settings.test_patches)
    except ValueError as error:
        raise UserError(f"[generate] in the recipe: {error}") from None


COMPETITION = replace(corroseg.COMPETITION, name="demo", generate=generate)
