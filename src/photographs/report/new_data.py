"""New photographs that a trained model has predicted: how much of each is marked, how unlike
those of the training it is, and its masks as files.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.photographs import page
from src.photographs.dataset import PhotoDataset
from src.report import pictures
from src.report.provenance import of_model as shared
from src.report.rendering import render
from src.scoring import averaging
from src.scoring.unlike import unlike

DRAWN = 60  # photographs on the page
COLOURS = {1: ("grey",), 3: ("red", "green", "blue")}


def features(run: Run, split: str) -> dict[str, dict[str, float]]:
    """Numbers that describe each photograph of a split, by its name; white is 1."""
    dataset = PhotoDataset.open(run, split)
    found = {}
    for name, size, (mean, square) in zip(dataset.name, dataset.size, dataset.moments, strict=True):
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        own = {"rows": float(size[0]), "columns": float(size[1])}
        for colour, level, spread in zip(COLOURS[len(mean)], mean, deviation, strict=True):
            own |= {f"mean {colour}": float(level), f"contrast {colour}": float(spread)}
        found[str(name)] = own
    return found


def report(run: Run) -> tuple[dict[str, Any], str]:
    """For each photograph the share that each class marks, whether the image classifier rejected
    it, and what is unlike the training photographs; and the page.
    """
    odd = unlike(features(run, "test"), run.model.content["familiar"])
    lines = {}
    with hdf5.reading(run.ensemble) as file:
        average, masks = averaging.of_ensemble(run, "test"), file["test/mask"]
        for name, (height, width) in _sizes(run).items():
            place = average.row_of.get(name)
            marked = np.zeros(len(run.modality.labels(run)))
            if place is not None:
                marked = masks[place, :, :height, :width].mean((1, 2))
            lines[name] = {
                "rows": height,
                "columns": width,
                "marked": dict(zip(run.modality.labels(run), marked.tolist(), strict=True)),
                "rejected": place is None,
                "unlike": odd[name],
            }
    return lines, _page(run, lines)


def _page(run: Run, lines: dict[str, Any]) -> str:
    photos, networks = PhotoDataset.open(run, "test"), averaging.test(run)
    row_of, classes = {name: row for row, name in enumerate(photos.name)}, photos.classes
    drawn = sorted(networks.names, key=lambda name: -sum(lines[name]["marked"].values()))[:DRAWN]
    return render(
        "new_photographs.html",
        "photographs.js",
        lines=lines,
        gallery=[page.photograph(run, photos, row_of[n], networks, "test") for n in sorted(drawn)],
        colours=dict(zip(classes, pictures.class_colours(len(classes)), strict=True)),
        inferno=pictures.INFERNO,
        viridis=pictures.VIRIDIS,
        **shared(run),
    )


def _sizes(run: Run) -> dict[str, tuple[int, int]]:
    known = hdf5.read(run.prepared("test"), "name", "size")
    return dict(zip(known["name"], map(tuple, known["size"].tolist()), strict=True))


def describe(lines: dict[str, Any]) -> list[str]:
    """A line for each photograph."""
    told = []
    for name, own in lines.items():
        shares = "  ".join(f"class {label} {share:7.2%}" for label, share in own["marked"].items())
        line = f"  {name}  {own['rows']} x {own['columns']}  {shares}"
        line += "  rejected as clean by the image classifier" if own["rejected"] else ""
        line += f"  unlike the training photographs: {own['unlike']}" if own["unlike"] else ""
        told.append(line)
    return told


def maps(run: Run) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The name, probability float32 and mask uint8 of each photograph, both (K, H, W)."""
    classes, average = len(run.modality.labels(run)), averaging.of_ensemble(run, "test")
    with hdf5.reading(run.ensemble) as file:
        for name, (height, width) in _sizes(run).items():
            place = average.row_of.get(name)
            if place is None:  # rejected
                empty = np.zeros((classes, height, width))
                yield name, empty.astype(np.float32), empty.astype(np.uint8)
            else:
                yield name, average.of(name), file["test/mask"][place, :, :height, :width]


def write_files(run: Run, folders: dict[str, Path]) -> None:
    """Write <name>.png, 0 and 255, or of several classes <name>_<class>.png, into the folder of
    "masks"; and perhaps likewise into that of "probabilities", of 16 bit, 65,535 being 1.

    <name> is that of the photograph, without its ending where that tells all apart.
    """
    labels, stems = run.modality.labels(run), Counter(Path(name).stem for name in _sizes(run))
    for name, probability, mask in maps(run):
        stem = Path(name).stem if stems[Path(name).stem] == 1 else name
        likely = (65535 * probability).round().astype(np.uint16)
        of_classes = {"masks": 255 * mask, "probabilities": likely}
        for kind, folder in folders.items():
            for label, own in zip(labels, of_classes[kind], strict=True):
                ending = f"_{label}.png" if len(labels) > 1 else ".png"
                Image.fromarray(own).save(folder / f"{stem}{ending}", "PNG")
