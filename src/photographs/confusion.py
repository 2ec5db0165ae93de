"""Which pixels were taken for which class, of each photograph, and the intersections over unions
that follow.

The pruning study's IoU counts all labels together, the background among them: TP / (TP + FP + FN)
with every pixel counted once for what it is and once for what it is taken for, which is accuracy /
(2 - accuracy); of each photograph, and then the mean. Where most pixels are background it hardly
notices the corrosion. It is told here beside the same over all pixels at once, and beside the IoU
of each class.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.networks.devices import LAYOUT, autocast
from src.networks.layers import Activation, probability
from src.networks.loading import load_network
from src.networks.scaling import Scaling
from src.photographs.dataset import PhotoDataset
from src.photographs.decoding import STEPS
from src.photographs.prediction import in_tiles, predict
from src.recipe import Inference, Member
from src.scoring import averaging
from src.scoring.metrics import image_iou


def labels(likely: np.ndarray, activation: Activation) -> np.ndarray:
    """The class (H, W) of each pixel, 0 being the background, from probabilities or a mask (K, H,
    W).

    With "softmax" the likeliest of classes and background; with "sigmoid", and for a mask, the
    likeliest class if it is above one half. The background wins a tie, as it would by argmax of the
    logits: where the filters of several labels are pruned, these tie everywhere.
    """
    classes = len(likely)
    if activation == "softmax":
        # what is stored is rounded: of several classes a tie may be off by so much
        slack = (classes + 1) / (2 * STEPS) if classes > 1 else 0
        background = 1 - likely.sum(0, dtype=np.float32) + slack
    else:
        background = 0.5
    return np.where(likely.max(0) > background, likely.argmax(0) + 1, 0)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each label (rows) were taken for each (columns): (K + 1, K + 1), the
    background first.
    """
    return np.bincount(
        truth.ravel() * (classes + 1) + predicted.ravel(), minlength=(classes + 1) ** 2
    ).reshape(classes + 1, -1)


def count(mask: np.ndarray, likely: np.ndarray, activation: Activation) -> np.ndarray:
    """`confusion` of one photograph: its true mask (K, H, W) against probabilities (K, H, W)."""
    return confusion(labels(mask, "sigmoid"), labels(likely, activation), len(mask))


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU (K,) of each class but the background over a whole set: sums of intersections over
    sums of unions; 1 of a class nowhere.

    Args:
        counts: (N, K + 1, K + 1), a `confusion` for each photograph.
    """
    counts = counts.sum(0)
    shared = np.diagonal(counts)[1:]
    union = (counts.sum(0) + counts.sum(1))[1:] - shared
    return np.divide(shared, union, out=np.ones(len(shared)), where=union > 0)


def micro_iou(counts: np.ndarray) -> float:
    """IoU over all pixels of all photographs and all labels together, the background among them.

    Args:
        counts: (N, K + 1, K + 1), a `confusion` for each photograph.
    """
    return iou_by_image(counts.sum(0)[None])


def iou_by_image(counts: np.ndarray) -> float:
    """The pruning study's IoU: `micro_iou` of each photograph, then the mean ("micro-imagewise" in
    segmentation_models_pytorch, which its code uses).
    """
    accuracy = np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2))
    return float((accuracy / (2 - accuracy)).mean())


def out_of_fold(run: Run) -> np.ndarray:
    """`count` of each photograph that was held out, predicted by the average of all tasks."""
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    return np.stack(
        [
            count(train.mask(row), average.of(name), activation_of(run))
            for row, name in enumerate(train.name)
            if name in average.row_of
        ]
    )


def activation_of(run: Run) -> Activation:
    """That of the members that segment."""
    return next(member.activation for member in run.recipe.members if member.role == "segment")


def on_test(run: Run, device: torch.device) -> list[np.ndarray] | None:
    """For each trained network by itself `count` of each test photograph; None where their truth
    is not known.
    """
    if not hdf5.holds(run.prepared("test"), "mask"):
        return None
    test, settings = PhotoDataset.open(run, "test"), run.recipe.inference
    everything = range(len(test.name))
    loaded = [
        (*load_network(run, task, device), run.recipe.member(task.member))
        for task in run.tasks("segment")
    ]
    return [of_network(*own, settings, test, everything, device) for own in loaded]


def of_network(
    network: nn.Module,
    scaling: Scaling,
    member: Member,
    settings: Inference,
    dataset: PhotoDataset,
    rows: Iterable[int],
    device: torch.device,
) -> np.ndarray:
    """`count` of some photographs as a network predicts them."""
    counts = []
    for row in rows:
        image = dataset.image(row)[None]
        (likely,) = predict(network, image, dataset.white, scaling, member, settings, device)
        counts.append(count(dataset.mask(row), likely.astype(np.float32), member.activation))
    return np.stack(counts)


def held_out(
    network: nn.Module,
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]],
    scaling: Scaling,
    member: Member,
    device: torch.device,
) -> dict[str, float]:
    """Scores of a network on whole photographs at the size in which it sees them, without flips.

    Args:
        pairs: images (C, H, W), white being 1, and masks (K, H, W).
    """
    network.eval()
    counts, single = [], []
    for image, mask in pairs:
        scaled = scaling.apply(image.permute(1, 2, 0).numpy())
        x = torch.from_numpy(scaled).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode(), autocast(member, device):
            logits = in_tiles(network, x.contiguous(memory_format=LAYOUT))
        # as it would be stored
        likely = probability(logits, member.activation)[0].mul(STEPS).round().div(STEPS)
        truth = labels(mask.numpy(), "sigmoid")
        marked = labels(likely.cpu().numpy(), member.activation)
        counts.append(confusion(truth, marked, len(mask)))
        single.append(image_iou(marked, truth))
    whole = np.stack(counts)
    return {
        "held_out_micro_iou": micro_iou(whole),
        "held_out_iou": float(class_iou(whole).mean()),
        "held_out_image_iou": float(np.mean(single)),
        "held_out_iou_by_image": iou_by_image(whole),
    }
