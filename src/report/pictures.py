"""Wells and patches as small pictures: greys for the pipe, sixteen steps of probability, four
kinds of pixels.
"""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from src.artifacts.sealed import Arrays
from src.report.rendering import data_uri

TILE_ROWS = 16_000  # browsers and WebP take no picture of more than 16,383
STEPS = 16  # of probability: 4 bits
APART = 0.5  # the largest standard deviation of probabilities
OVERVIEW = 900  # columns of a whole well at a glance
MASK, TRUTH, REPAIRED, MISSING = 1, 2, 4, 8  # bits of a pixel's label

# Told apart by the colour-blind too (Okabe and Ito 2008).
COLOURS = {
    "found": "#00a879",
    "missed": "#e0651a",
    "false": "#56b4e9",
    "marked": "#f2f2f2",
    "repaired": "#7d6bb0",
    "defect_free": "#101014",
}
CLASSES = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#3d85c6", "#d55e00", "#cc79a7"]
INFERNO, VIRIDIS = (
    [
        matplotlib.colors.to_hex(colour)
        for colour in matplotlib.colormaps[name](np.linspace(0, 1, STEPS))
    ]
    for name in ("inferno", "viridis")
)

# Of pictures that show all of it: greys, then the steps of probability, then the kinds of pixels.
GREYS = 128
KINDS = ["defect_free", "found", "missed", "false", "marked", "repaired"]
PALETTE = [
    f"#{grey:02x}{grey:02x}{grey:02x}" for grey in np.linspace(0, 255, GREYS).round().astype(int)
] + INFERNO
PALETTE += [COLOURS[kind] for kind in KINDS]


@dataclass(frozen=True)
class Unrolled:
    """A well as one map, depth downwards and once around the pipe: `index` (D, P) is the row of the
    patch at each depth, -1 where one is missing; the P patches of a depth hold every P-th column
    each.
    """

    index: np.ndarray

    @staticmethod
    def of(arrays: Arrays, well: int) -> "Unrolled":
        own = np.flatnonzero(arrays["group"] == well)
        parity, place = arrays["parity"][own], arrays["depth"][own] - arrays["depth"][own].min()
        index = np.full((place.max() + 1, parity.max() + 1), -1)
        index[place, parity] = own
        return Unrolled(index)

    def stack(self, patches: np.ndarray) -> np.ndarray:
        """The map (D H, W P) of patches (N, H, W); a missing patch is zeros."""
        found = np.where(
            (self.index < 0)[:, :, None, None], np.zeros_like(patches[:1]), patches[self.index]
        )
        return found.transpose(0, 2, 3, 1).reshape(len(found) * patches.shape[1], -1)


def labels(arrays: Arrays) -> np.ndarray:
    """(N, H, W) uint8 of `MASK`, `TRUTH` (where it is known) and `REPAIRED` bits."""
    result = MASK * (arrays["prediction"] > 0).astype(np.uint8) | REPAIRED * (
        ~arrays["valid"]
    ).astype(np.uint8)
    return result | TRUTH * (arrays["mask"] > 0).astype(np.uint8) if "mask" in arrays else result


def well(arrays: Arrays, number: int, label: np.ndarray) -> dict[str, Any]:
    """What the viewer of a page needs of a well: its map in tiles, the patches' names and, where
    there are any, their scores.

    Args:
        arrays: `name`, `image`, `valid`, `group`, `depth`, `parity`, `probability`, perhaps
            `score`, `mask` and `deviation`, of a split.
        label: as `labels` gives them.
    """
    own, height = Unrolled.of(arrays, number), arrays["image"].shape[1]
    image, (low, high) = own.stack(arrays["image"]), limits(arrays, number)
    label = np.where(own.stack(np.ones_like(label)), own.stack(label), np.uint8(MISSING))
    grey = _steps(image, low, high, 256)
    steps = [_steps(own.stack(arrays["probability"]), 0, 1, STEPS), label]
    if "deviation" in arrays:
        steps.append(_steps(own.stack(arrays["deviation"]), 0, APART, STEPS))
    rows = TILE_ROWS // height * height
    tiles = [
        [
            data_uri("webp", _saved(Image.fromarray(grey[part]), "WEBP", quality=45, method=4)),
            *(data_uri("webp", _exact(step[part])) for step in steps),
        ]
        for part in (slice(first, first + rows) for first in range(0, len(image), rows))
    ]
    return {
        "rows": len(image),
        "columns": image.shape[1],
        "patch": height,
        "low": round(low, 6),
        "high": round(high, 6),
        "truth": "mask" in arrays,
        "tiles": tiles,
        "names": [["" if row < 0 else str(arrays["name"][row]) for row in at] for at in own.index],
        "scores": [
            [-1 if row < 0 else round(float(arrays["score"][row]), 3) for row in at]
            for at in own.index
        ]
        if "score" in arrays
        else None,
    }


def limits(arrays: Arrays, number: int) -> tuple[float, float]:
    """What is shown black and white of a well: all but the lowest and highest half percent of
    its measured values.
    """
    own = arrays["group"] == number
    values = arrays["image"][own][arrays["valid"][own]]
    low, high = np.percentile(values if len(values) else arrays["image"][own], [0.5, 99.5]).tolist()
    return low, high if high > low else low + 1


def overview(arrays: Arrays, number: int, label: np.ndarray) -> str:
    """A whole well at a glance, depth to the right: its mean thickness, and below whatever is
    marked in a stretch of depth.
    """
    own = Unrolled.of(arrays, number)
    image, label = own.stack(arrays["image"]), own.stack(label)
    first = np.unique(
        np.linspace(0, len(image), min(OVERVIEW, len(image)), endpoint=False).astype(int)
    )
    mean = (
        np.add.reduceat(image, first, axis=0, dtype=np.float64)
        / np.diff(np.append(first, len(image)))[:, None]
    )
    low, high = limits(arrays, number)
    kinds = _kinds(np.bitwise_or.reduceat(label, first, axis=0), "mask" in arrays)
    gap = np.full((len(first), 2), _place("defect_free"), np.uint8)
    return data_uri("png", _coloured(np.hstack([_steps(mean, low, high, GREYS), gap, kinds]).T))


def patch(arrays: Arrays, row: int, label: np.ndarray) -> str:
    """A patch as it stands in the submission, depth downwards: thickness, truth, probability and
    mask beside each other.
    """
    low, high = limits(arrays, arrays["group"][row])
    truth = np.where(label[row] & TRUTH, _place("marked"), _place("defect_free"))
    panels = [
        _steps(arrays["image"][row], low, high, GREYS),
        truth,
        _steps(arrays["probability"][row], 0, 1, STEPS) + GREYS,
        _kinds(label[row], known=True),
    ]
    gap = np.full((len(truth), 2), GREYS - 1)
    return data_uri(
        "png", _coloured(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))
    )


def raw_patch(image: np.ndarray, valid: np.ndarray, mask: np.ndarray | None) -> str:
    """A patch by itself, between its own lowest and highest measured value: thickness, with what
    was not measured in a colour, and the truth where it is known.
    """
    known = image[valid] if valid.any() else image
    low, high = float(known.min()), float(known.max())
    grey = _steps(image, low, high if high > low else low + 1, GREYS)
    panels = [np.where(valid, grey, _place("repaired"))]
    if mask is not None:
        gap = np.full((len(image), 2), GREYS - 1)
        panels += [gap, np.where(mask > 0, _place("marked"), _place("defect_free"))]
    return data_uri("png", _coloured(np.hstack(panels)))


def classes(masks: np.ndarray) -> str:
    """Masks (K, H, W) in a colour for each class; where classes overlap the last one shows."""
    shown = (masks > 0) * np.arange(1, len(masks) + 1)[:, None, None]
    return data_uri(
        "png",
        _coloured(shown.max(0, initial=0), [COLOURS["defect_free"], *class_colours(len(masks))]),
    )


def class_colours(number: int) -> list[str]:
    """As many colours as there are classes; after seven they come again."""
    return [CLASSES[k % len(CLASSES)] for k in range(number)]


@dataclass(frozen=True)
class Panel:
    """A picture with its title; `style` is a class of the style sheet."""

    title: str
    picture: str
    style: str


@dataclass(frozen=True)
class Beside:
    """A well or photograph and what several masks make of it; `legend` names colours."""

    panels: list[Panel]
    legend: dict[str, str]


def beside(arrays: Arrays, masks: dict[str, np.ndarray]) -> Beside:
    """A stretch of a well, depth to the right: its thickness, and by title what each of several
    masks (N, H, W) finds, misses and marks falsely.
    """
    number = arrays["group"][0]
    own, (low, high) = Unrolled.of(arrays, number), limits(arrays, number)
    shown = {"thickness": _steps(own.stack(arrays["image"]), low, high, GREYS)}
    for title, mask in masks.items():
        shown[title] = _kinds(own.stack(labels(arrays | {"prediction": mask})), known=True)
    return Beside(
        [Panel(title, data_uri("png", _coloured(at.T)), "glance") for title, at in shown.items()],
        {"found": COLOURS["found"], "missed": COLOURS["missed"], "false alarm": COLOURS["false"]},
    )


def probability(values: np.ndarray) -> str:
    """Probabilities (H, W) in sixteen steps."""
    return data_uri("png", _coloured(_steps(values, 0, 1, STEPS), INFERNO))


def deviation(values: np.ndarray) -> str:
    """Standard deviations of probabilities (H, W) in sixteen steps."""
    return data_uri("png", _coloured(_steps(values, 0, APART, STEPS), VIRIDIS))


def photograph(image: np.ndarray, step: int) -> str:
    """A photograph (H, W, C), white being 1, shrunk by a whole number."""
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels[:, :, :3])
    return data_uri("webp", _saved(picture.reduce(step), "WEBP", quality=70, method=4))


def _kinds(label: np.ndarray, known: bool) -> np.ndarray:
    """The place in the palette of each pixel's kind; where the truth is not known, what is
    marked is only that.
    """
    marked, true = (label & MASK) > 0, (label & TRUTH) > 0
    kinds = (
        [("found", marked & true), ("missed", true), ("false", marked)]
        if known
        else [("marked", marked)]
    )
    return np.select(
        [where for _, where in kinds], [_place(kind) for kind, _ in kinds], _place("defect_free")
    ).astype(np.uint8)


def _place(kind: str) -> int:
    return GREYS + STEPS + KINDS.index(kind)


def _steps(values: np.ndarray, low: float, high: float, number: int) -> np.ndarray:
    return (
        (((values.astype(np.float32) - low) / (high - low)).clip(0, 1) * (number - 1))
        .round()
        .astype(np.uint8)
    )


def _coloured(places: np.ndarray, palette: list[str] = PALETTE) -> bytes:
    picture = Image.fromarray(places.astype(np.uint8), "P")
    picture.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in palette))
    return _saved(picture, "PNG")


def _exact(numbers: np.ndarray) -> bytes:
    """Numbers 0 to 15 as greys of 17 times that, smaller than as PNG."""
    return _saved(Image.fromarray(17 * numbers), "WEBP", lossless=True, quality=50, method=4)


def _saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()
