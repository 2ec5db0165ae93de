"""What a recipe's wells look like before and after cleaning and scaling: the numbers of section 2.1
of the CorroSeg paper and its Figures 1 to 3.

Usage: python -m src.studies.data RECIPE. Writes data/studies/data_<recipe>/.
"""

import argparse

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from src import modality, recipe
from src.artifacts import hdf5
from src.artifacts.files import replacing, write_text
from src.artifacts.run import Run
from src.report import figures
from src.stages.prepare import prepare
from src.terminal import command, console
from src.terminal.errors import UserError
from src.wells.preparation import fitted_scaling

BINS = 200
SHOWN = (0.1, 99.9)  # percentiles between which a histogram is drawn


def table(run: Run) -> pd.DataFrame:
    """A line a split: patches, wells, those that are not used, corroded patches and pixels among
    the others.
    """
    lines = []
    for split in ("train", "test"):
        own = hdf5.read(run.prepared(split), "group", "valid")
        used = own["valid"].any((1, 2))
        line = {"split": split, "patches": len(used), "wells": len(np.unique(own["group"]))}
        line |= {"not used": int((~used).sum()), "share": f"{(~used).mean():.1%}"}
        if split == "train":
            mask = hdf5.read(run.prepared(split), "mask")["mask"][used] > 0
            line["corroded patches"] = f"{mask.any((1, 2)).mean():.3%}"
            line["corroded pixels"] = f"{mask.mean():.2%}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("-")


def histograms(run: Run) -> Figure:
    """The measured pixels of the training patches before and after scaling, without placeholders
    (Figure 2).
    """
    own = hdf5.read(run.prepared("train"), "image", "valid")
    scaling = fitted_scaling(run)
    raw = own["image"] * scaling.scale + scaling.center
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for axis, title, image in zip(
        axes, ("before scaling", "after scaling"), (raw, own["image"]), strict=True
    ):
        values = image[own["valid"]]
        axis.hist(values, BINS, range=tuple(np.percentile(values, SHOWN)))
        axis.locator_params(axis="x", nbins=6)
        axis.set(title=title, xlabel="deviation from nominal thickness", ylabel="pixels")
    return figure


def example(run: Run) -> Figure:
    """The training patch with most corrosion, raw, its mask, and scaled (Figures 1 and 3)."""
    own = hdf5.read(run.prepared("train"), "name", "image", "valid", "mask")
    used = own["valid"].all((1, 2))
    row = int((own["mask"].sum((1, 2)) * used).argmax())
    scaling = fitted_scaling(run)
    raw = own["image"][row] * scaling.scale + scaling.center
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained")
    for axis, title, image in zip(
        axes, (own["name"][row], "mask", "scaled"), (raw, own["mask"][row], own["image"][row]),
        strict=True,
    ):  # fmt: skip
        axis.imshow(image, cmap="viridis")
        axis.set(title=title, xticks=[], yticks=[])
    return figure


def main(options: argparse.Namespace) -> None:
    chosen = recipe.load(options.recipe, options.overrides)
    run = modality.open_run(chosen, options.data_dir, options.submissions_dir)
    if run.competition.kind != "wells":
        raise UserError(f"{chosen.competition} has photographs: choose a recipe of wells")
    prepare(run)
    folder = options.data_dir / "studies" / f"data_{chosen.name}"
    text = figures.markdown(table(run))
    write_text(folder / "table.md", f"{text}\n")
    for name, figure in (("example", example(run)), ("histograms", histograms(run))):
        with replacing(folder / f"{name}.png") as partial:
            partial.write_bytes(figures.png(figure))
    console.say(text)
    console.summary(f"{folder}/table.md, example.png, histograms.png")


if __name__ == "__main__":
    command.run(main, command.parser(__doc__))
