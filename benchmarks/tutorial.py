"""What a tutorial does with photographs and masks, on the folds of a recipe and in a given time;
and what a threshold on one colour reaches.

Usage: python -m benchmarks.tutorial RECIPE --minutes M [--data-dir data], after stage 00 of that
recipe (competition "folder", one class). M is the time for all folds. Printed are the mean Dice and
IoU of each photograph, out of fold. Needs no stage of ours but the folds.

The loop is segmentation_models_pytorch's examples': the recipe's network and encoder in float32,
photographs opened by PIL in every epoch at the recipe's size, random flips and quarter turns, dice
loss and cross-entropy, Adam at the recipe's highest rate all the time, a mask where the probability
exceeds one half.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch.utils.data import DataLoader, Dataset

from src import networks
from src.artifacts import hdf5
from src.competitions.metrics import dice, iou
from src.networks.encoders import features
from src.networks.scaling import Scaling
from src.recipe import Member
from src.scoring.selection import fold_sums, select
from src.stages.opening import open_run
from src.terminal import command

NETWORKS = {"unet": smp.Unet, "fpn": smp.FPN, "linknet": smp.Linknet, "ma_net": smp.MAnet}
NETWORKS |= {"unet_plus_plus": smp.UnetPlusPlus, "deeplab_v3_plus": smp.DeepLabV3Plus}
REDNESS = np.arange(-10, 41, 2)  # thresholds on a* of CIE Lab
Truth = dict[str, np.ndarray]


@dataclass
class Pairs(Dataset):
    """A photograph (3, h, w) as its encoder wants it, and its mask (1, h, w)."""

    folder: Path
    names: list[str]
    size: int
    scaling: Scaling
    train: bool

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self.folder / "images" / self.names[index]).convert("RGB")
        mask = Image.open((self.folder / "masks" / self.names[index]).with_suffix(".png"))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        mask = mask.resize((self.size, self.size), Image.Resampling.NEAREST)
        pair = [self.scaling.apply(np.asarray(image) / 255), np.asarray(mask)[..., None] > 0]
        if self.train:
            turns, mirrored = np.random.randint(4), np.random.rand() < 0.5
            pair = [np.rot90(own[:, ::-1] if mirrored else own, turns) for own in pair]
        return tuple(
            torch.from_numpy(own.astype(np.float32).transpose(2, 0, 1).copy()) for own in pair
        )


def network_of(member: Member) -> torch.nn.Module:
    """The library's network as it comes, on the recipe's encoder and its pretrained weights."""
    name, encoder, pretrained = (member.network.get(k) for k in ("name", "encoder", "pretrained"))
    network = NETWORKS[name](f"tu-{encoder}", encoder_weights=None, in_channels=3, classes=1)
    if pretrained:
        network.encoder.model.load_state_dict(features(encoder, pretrained, 3).state_dict())
    return network


def scaling_of(member: Member) -> Scaling:
    half = np.float32(0.5)
    return networks.trained_scaling(member.network, 3) or Scaling(half, half)


def training(network: torch.nn.Module, data: Pairs, member: Member) -> Iterator[int]:
    """Train, epoch after epoch; yields how many photographs each step has seen."""
    optimiser = torch.optim.Adam(network.parameters(), lr=member.phases[0].learning_rate)
    dice_loss, bce = smp.losses.DiceLoss("binary"), torch.nn.BCEWithLogitsLoss()
    while True:
        network.train()
        for image, mask in DataLoader(data, member.batch_size, shuffle=True, num_workers=2):
            logits = network(image)
            loss = dice_loss(logits, mask) + bce(logits, mask)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield len(image)


def predict(network: torch.nn.Module, data: Pairs, truth: Truth) -> np.ndarray:
    """Pixels shared, predicted and true (3, n), at the photographs' own size."""
    network.eval()
    counts = []
    for name, (image, _) in zip(data.names, DataLoader(data, 1), strict=True):
        with torch.no_grad():
            logits = network(image)
        own = truth[name]
        mask = torch.nn.functional.interpolate(logits, own.shape, mode="bilinear")[0, 0] > 0
        counts.append([(mask.numpy() & own).sum(), mask.sum().item(), own.sum()])
    return np.array(counts).T


def colour(folder: Path, truth: Truth, fold: np.ndarray) -> np.ndarray:
    """Pixels shared, predicted and true (3, N) of what is redder than the threshold that is best on
    the other folds.
    """
    counts = []
    for name, own in truth.items():
        image = Image.open(folder / "images" / name).convert("RGB")
        masks = rgb2lab(np.asarray(image))[..., 1] > REDNESS[:, None, None]
        counts.append(
            [(masks & own).sum((1, 2)), masks.sum((1, 2)), np.full(len(masks), own.sum())]
        )
    pixels = np.array(counts).transpose(1, 2, 0)  # (3, T, N)
    folds, place = np.unique(fold, return_inverse=True)
    nested = select(fold_sums(dice(*pixels), place, len(folds)))
    chosen = np.array([choice.candidate for choice in nested.without])[place]
    return pixels[:, chosen, np.arange(len(fold))]


def show(title: str, pixels: np.ndarray) -> None:
    print(f"{title:40} Dice {dice(*pixels).mean():.4f}  IoU {iou(*pixels).mean():.4f}", flush=True)


def main(options: argparse.Namespace) -> None:
    run = open_run(options)
    (member,) = run.recipe.members
    known, folder = hdf5.read(run.prepared("train"), "name", "fold"), run.raw / "train"
    names, fold = known["name"].tolist(), known["fold"]
    masks = {name: (folder / "masks" / name).with_suffix(".png") for name in names}
    truth = {name: np.asarray(Image.open(path)) > 0 for name, path in masks.items()}
    empty = np.array([[0, 0, own.sum()] for own in truth.values()]).T
    show("all masks empty", empty)
    show("redder than a threshold", colour(folder, truth, fold))

    size, folds = (member.photograph.resize or member.photograph.crops[0])[0], np.unique(fold)
    pixels, seen, spent = np.empty((3, len(names)), np.int64), 0, 0.0
    for number in folds.tolist():
        torch.manual_seed(options.seed)
        np.random.seed(options.seed)
        began, own = time.monotonic(), np.flatnonzero(fold == number)
        rest = [name for name, other in zip(names, fold, strict=True) if other != number]
        network, scaling = network_of(member), scaling_of(member)
        for count in training(network, Pairs(folder, rest, size, scaling, train=True), member):
            seen += count
            if time.monotonic() > began + 60 * options.minutes / len(folds):
                break
        spent += time.monotonic() - began
        held_out = Pairs(folder, [names[row] for row in own], size, scaling, train=False)
        pixels[:, own] = predict(network, held_out, truth)
        show(f"tutorial's loop, fold {number}", pixels[:, own])
    show("tutorial's loop, all folds", pixels)
    print(f"trained on {seen / spent:.1f} photographs a second, {seen / len(names):.1f} epochs")


if __name__ == "__main__":
    arguments = command.parser(__doc__)
    arguments.add_argument("--minutes", type=float, required=True, help="for all folds together")
    arguments.add_argument("--seed", type=int, default=0)
    command.run(main, arguments)
