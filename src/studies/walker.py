"""What a random walker makes of a patch, as in the CorroSeg paper's Figure 9."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.recipe import Postprocess
from src.scoring import averaging
from src.wells.postprocess import selection
from src.wells.postprocess.refinement import random_walker_on_patch

TITLES = ("patch", "truth", "probability above one half", "labelled pixels", "random walk")


def on_patches(run: Run) -> bool:
    """Whether a run's masks are always walked, patch by patch."""
    own = run.recipe.postprocess
    return own.random_walker and own.walk_on == "patches" and own.apply == "always"


def picture(runs: dict[str, Run]) -> Figure:
    """A row for each variation: the held-out patch whose walk has most to decide."""
    figure, rows = plt.subplots(
        len(runs), len(TITLES), figsize=(12, 2.6 * len(runs)), squeeze=False, layout="constrained"
    )
    for axes, (name, run) in zip(rows, runs.items(), strict=True):
        for axis, title, image in zip(axes, TITLES, panels(run), strict=True):
            if title == "patch":
                axis.imshow(image, cmap="gray")
            else:
                axis.imshow(image, vmin=0, vmax=2 if title == "labelled pixels" else 1)
            axis.set_title(title, fontsize=9)
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, fontsize=8)
    return figure


def panels(run: Run) -> list[np.ndarray]:
    """The images (H, W) below `TITLES`; of the labelled pixels clean ones are 0, corroded ones 2,
    and those left to the walker 1.
    """
    own, image, p, truth = run.recipe.postprocess, *_most_to_decide(run)
    walked = random_walker_on_patch(image, p, own.betas[0], own.seed_above, own.seed_below)
    return [image, truth, p > 0.5, _seeds(p, own) + 1, walked > 0.5]


def _most_to_decide(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, probability and truth (H, W) of the patch with labels of both kinds that leaves most
    pixels free; where no patch has both, of one that leaves most free.
    """
    found: list[tuple[tuple[bool, int], tuple[np.ndarray, ...]]] = []
    for block in selection.predicted(run, "train", averaging.oof(run), "image", "mask"):
        rank = _rank(block, run.recipe.postprocess)
        best = max(range(len(rank)), key=rank.__getitem__)
        arrays = (block["image"], block["probability"].astype(np.float64), block["mask"])
        found.append((rank[best], tuple(array[best] for array in arrays)))
    return max(found, key=lambda one: one[0])[1]


def _rank(block: Arrays, settings: Postprocess) -> list[tuple[bool, int]]:
    seeds = _seeds(block["probability"], settings)
    both = (seeds > 0).any((1, 2)) & (seeds < 0).any((1, 2))
    return list(zip(both.tolist(), (seeds == 0).sum((1, 2)).tolist(), strict=True))


def _seeds(probability: np.ndarray, settings: Postprocess) -> np.ndarray:
    """1 where a pixel is labelled corroded, -1 where clean, 0 where the walker decides."""
    return (probability > settings.seed_above) * 1 - (probability < settings.seed_below)
