"""From the organisers' raw splits to the arrays of the prepared file."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from src import artifacts
from src.artifacts import Arrays, CreatedFrom, Paths, streams
from src.artifacts.files import locked, replacing_folder
from src.artifacts.streams import Filling
from src.competitions import Competition, PhotoCompetition, RawSplit
from src.competitions.formats.masks import slices
from src.recipe import Recipe
from src.scoring import folds
from src.terminal import console
from src.terminal.errors import UserError
from src.wells import cleaning, geometry
from src.wells.blocks import Blocks


def prepare(
    competition: Competition, recipe: Recipe, paths: Paths, inputs: CreatedFrom
) -> Iterator[str]:
    """Write the prepared file of a competition of pipes, a few wells at a time; yields what the
    user should know.
    """
    raw = competition.read(paths.raw(competition.name))
    by_well = recipe.data.scaling == "per_well"
    with streams.filling(paths.prepared(recipe), inputs) as file:
        train = write_clean(file, "train", subset(raw.train, recipe.data.patches), by_well)
        add_folds(train, recipe)
        for name in ("fold", "excluded"):
            file.put(f"train/{name}", train[name])
        test = write_clean(file, "test", raw.test, by_well)
        scaling = scale(file, recipe.data.scaling == "per_pixel")
        file.notes.update(center=scaling.center.tolist(), scale=scaling.scale.tolist())
    yield from raw.notes
    yield summary(train, test)


def generates(competition: Competition | PhotoCompetition) -> bool:
    return not isinstance(competition, PhotoCompetition) and competition.generate is not None


@contextmanager
def raw_held(competition: Competition | PhotoCompetition, paths: Paths) -> Iterator[None]:
    """Generated raw files belong to one process until the block ends; the organisers' own are
    never written to.
    """
    lock = (
        locked(paths.raw_lock(competition.name), paths.raw(competition.name))
        if generates(competition)
        else nullcontext()
    )
    with lock:
        yield


def is_done(
    competition: Competition | PhotoCompetition, recipe: Recipe, paths: Paths, quiet: bool = False
) -> bool:
    """Whether the prepared file is up to date, and with it what it was generated from; unless
    `quiet`, what is damaged is named.
    """
    if generates(competition) and not _is_generated(competition, recipe, paths, quiet):
        return False
    return artifacts.up_to_date(
        paths.prepared(recipe), created_from(competition, recipe, paths), quiet
    )


def _is_generated(competition: Competition, recipe: Recipe, paths: Paths, quiet: bool) -> bool:
    marker = paths.generated(competition.name)
    if not artifacts.up_to_date(marker, _generated_from(recipe), quiet):
        return False
    folder, truth = paths.raw(competition.name), paths.truth(competition.name)
    sound = artifacts.read_json(marker)["files"] == _digest_generated(competition, folder, truth)
    if not sound and not quiet:
        console.say(f"{folder} or {truth} is damaged (the checksum does not fit): generated again")
    return sound


def _generated_from(recipe: Recipe) -> CreatedFrom:
    return {"generate": artifacts.digest(recipe.generate)}


def generate_raw(competition: Competition, recipe: Recipe, paths: Paths, force: bool) -> None:
    """Let a competition generate its raw files, unless they are there, undamaged, with the recipe's
    settings.

    Raises:
        UserError: the raw folder holds files that were not generated.
    """
    if not force and _is_generated(competition, recipe, paths, quiet=True):
        return
    folder, marker, truth = (
        paths.raw(competition.name),
        paths.generated(competition.name),
        paths.truth(competition.name),
    )
    if folder.exists() and not marker.is_file():
        raise UserError(
            f"{folder} holds files that were not generated: move them away, this "
            "folder is for generated wells"
        )
    # The truth gets its name first: a marker without its truth would pass for a whole set.
    with replacing_folder(folder) as partial, artifacts.replacing(truth) as partial_truth:
        competition.generate(partial, partial_truth, recipe.generate)
        files = _digest_generated(competition, partial, partial_truth)
        artifacts.write_json(partial / marker.name, {"files": files}, _generated_from(recipe))
    console.say(f"{folder}: wells generated from seed {recipe.generate.seed}")


def _digest_generated(competition: Competition, folder: Path, truth: Path) -> str | None:
    """The digest of all that was generated, whatever the truth is called; None where a file is
    missing.
    """
    try:
        return artifacts.digest(
            artifacts.digest_files(competition.files(folder)), truth.read_bytes()
        )
    except (UserError, FileNotFoundError):
        return None


def created_from(
    competition: Competition | PhotoCompetition, recipe: Recipe, paths: Paths
) -> CreatedFrom:
    """What the prepared file is made from."""
    if isinstance(competition, PhotoCompetition):
        files = competition.files(paths.raw(recipe.data.folder or competition.name), recipe.data)
    else:
        files = competition.files(paths.raw(competition.name))
    return {"raw": artifacts.digest_files(files), **_settings(recipe)}


@contextmanager
def held(recipe: Recipe, paths: Paths) -> Iterator[str]:
    """`check` for a stage: until the block ends nobody prepares other data, and no other stage of
    this recipe runs.

    Whoever wants to waits. Other recipes run on the same prepared file side by side.
    """
    check(recipe, paths)  # before there is any folder for the locks
    with (
        locked(paths.recipe_lock(recipe), paths.recipe_lock(recipe).parent),
        locked(paths.prepared_lock(recipe), paths.prepared(recipe), shared=True),
    ):
        yield check(recipe, paths)


def check(recipe: Recipe, paths: Paths) -> str:
    """The digest of the prepared file, made sure to be of this recipe's settings.

    Raises:
        UserError: there is none, or it was prepared with other settings.
    """
    path = paths.prepared(recipe)
    if not path.exists():
        raise UserError(f"{path} is missing: run 00_prepare_data.py with the same arguments first")
    with artifacts.reading(path):
        made_from = artifacts.created_from(path)
    for section, value in _settings(recipe).items():
        if made_from.get(section) != value:
            raise UserError(
                f"{path} was prepared with another [{section}]: run "
                "00_prepare_data.py with the same arguments first"
            )
    return artifacts.content_digest(path)


def _settings(recipe: Recipe) -> CreatedFrom:
    sections = {
        "format": str(artifacts.FORMAT),
        "data": artifacts.digest(recipe.data),
        "folds": artifacts.digest(recipe.folds),
    }
    return sections | {"generate": artifacts.digest(recipe.generate)}


def clean(block: Arrays) -> Arrays:
    """The patches of some wells, `image`, `group` and `number`, repaired and located in their
    wells; not yet scaled.
    """
    valid = cleaning.find_valid(block["image"])
    depth, phase = geometry.locate(block["image"], valid, block["group"], block["number"])
    image = cleaning.repair(block["image"], valid, geometry.strips(block["group"], depth, phase))
    return block | {"image": image, "valid": valid, "depth": depth, "phase": phase}


def write_clean(file: Filling, split: str, raw: RawSplit, by_well: bool) -> Arrays:
    """Write a split repaired and located, each well scaled by itself if `by_well`; returns what is
    known of its patches.

    That is `group`, `phase`, how many of the `pixels` of a patch are `corrupt` and, where there are
    masks, how many are `corroded`.
    """
    number, size = len(raw.name), raw.read(np.arange(1)).shape[1:]
    file.put(f"{split}/name", raw.name)
    kinds = {
        "image": np.float32,
        "valid": bool,
        "group": np.int32,
        "depth": np.int32,
        "phase": np.int32,
    }
    kinds |= {} if raw.mask is None else {"mask": np.uint8}
    for name, kind in kinds.items():
        file.create(
            f"{split}/{name}",
            (number, *size) if name in ("image", "valid", "mask") else (number,),
            kind,
        )
    known = {
        "group": raw.group,
        "phase": np.zeros(number, np.int32),
        "corrupt": np.zeros(number, int),
        "pixels": np.prod(size),
    }
    known |= {} if raw.mask is None else {"corroded": np.zeros(number, int)}
    for block in Blocks(
        {"group": raw.group, "number": raw.number}, lambda place: {"image": raw.read(place)}
    ):
        place, arrays = block["place"], clean(block)
        arrays |= {} if raw.mask is None else {"mask": raw.mask[place]}
        arrays |= {"image": scale_wells(arrays)} if by_well else {}
        for name in kinds:
            file.write(f"{split}/{name}", int(place[0]), arrays[name])
        known["phase"][place], known["corrupt"][place] = (
            arrays["phase"],
            (~arrays["valid"]).sum((1, 2)),
        )
        if raw.mask is not None:
            known["corroded"][place] = arrays["mask"].sum((1, 2))
    return known


def subset(split: RawSplit, patches: int | None) -> RawSplit:
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
    return RawSplit(
        split.name[rows],
        lambda some: split.read(rows[some]),
        split.group[rows],
        split.number[rows],
        mask,
    )


def add_folds(train: Arrays, recipe: Recipe) -> None:
    """Give the training patches, as `write_clean` knows them, their folds."""
    usable = train["corrupt"] < train["pixels"]
    train["fold"], train["excluded"] = folds.assign(
        train["group"], train["corroded"] > 0, usable, recipe.folds
    )


def scale(file: Filling, per_pixel: bool) -> cleaning.Scaling:
    """Scale the images of both splits, where they are written, by a fit on the valid training
    pixels; returns the fit.
    """
    number = {split: file.shape(f"{split}/image")[0] for split in ("train", "test")}

    def read(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return file.read("train/image", rows), file.read("train/valid", rows)

    scaling = cleaning.fit_scaling_to_parts(cleaning.Parts(number["train"], read), per_pixel)
    for split, images in number.items():
        for rows in slices(images):
            file.write(
                f"{split}/image", rows.start, scaling.apply(file.read(f"{split}/image", rows))
            )
    return scaling


def scale_wells(split: Arrays) -> np.ndarray:
    """The images (N, H, W) of a split, each well less its median and over its interquartile range.

    That takes no labels and nothing of other wells.
    """
    image = split["image"].copy()
    for well in np.unique(split["group"]):
        own = split["group"] == well
        # a well that is valid nowhere counts its repaired pixels
        counted = split["valid"][own] | ~split["valid"][own].any()
        image[own] = cleaning.fit_scaling(image[own], counted, False).apply(image[own])
    return image


def summary(train: Arrays, test: Arrays) -> str:
    """A table of the wells, as `write_clean` knows them: patches, geometry, corruption,
    corrosion, fold.
    """
    lines = [
        "  split  well  patches  interleaved  with corrupt px  corrupt px  corroded patches  "
        "corroded px  fold"
    ]
    for title, split in (("train", train), ("test", test)):
        for well in np.unique(split["group"]):
            own = split["group"] == well
            corrupt = split["corrupt"][own]
            cells = (
                f"  {title:5}  {well:4}  {own.sum():7}  "
                f"{'yes' if split['phase'][own].any() else 'no':>11}"
            )
            cells += f"  {(corrupt > 0).sum():15}  {corrupt.sum():10}"
            if "corroded" in split:
                corroded = split["corroded"][own]
                folds_of_well = sorted(set(split["fold"][own].tolist()) - {-1})
                cells += (
                    f"  {(corroded > 0).mean():16.1%}  {corroded.mean() / split['pixels']:11.2%}"
                )
                cells += f"  {','.join(map(str, folds_of_well)):>4}"
            lines.append(cells)
        corrupt, wholly = split["corrupt"], split["corrupt"] == split["pixels"]
        lines.append(
            f"{title}: {len(corrupt)} patches, {(corrupt > 0).sum()} with corrupt "
            f"pixels, {wholly.sum()} of them wholly"
        )
    for fold in range(train["fold"].max() + 1):
        own = train["fold"] == fold
        wells = ", ".join(map(str, np.unique(train["group"][own])))
        lines.append(
            f"  fold {fold}: {own.sum()} patches, "
            f"{(train['corroded'][own] > 0).mean():.1%} corroded, wells {wells}"
        )
    return "\n".join(lines)
