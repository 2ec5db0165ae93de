"""Which pixels were taken for which class, over a whole set of photographs, and the intersections
over unions that follow.

The pruning study reports one IoU over all pixels and classes, the background among them: (TP) / (TP
+ FP + FN) with every pixel counted once for what it is and once for what it is taken for, which is
accuracy / (2 - accuracy). Where most pixels are background it hardly notices the corrosion. It is
told here beside the IoU of each class.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from src import artifacts
from src.artifacts import Paths
from src.networks.layers import Activation, probability
from src.photographs.averaging import oof_average, tasks_of
from src.photographs.batches import Batch, Crops, Sample
from src.photographs.dataset import Gallery
from src.photographs.prediction import STEPS, in_tiles, predict
from src.recipe import Member, Recipe
from src.wells.cleaning import Scaling
from src.wells.prediction import LAYOUT, autocast, load_network


def labels(likely: np.ndarray, activation: Activation) -> np.ndarray:
    """The class (H, W) of each pixel, 0 being the background, from probabilities or a mask (K, H,
    W).

    With "softmax" the likeliest of classes and background; with "sigmoid", and for a mask, the
    likeliest class if it is above one half.
    """
    background = 1 - likely.sum(0) if activation == "softmax" else 0.5
    return np.where(likely.max(0) > background, likely.argmax(0) + 1, 0)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each label (rows) were taken for each (columns): (K + 1, K + 1), the
    background first.
    """
    return np.bincount(
        truth.ravel() * (classes + 1) + predicted.ravel(), minlength=(classes + 1) ** 2
    ).reshape(classes + 1, -1)


def empty(classes: int) -> np.ndarray:
    """`confusion` over no photograph yet."""
    return np.zeros((classes + 1, classes + 1), np.int64)


def count(mask: np.ndarray, likely: np.ndarray, activation: Activation) -> np.ndarray:
    """`confusion` of one photograph: its true mask (K, H, W) against probabilities (K, H, W)."""
    return confusion(labels(mask, "sigmoid"), labels(likely, activation), len(mask))


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU (K,) of each class but the background over a whole set: sums of intersections over
    sums of unions; 1 of a class nowhere.
    """
    shared = np.diagonal(counts)[1:]
    union = (counts.sum(0) + counts.sum(1))[1:] - shared
    return np.divide(shared, union, out=np.ones(len(shared)), where=union > 0)


def micro_iou(counts: np.ndarray) -> float:
    """The pruning study's IoU: over all pixels and labels together, the background among them."""
    accuracy = np.trace(counts) / counts.sum()
    return float(accuracy / (2 - accuracy))


def out_of_fold(recipe: Recipe, paths: Paths, seeds: list[int]) -> np.ndarray:
    """`count` over all photographs that were held out, predicted by the average of some seeds."""
    chosen, train = recipe.model_copy(update={"seeds": seeds}), Gallery.open(paths, recipe, "train")
    average = oof_average(chosen, paths, "segment")
    activation = next(member.activation for member in recipe.members if member.role == "segment")
    counts = empty(len(train.classes))
    for row, name in enumerate(train.name):
        if name in average.names:
            counts += count(train.mask(row), average.of(name), activation)
    return counts


def on_test(
    recipe: Recipe, paths: Paths, seeds: list[int], device: torch.device
) -> np.ndarray | None:
    """`count` over all test photographs, predicted by the average of all folds of some seeds;
    None where their truth is not known.
    """
    if not artifacts.holds(paths.prepared(recipe), "test/mask"):
        return None
    test = Gallery.open(paths, recipe, "test")
    chosen = recipe.model_copy(update={"seeds": seeds})
    tasks = tasks_of(chosen, "segment")
    loaded = [
        (recipe.member(task.member), *load_network(recipe, task, paths, device, len(test.classes)))
        for task in tasks
    ]
    counts = empty(len(test.classes))
    for row in range(len(test.name)):
        image = test.image(row)[None]
        parts = [
            predict(network, image, test.white, scaling, member, recipe.inference, device)[0]
            for member, network, scaling in loaded
        ]
        counts += count(
            test.mask(row), np.mean(parts, 0, dtype=np.float32), loaded[0][0].activation
        )
    return counts


@dataclass
class HeldOut:
    """Scores a network on its held-out fold while it is trained: whole photographs at the size
    in which it sees them, without flips.
    """

    train: Gallery
    rows: np.ndarray
    member: Member
    scaling: Scaling
    device: torch.device
    kept: dict[int, Batch] = field(default_factory=dict)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        network.eval()
        resize = self.member.photograph.resize
        read = Crops(
            self.train,
            [Sample(int(row), 0, None) for row in self.rows],
            resize and tuple(resize),
            self.kept if resize else None,
        )
        counts = empty(len(self.train.classes))
        for number in range(len(read)):
            image, mask, _ = read[number]
            scaled = (
                torch.from_numpy(self.scaling.apply(image.permute(1, 2, 0).numpy()))
                .permute(2, 0, 1)[None]
                .to(self.device)
            )
            with torch.inference_mode(), autocast(self.member, self.device):
                logits = in_tiles(network, scaled.contiguous(memory_format=LAYOUT))
            # as it would be stored
            likely = (
                probability(logits, self.member.activation)[0]
                .mul(STEPS)
                .round()
                .div(STEPS)
                .cpu()
                .numpy()
            )
            counts += count(mask.numpy().astype(np.uint8), likely, self.member.activation)
        return {
            "held_out_micro_iou": micro_iou(counts),
            "held_out_iou": float(class_iou(counts).mean()),
        }
