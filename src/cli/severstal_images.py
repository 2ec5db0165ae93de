"""Photographs in the raw format of Severstal, generated from a seed: python -m
src.cli.severstal_images FOLDER

Sheets of rolled steel with a grain along the columns, uneven light, and stains that are no defects.
Defects have the shares, sizes and outlines of the real ones: 1 pits, 2 inclusions, 3 scratches, 4
corrosion. Some sheets are photographed twice, a few pixels apart, as in the real set. Generated
images serve to measure speed and to try the stages out; a score on them means nothing.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from src.competitions.formats import rle
from src.competitions.formats.severstal_jpegs import HEIGHT, WIDTH
from src.competitions.severstal import CLASSES, SAMPLE, TRAIN
from src.terminal import command
from src.terminal.errors import UserError

# How many of the 12,568 real images show which classes.
SHOWN = {
    (): 5902,
    (1,): 769,
    (2,): 195,
    (3,): 4759,
    (4,): 516,
    (1, 2): 35,
    (1, 3): 91,
    (2, 3): 14,
    (2, 4): 1,
    (3, 4): 284,
    (1, 2, 3): 2,
}

TWINS = 0.08  # probability that a sheet is photographed twice
SHIFT = (6, 40)  # rows and columns between the two, at most
DARK_END = 0.12  # probability that the sheet ends within the image
STAINS = 0.5  # probability
BRIGHTNESS, CONTRAST = (60, 130), (0.6, 1.3)  # grey levels; factor
GRAIN, LIGHT, NOISE = (1.5, 6), (8, 30), (5, 10)  # grey levels, standard deviations
QUALITY = 88  # of the JPEGs; gives files of about the real size, 120 KB

TRAINING, TEST, NAMES = range(3)  # independent random streams of one seed


@dataclass(frozen=True)
class Form:
    """What a defect looks like: how many an image, half length and half width in pixels, and
    degrees off the vertical (deviation).

    A streaked one is a bar with lines along it, another one a blob with a rough inside. `strength`
    is in grey levels.
    """

    label: int
    number: float
    length: tuple[float, float]
    width: tuple[float, float]
    turn: float
    streaked: bool
    strength: tuple[float, float]


FORMS = {
    1: [Form(1, 4, (12, 30), (7, 14), 8, False, (18, 45))],
    2: [Form(2, 1.3, (45, 128), (6, 14), 2, True, (14, 35))],
    3: [
        Form(3, 3, (40, 160), (6, 20), 2, True, (14, 45)),
        Form(3, 2.5, (60, 400), (8, 40), 90, True, (18, 55)),
    ],
    4: [Form(4, 2.3, (25, 90), (40, 150), 15, False, (25, 60))],
}


def generate(
    folder: Path,
    images: int,
    test_images: int,
    seed: int,
    height: int = HEIGHT,
    width: int = WIDTH,
    four_rows: bool = False,
) -> None:
    """Write train_images, test_images, train.csv and sample_submission.csv; the same seed gives the
    same bytes.

    With `four_rows` both csv files are in the layout of four rows an image. Sizes other than
    256x1600 are not what Severstal's reader takes.

    Raises:
        UserError: fewer than one image of either kind, a negative seed, or there are such files in
            `folder` already, perhaps real ones.
    """
    if min(images, test_images) < 1 or seed < 0:
        raise UserError(
            f"{images} training and {test_images} test images of seed {seed}: give at "
            "least one of each and no negative seed"
        )
    names = _draw_names(np.random.default_rng([seed, NAMES]), images + test_images)
    split_names = {"train_images": names[:images], "test_images": names[images:]}
    for name in (*split_names, TRAIN, SAMPLE):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} is there already: remove it, or generate into another folder"
            )
    codes: dict[str, list[str]] = {}
    for stream, (name, drawn) in zip((TRAINING, TEST), split_names.items(), strict=True):
        (folder / name).mkdir(parents=True)
        codes |= _write_photographs(folder / name, drawn, seed, stream, (height, width))
    train, test = (sorted(drawn) for drawn in split_names.values())
    (folder / TRAIN).write_text(_train_csv(train, codes, four_rows))
    (folder / SAMPLE).write_text(_sample_csv(test, height * width, four_rows))


def draw_sheet(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of steel in grey levels, (H, W) float32 without noise, and the masks of its
    defects, (4, H, W) bool.
    """
    sheet = _texture(rng, shape)
    masks = np.zeros((len(CLASSES), *shape), bool)
    for label in _draw_classes(rng):
        forms = FORMS[label]
        form = forms[rng.integers(len(forms))]
        for _ in range(1 + rng.poisson(form.number - 1)):
            _add_defect(rng, sheet, masks[label - 1], form)
    if rng.random() < DARK_END:
        end = int(rng.uniform(0.02, 0.25) * shape[1])
        hidden = np.s_[:, :end] if rng.random() < 0.5 else np.s_[:, -end:]
        sheet[hidden] *= 0.08
        masks[:, *hidden] = False
    return sheet, masks


def photograph(
    rng: np.random.Generator, sheet: np.ndarray, masks: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A part of a sheet somewhere in it, with noise of its own: (H, W) uint8, and its masks (4,
    H, W) bool.
    """
    top, left = (int(rng.integers(spare + 1)) for spare in np.subtract(sheet.shape, shape))
    part = np.s_[top : top + shape[0], left : left + shape[1]]
    grey = sheet[part] * np.float32(rng.uniform(0.95, 1.05))
    noise = rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(*NOISE))
    grey += noise * np.clip(grey / 60, 0.1, 1)  # dark pixels are less noisy
    return np.clip(grey, 0, 255).astype(np.uint8), masks[:, *part]


def _write_photographs(
    folder: Path, names: list[str], seed: int, stream: int, shape: tuple[int, int]
) -> dict[str, list[str]]:
    """Write a JPEG for each name; returns the codes of its four masks. Names are in no order, so
    that near-duplicates are not neighbours.
    """
    codes, sheets = {}, 0
    while len(codes) < len(names):
        rng = np.random.default_rng([seed, stream, sheets])
        sheet, masks = draw_sheet(rng, (shape[0] + SHIFT[0], shape[1] + SHIFT[1]))
        shots = 2 if rng.random() < TWINS else 1
        for name in names[len(codes) : len(codes) + shots]:
            grey, seen = photograph(rng, sheet, masks, shape)
            Image.fromarray(grey).convert("RGB").save(folder / name, quality=QUALITY)
            codes[name] = rle.encode(seen, "column") if seen.any() else [""] * len(CLASSES)
        sheets += 1
    return codes


def _draw_names(rng: np.random.Generator, number: int) -> list[str]:
    """Different names of nine hexadecimal digits, in random order."""
    drawn: dict[int, None] = {}
    while len(drawn) < number:
        drawn |= dict.fromkeys(rng.integers(16**9, size=number - len(drawn)).tolist())
    return [f"{value:09x}.jpg" for value in drawn]


def _draw_classes(rng: np.random.Generator) -> tuple[int, ...]:
    """The labels, 1 to 4, of the kinds of defects on a sheet."""
    images = np.array(list(SHOWN.values()))
    return list(SHOWN)[rng.choice(len(images), p=images / images.sum())]


def _texture(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Sound steel: grain along the columns, uneven light, ripples across, and sometimes stains."""
    height, width = shape
    grain = _smooth(rng, shape, (max(2, height // 40), width // 2)) + _smooth(
        rng, shape, (2, width // 6)
    )
    light = _smooth(rng, shape, (3, 6))
    ripples = np.sin(np.arange(height, dtype=np.float32) * np.float32(rng.uniform(0.5, 1.5)))[
        :, None
    ]
    sheet = rng.uniform(*GRAIN) * grain + rng.uniform(*LIGHT) * light + rng.uniform(0, 3) * ripples
    if rng.random() < STAINS:
        stained = (grain > 0.4) & (_smooth(rng, shape, (4, width // 100)) > 0.8)
        sheet += stained * np.float32(rng.uniform(-30, 30))
    return (rng.uniform(*BRIGHTNESS) + rng.uniform(*CONTRAST) * sheet).astype(np.float32)


def _smooth(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Noise (H, W) float32 of about unit deviation, drawn on a grid of `cells` and interpolated
    linearly between its points.
    """
    grid = rng.standard_normal(np.maximum(cells, 2), np.float32)
    # the matrix that interpolates along rows
    down = _along_columns(np.eye(len(grid), dtype=np.float32), shape[0]).T
    return 1.5 * (down @ _along_columns(grid, shape[1]))


def _along_columns(grid: np.ndarray, width: int) -> np.ndarray:
    """Each row of `grid` interpolated linearly to `width` values."""
    position = np.linspace(0, grid.shape[1] - 1, width, dtype=np.float32)
    left = np.minimum(position.astype(int), grid.shape[1] - 2)
    weight = position - left
    return grid[:, left] * (1 - weight) + grid[:, left + 1] * weight


def _add_defect(rng: np.random.Generator, sheet: np.ndarray, mask: np.ndarray, form: Form) -> None:
    """Draw one defect somewhere on the sheet, and mark it, with a little around it, as an
    annotator would.
    """
    length, width = (
        float(np.exp(rng.uniform(*np.log(bounds)))) for bounds in (form.length, form.width)
    )
    angle = (
        np.deg2rad(rng.normal(0, form.turn))
        if form.turn < 90
        else rng.uniform(np.pi / 3, 2 * np.pi / 3)
    )
    window, along, across = _around(rng, sheet.shape, length, width, angle)
    if form.streaked:
        outline = 1 - 0.3 * np.abs(np.sin(rng.uniform(1, 4) * along + rng.uniform(0, np.pi)))
        region = (np.abs(along) < 1) & (np.abs(across) < outline)
        lines = np.interp(across, np.linspace(-1, 1, 16), rng.normal(0, 1.2, 16)).astype(np.float32)
        relief = lines * (np.abs(across) < 0.8 * outline) * (np.abs(along) < 0.95)
    else:
        waves = np.sin(3 * along + rng.uniform(0, 6)) + np.sin(4 * across + rng.uniform(0, 6))
        distance = along**2 + across**2 + 0.2 * waves
        region = distance < 0.9
        rough = (
            sum(
                _smooth(rng, region.shape, (region.shape[0] // cell, region.shape[1] // cell))
                for cell in (4, 14)
            )
            / 1.4
        )
        relief = (rough - 0.6) * (distance < 0.7)
    sheet[window] += (rng.uniform(*form.strength) * relief).astype(np.float32)
    mask[window] |= region


def _around(
    rng: np.random.Generator, shape: tuple[int, int], length: float, width: float, angle: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """A window somewhere in the sheet, and coordinates in it along and across a defect: its half
    length and half width are 1.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    reach = 1.2 * np.array(
        [abs(length * cos) + abs(width * sin), abs(length * sin) + abs(width * cos)]
    )
    centre = rng.uniform(0.05, 0.95, 2) * shape
    low, high = (
        np.maximum(centre - reach, 0).astype(int),
        np.minimum(centre + reach + 1, shape).astype(int),
    )
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    y, x = (y - centre[0]).astype(np.float32), (x - centre[1]).astype(np.float32)
    return (
        (slice(low[0], high[0]), slice(low[1], high[1])),
        (y * cos + x * sin) / length,
        (x * cos - y * sin) / width,
    )


def _train_csv(names: list[str], codes: dict[str, list[str]], four_rows: bool) -> str:
    cells = [
        (name, label, code)
        for name in names
        for label, code in zip(CLASSES, codes[name], strict=True)
    ]
    if four_rows:
        return _csv(
            "ImageId_ClassId,EncodedPixels",
            [f"{name}_{label},{code}" for name, label, code in cells],
        )
    return _csv(
        "ImageId,ClassId,EncodedPixels",
        [f"{name},{label},{code}" for name, label, code in cells if code],
    )


def _sample_csv(names: list[str], pixels: int, four_rows: bool) -> str:
    if four_rows:
        return _csv(
            "ImageId_ClassId,EncodedPixels",
            [f"{name}_{label},1 1" for name in names for label in CLASSES],
        )
    return _csv("ImageId,EncodedPixels,ClassId", [f"{name},1 {pixels},0" for name in names])


def _csv(header: str, rows: list[str]) -> str:
    return "\n".join([header, *rows, ""])


def _main(options: argparse.Namespace) -> None:
    generate(options.folder, options.images, options.test_images, options.seed)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description="Generate photographs in the raw format of Severstal."
    )
    arguments.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for example data/raw/severstal"
    )
    arguments.add_argument("--images", type=int, default=400)
    arguments.add_argument("--test-images", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    command.run(_main, arguments)
