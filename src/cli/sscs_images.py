"""Photographs in the raw format of SSCS, generated from a seed: python -m src.cli.sscs_images
FOLDER

Painted steel under uneven light with patches of rust: fair ones are stains that let the paint
through, poor ones brown and rough, severe ones dark and pitted, mostly inside poor ones. The shares
of pixels are about the published ones: fair 12.4 %, poor 7.2 %, severe 1.4 %. Generated images
serve to try the stages out and to measure speed; a score on them means nothing.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from src.competitions.sscs import COLOURS
from src.terminal import command
from src.terminal.errors import UserError

PAINT = ((105, 125, 120), (150, 150, 140), (90, 110, 150))  # red, green, blue of intact paint
RUST = {"fair": (165, 115, 80), "poor": (125, 75, 45), "severe": (70, 45, 35)}
COVER = {"fair": 0.6, "poor": 0.85, "severe": 0.95}  # how much of the paint the rust hides
ROUGH = {"fair": 8, "poor": 18, "severe": 30}  # grey levels, deviation
SHARE = {"fair": 0.21, "poor": 0.086, "severe": 0.014}  # of the pixels at least in this state
SPREAD = 0.5  # deviation of the logarithm by which an image's shares differ from these
CLEAN = 0.05  # probability that nothing is corroded
QUALITY = 92

TRAINING, TEST = range(2)  # independent random streams of one seed


def generate(folder: Path, images: int, test_images: int, seed: int, size: int = 512) -> None:
    """Write Train/ and Test/ with Images/ and Masks/, squares of `size` pixels; the same seed gives
    the same bytes.

    Raises:
        UserError: fewer than one image of either kind, a negative seed, a size below 16, or there
            is such a folder already, perhaps of real images.
    """
    if min(images, test_images) < 1 or seed < 0 or size < 16:
        wanted = "give at least one of each, no negative seed, and a size of at least 16"
        raise UserError(
            f"{images} training and {test_images} test images of {size} pixels, seed "
            f"{seed}: {wanted}"
        )
    present = (
        [path for path in folder.iterdir() if path.name.lower() in ("train", "test")]
        if folder.is_dir()
        else []
    )
    if present:
        raise UserError(
            f"{present[0]} is there already: remove it, or generate into another folder"
        )
    for stream, split, count in ((TRAINING, "Train", images), (TEST, "Test", test_images)):
        for kind in ("Images", "Masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            photograph, mask = draw(np.random.default_rng([seed, stream, number]), size)
            Image.fromarray(photograph).save(
                folder / split / "Images" / f"{number}.jpeg", quality=QUALITY
            )
            Image.fromarray(mask).save(folder / split / "Masks" / f"{number}.png")


def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its mask, both (size, size, 3) uint8 in red, green, blue."""
    severity = _smooth(rng, size, size / 10) + 0.4 * _smooth(rng, size, size / 40)
    light = 1 + 0.15 * _smooth(rng, size, size / 3)
    picture = (
        np.array(PAINT[rng.integers(len(PAINT))])
        + rng.normal(0, 12, 3)
        + 3 * _smooth(rng, size, 2)[..., None]
    )
    mask = np.zeros((size, size, 3), np.uint8)
    # of mean 1
    factor = 0.0 if rng.random() < CLEAN else float(np.exp(rng.normal(-(SPREAD**2) / 2, SPREAD)))
    for state, colour in RUST.items():
        region = severity > np.quantile(severity, 1 - min(0.9, factor * SHARE[state]))
        rust = np.array(colour) + ROUGH[state] * _smooth(rng, size, 1.5)[..., None]
        picture = np.where(
            region[..., None], (1 - COVER[state]) * picture + COVER[state] * rust, picture
        )
        mask[region] = COLOURS[state]
    noisy = picture * light[..., None] + rng.normal(0, 4, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8), mask


def _smooth(rng: np.random.Generator, size: int, reach: float) -> np.ndarray:
    """Noise (size, size) of unit deviation whose values hang together over about `reach` pixels."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal((size, size), np.float32), reach, mode="wrap"
    )
    return noise / noise.std()


def _main(options: argparse.Namespace) -> None:
    generate(options.folder, options.images, options.test_images, options.seed, options.size)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description="Generate photographs in the raw format of SSCS."
    )
    arguments.add_argument("folder", type=Path, metavar="FOLDER", help="for example data/raw/sscs")
    arguments.add_argument("--images", type=int, default=396)
    arguments.add_argument("--test-images", type=int, default=44)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--size", type=int, default=512, help="rows and columns of each")
    command.run(_main, arguments)
