"""The baselines: what most notebooks do, written as PyTorch's tutorials and Kaggle's kernels
write it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage.segmentation import random_walker
from sklearn.preprocessing import RobustScaler
from torch import nn
from torch.utils.data import Dataset

from src.networks import layers


def prepare(train: Path, test: Path, masks: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every .npy file of two folders loaded one by one, the masks read by pandas, gaps set to
    zero, each pixel scaled.
    """
    files = [sorted(folder.glob("*.npy")) for folder in (train, test)]
    images = [np.stack([np.load(file) for file in split]) for split in files]
    table = pd.read_csv(masks, index_col=0)
    truth = table.loc[[file.stem for file in files[0]]].to_numpy(np.uint8).reshape(-1, 36, 36)
    images = [np.nan_to_num(np.where(split < -100, 0, split)) for split in images]
    scaler = RobustScaler().fit(images[0].reshape(len(images[0]), -1))
    return *(
        scaler.transform(split.reshape(len(split), -1)).reshape(split.shape) for split in images
    ), truth


class PatchFiles(Dataset):
    """A patch and its mask from a file each, flipped and rolled at random."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pair = [
            np.load(self.folder / f"{number}_{what}.npy") for what in ("image", "mask", "weight")
        ]
        for axis in (0, 1):
            if np.random.rand() < 0.5:
                pair = [np.flip(array, axis) for array in pair]
        shift = np.random.randint(36)
        return tuple(np.roll(array, shift, axis=1)[None].astype(np.float32) for array in pair)


def train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[..., torch.Tensor],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> float:
    """A training loop in float32."""
    network.train()
    total = 0.0
    for image, mask, weight in batches:
        logits = network(image)
        loss = loss_of(logits, mask, weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total


def predict(network: nn.Module, windows: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Mean probability over the four flips in float32."""
    network.eval()
    result = []
    with torch.no_grad():
        for batch in windows.split(batch_size):
            views = [
                network(batch.flip(flip)).sigmoid().flip(flip) for flip in ([], [2], [3], [2, 3])
            ]
            result.append(torch.stack(views).mean(0))
    return torch.cat(result)


@contextmanager
def concatenating() -> Iterator[None]:
    """Ring convolutions pad by concatenation meanwhile, and deterministic algorithms are off, as
    by default.
    """
    forward, deterministic = layers.RingConv2d.forward, torch.are_deterministic_algorithms_enabled()
    layers.RingConv2d.forward = lambda self, x: nn.Conv2d.forward(self, layers.ring_pad(x))
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        layers.RingConv2d.forward = forward
        torch.use_deterministic_algorithms(deterministic)


def walk(
    images: np.ndarray, probability: np.ndarray, above: float, below: float, beta: float
) -> list[np.ndarray]:
    """One call of scikit-image a patch (N, H, W); a patch with seeds of one kind only has
    nothing to walk to.
    """
    result = []
    for image, p in zip(images, probability, strict=True):
        seeds = np.where(p > above, 2, np.where(p < below, 1, 0))
        result.append(
            random_walker(image, seeds, beta, mode="bf", return_full_prob=True)[1]
            if len(np.unique(seeds)) == 3
            else p
        )
    return result


def encode(masks: Iterable[np.ndarray], order: str) -> list[str]:
    """The run-length code of each mask by itself, as it goes from kernel to kernel on Kaggle."""
    codes = []
    for mask in masks:
        pixels = np.concatenate([[0], mask.flatten(order), [0]])
        runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
        runs[1::2] -= runs[::2]
        codes.append(" ".join(str(number) for number in runs))
    return codes


def overlaps(
    probability: np.ndarray, truth: np.ndarray, thresholds: Iterable[float], sizes: list[int]
) -> np.ndarray:
    """Pixels (2, T, S, K) of one photograph that are shared with the truth, and that are predicted,
    at each threshold, the whole of it labelled each time, without components below each size.
    """
    result = []
    for threshold in thresholds:
        row = np.empty((2, len(sizes), len(truth)), np.int64)
        for k, (p, y) in enumerate(zip(probability, truth, strict=True)):
            label, _ = ndimage.label(p > threshold, np.ones((3, 3)))
            area, hit = (
                np.bincount(pixels, minlength=label.max() + 1)[1:]
                for pixels in (label.ravel(), label[y > 0])
            )
            for s, size in enumerate(sizes):
                row[:, s, k] = hit[area >= size].sum(), area[area >= size].sum()
        result.append(row)
    return np.stack(result, axis=1)
