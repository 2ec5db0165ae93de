"""From the organisers' raw patches to the arrays of train.h5 and test.h5, a few wells at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from src.artifacts import hdf5, lineage
from src.artifacts.hdf5 import Writer
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.competitions import PatchSplit
from src.competitions.formats.masks import slices
from src.networks.scaling import Scaling
from src.scoring import folds
from src.wells import cleaning, geometry
from src.wells.blocks import Blocks

TYPES = {
    "image": np.float32,
    "valid": bool,
    "group": np.int32,
    "depth": np.int32,
    "parity": np.int32,
    "mask": np.uint8,
}
LARGE = ("image", "valid", "mask")


def prepare(run: Run, splits: list[str]) -> Iterator[str]:
    """Write some splits' prepared files; yields what the user should know."""
    raw = run.competition.read(run.raw, run.recipe.data)
    yield from raw.notes
    if "train" in splits:
        yield write_train(run, subset(raw.train, run.recipe.data.patches))
    if "test" in splits:
        yield write_test(run, raw.test, raw.about)


def write_train(run: Run, raw: PatchSplit) -> str:
    """Write train.h5, scaled by a fit on its own valid pixels; returns a table of its wells."""
    with hdf5.writing(run.prepared("train"), lineage.prepared(run, "train")) as file:
        known = write_clean(file, raw, run.recipe.data.corrupt == "drop")
        usable = known["corrupt"] < known["pixels"]
        known["fold"], known["excluded"] = folds.assign(
            known["group"], known["corroded"] > 0, usable, run.recipe.folds
        )
        for name in ("fold", "excluded"):
            file.put(name, known[name])
        scaling = fit(file, run.recipe.data.scaling == "per_pixel")
        scale(file, scaling)
        file.metadata.update(center=scaling.center.tolist(), scale=scaling.scale.tolist())
        file.metadata["classes"] = ["corrosion"]
    return summary("train", known)


def write_test(run: Run, raw: PatchSplit, about: dict[str, Any]) -> str:
    """Write test.h5, scaled as train.h5 is; returns a table of its wells."""
    fitted = fitted_scaling(run)
    with hdf5.writing(run.prepared("test"), lineage.prepared(run, "test")) as file:
        known = write_clean(file, raw, run.recipe.data.corrupt == "drop")
        scale(file, fitted)
        file.metadata.update(about, classes=run.training()["classes"])
    return summary("test", known)


def fitted_scaling(run: Run) -> Scaling:
    """The scaling that train.h5 was written with."""
    training = run.training()
    return Scaling(*(np.float32(training[name]) for name in ("center", "scale")))


def clean(block: Arrays, drop: bool) -> Arrays:
    """The patches of some wells, `image`, `group` and `number`, repaired and located in their
    wells; not yet scaled.

    With `drop` nothing of a patch with a placeholder is valid (`data.corrupt`).
    """
    valid = cleaning.find_valid(block["image"])
    where = (block["group"], block["number"], block.get("interleaved"))
    depth, parity = geometry.locate(block["image"], valid, *where)
    image = cleaning.repair(block["image"], valid, geometry.strips(block["group"], depth, parity))
    if drop:
        valid[cleaning.holds_placeholder(block["image"])] = False
    return block | {"image": image, "valid": valid, "depth": depth, "parity": parity}


def write_clean(file: Writer, raw: PatchSplit, drop: bool) -> Arrays:
    """Write a split cleaned by `clean`, not yet scaled; returns what is known of its patches.

    That is `group`, `parity`, how many of the `pixels` of a patch are `corrupt` and, where there
    are masks, how many are `corroded`.
    """
    number, size = len(raw.name), raw.read(np.arange(1)).shape[1:]
    file.put("name", raw.name)
    names = [name for name in TYPES if name != "mask" or raw.mask is not None]
    for name in names:
        file.create(name, (number, *size) if name in LARGE else (number,), TYPES[name])
    known = {"group": raw.group, "pixels": np.prod(size)}
    known |= {"parity": np.zeros(number, np.int32), "corrupt": np.zeros(number, int)}
    known |= {} if raw.mask is None else {"corroded": np.zeros(number, int)}
    index = {"group": raw.group, "number": raw.number}
    index |= {} if raw.interleaved is None else {"interleaved": raw.interleaved}
    for block in Blocks(index, lambda place: {"image": raw.read(place)}):
        place, arrays = block["place"], clean(block, drop)
        arrays |= {} if raw.mask is None else {"mask": raw.mask[place]}
        for name in names:
            file.write(name, int(place[0]), arrays[name])
        known["parity"][place] = arrays["parity"]
        known["corrupt"][place] = (~arrays["valid"]).sum((1, 2))
        if raw.mask is not None:
            known["corroded"][place] = arrays["mask"].sum((1, 2))
    return known


def subset(split: PatchSplit, patches: int | None) -> PatchSplit:
    """About `patches` patches of a split: from the top of each well its share, whole pairs of
    numbers, and at least two.
    """
    if patches is None or patches >= len(split.name):
        return split
    keep = np.zeros(len(split.name), bool)
    for well in np.unique(split.group):
        own = np.flatnonzero(split.group == well)
        keep[own[: max(2, 2 * round(patches * len(own) / len(split.name) / 2))]] = True
    rows = np.flatnonzero(keep)
    mask = None if split.mask is None else split.mask.take(rows)
    return PatchSplit(
        split.name[rows],
        lambda some: split.read(rows[some]),
        split.group[rows],
        split.number[rows],
        mask,
    )


def fit(file: Writer, per_pixel: bool) -> Scaling:
    """The scaling of the images in a file, fitted to their valid pixels."""

    def read(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return file.read("image", rows), file.read("valid", rows)

    return cleaning.fit_scaling(cleaning.Parts(file.shape("image")[0], read), per_pixel)


def scale(file: Writer, scaling: Scaling) -> None:
    """Scale the images of a file where they are written."""
    for rows in slices(file.shape("image")[0]):
        file.write("image", rows.start, scaling.apply(file.read("image", rows)))


def summary(title: str, known: Arrays) -> str:
    """A table of a split's wells, as `write_clean` knows them, and of its folds."""
    head = "  split  well  patches  interleaved  with corrupt px  corrupt px"
    masks = "  corroded patches  corroded px  fold" if "corroded" in known else ""
    lines = [head + masks]
    lines += [_line(title, known, well) for well in np.unique(known["group"]).tolist()]
    corrupt, wholly = known["corrupt"], known["corrupt"] == known["pixels"]
    lines.append(
        f"{title}: {len(corrupt)} patches, {(corrupt > 0).sum()} with corrupt pixels, "
        f"{wholly.sum()} of them count as not measured"
    )
    for fold in range(known["fold"].max() + 1 if "fold" in known else 0):
        own = known["fold"] == fold
        wells = ", ".join(map(str, np.unique(known["group"][own])))
        corroded = (known["corroded"][own] > 0).mean()
        lines.append(f"  fold {fold}: {own.sum()} patches, {corroded:.1%} corroded, wells {wells}")
    return "\n".join(lines)


def _line(title: str, known: Arrays, well: int) -> str:
    """Patches, geometry, corruption, corrosion and folds of one well."""
    own = known["group"] == well
    corrupt = known["corrupt"][own]
    cells = f"  {title:5}  {well:4}  {own.sum():7}  "
    cells += f"{'yes' if known['parity'][own].any() else 'no':>11}"
    cells += f"  {(corrupt > 0).sum():15}  {corrupt.sum():10}"
    if "corroded" in known:
        corroded = known["corroded"][own]
        fold = ",".join(map(str, sorted(set(known["fold"][own].tolist()) - {-1})))
        share = corroded.mean() / known["pixels"]
        cells += f"  {(corroded > 0).mean():16.1%}  {share:11.2%}  {fold:>4}"
    return cells
