"""Every path and file format of the pipeline: whole or absent, and knowing what it was made from.

An artifact is written under a temporary name beside its place and renamed when complete. It carries
`created_from`, the digests of its inputs and of the recipe sections that matter to it: when they
are what they would be today, the artifact is up to date. It also carries a checksum of all its
bytes, which the stage that makes it verifies before it takes the artifact for done. Who reads an
HDF5 artifact need not read it whole for that: its arrays have checksums of their own (Fletcher-32,
a chunk each), and so has what it says of itself.
"""

import gzip
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors
from pydantic import BaseModel
from safetensors.numpy import load_file, save

from src.artifacts.files import CHECKSUM, is_sound, replacing, seal
from src.recipe import Recipe, Task, dump
from src.terminal import console
from src.terminal.errors import UserError

CHUNK = 1 << 20  # bytes of an array that are read, and checked, at a time
# Raise it when the meaning of a stored array or the default of a recipe's key changes: every older
# artifact is then made anew.
FORMAT = 2

CreatedFrom = dict[str, str]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Paths:
    """Where each artifact lives."""

    data: Path
    submissions: Path

    def raw(self, competition: str) -> Path:
        return self.data / "raw" / competition

    def generated(self, competition: str) -> Path:
        """Beside generated raw files: the settings that they were generated with."""
        return self.raw(competition) / "generated.json"

    def truth(self, competition: str) -> Path:
        """The masks of the test set, where a competition knows them; kept apart from everything
        that is trained on.
        """
        return self.data / "truth" / f"{competition}.csv.gz"

    def prepared(self, recipe: Recipe) -> Path:
        """The prepared file: one a competition or folder, unless the recipe names another for
        other folds or fewer patches.
        """
        return (
            self.data
            / "prepared"
            / f"{recipe.prepared or recipe.data.folder or recipe.competition}.h5"
        )

    def task(self, recipe: Recipe, task: Task) -> Path:
        return self.data / "runs" / recipe.name / task.member / f"fold{task.fold}_seed{task.seed}"

    def recipe_lock(self, recipe: Recipe) -> Path:
        return self.data / "runs" / recipe.name / ".lock"

    def prepared_lock(self, recipe: Recipe) -> Path:
        prepared = self.prepared(recipe)
        return prepared.with_name(f".{prepared.name}.lock")

    def raw_lock(self, competition: str) -> Path:
        return self.data / "raw" / f".{competition}.lock"

    def weights(self, recipe: Recipe, task: Task) -> Path:
        return self.task(recipe, task) / "weights.safetensors"

    def oof(self, recipe: Recipe, task: Task) -> Path:
        return self.task(recipe, task) / "oof.h5"

    def test(self, recipe: Recipe, task: Task) -> Path:
        return self.task(recipe, task) / "test.h5"

    def checkpoint(self, recipe: Recipe, task: Task) -> Path:
        return self.task(recipe, task) / "checkpoint.pt"

    def dense(self, digest: str) -> Path:
        """A network before it is pruned, which several recipes have in common."""
        return self.data / "dense" / f"{digest[:16]}.pt"

    def history(self, recipe: Recipe, task: Task) -> Path:
        return self.task(recipe, task) / "history.csv"

    def saved_recipe(self, recipe: Recipe, task: Task) -> Path:
        return self.task(recipe, task) / "recipe.toml"

    def progress(self, recipe: Recipe, task: Task) -> Path:
        """Where a running task writes the share that it has finished."""
        return self.task(recipe, task) / "progress"

    def log(self, recipe: Recipe) -> Path:
        """What the stages told, with date and time; it is for people, and no digest knows it."""
        return self.data / "runs" / recipe.name / "log.txt"

    def ensemble(self, recipe: Recipe) -> Path:
        return self.data / "ensembles" / f"{recipe.name}.h5"

    def study(self, name: str) -> Path:
        return self.data / "studies" / name

    def trial(self, recipe_name: str) -> Path:
        """Where a trial of the forecast keeps what it measured."""
        return self.data / "trials" / recipe_name

    def choice(self, recipe: Recipe) -> Path:
        """What was chosen out of fold for photographs: thresholds, sizes and the gate's verdict."""
        return self.data / "ensembles" / f"{recipe.name}_choice.h5"

    def submission(self, recipe: Recipe, ending: str = ".csv") -> Path:
        return self.submissions / f"{recipe.name}{ending}"


def digest(*parts: bytes | str | np.ndarray | BaseModel) -> str:
    """SHA-256 of texts, bytes, recipe sections and arrays (with their type and shape), as
    hexadecimal.
    """
    state = hashlib.sha256()
    for part in parts:
        take_in(state, part)
    return state.hexdigest()


def take_in(state: "hashlib._Hash", part: bytes | str | np.ndarray | BaseModel) -> None:
    """Let a digest take in one part, and where it ends."""
    if isinstance(part, np.ndarray):
        state.update(f"{part.dtype}{part.shape}".encode())
        part = (
            json.dumps(part.tolist())
            if part.dtype.kind in "OU"
            else np.ascontiguousarray(part).data
        )
    elif isinstance(part, BaseModel):
        part = dump(part)
    part = part.encode() if isinstance(part, str) else part
    state.update(f" {len(part)} ".encode())  # where one part ends and the next begins
    state.update(part)


def digest_files(files: list[Path]) -> str:
    """SHA-256 over names and contents of files, in the order given.

    Raises:
        UserError: one is a pipe or a device, which may have no end.
    """
    state = hashlib.sha256()
    for file in files:
        if not (stat.S_ISREG(file.stat().st_mode) or file.is_dir()):
            raise UserError(f"{file} is no plain file: put the file itself there")
        state.update(os.fsencode(file.name))
        with open(file, "rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the errors of an absent or damaged file into one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): run the stage that makes it again"
        ) from None


def write_arrays(path: Path, arrays: Arrays, inputs: CreatedFrom, **notes: Any) -> str:
    """Write named arrays as HDF5 with what they were made from and JSON notes; returns the
    digest of the content.
    """
    content = digest(
        *(part for name, array in arrays.items() for part in (name, array)), json.dumps(notes)
    )
    with creating(path) as file:
        for name, array in arrays.items():
            create(file, name, array)
        describe(file, inputs, content, notes)
    return content


@contextmanager
def creating(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file; its checksum lies in the block before the part that is HDF5's."""
    with replacing(path) as partial:
        # Without a cache of chunks a full disk is noticed where an array is written: on closing,
        # HDF5 would crash.
        with h5py.File(partial, "w", userblock_size=512, rdcc_nbytes=0) as file:
            yield file
        with open(partial, "rb+") as file:
            file.write(CHECKSUM.encode())
        seal(partial)


def describe(file: h5py.File, inputs: CreatedFrom, content: str, notes: dict[str, Any]) -> None:
    """Let an HDF5 artifact say what it was made from, the digest of its content, and its notes."""
    told = json.dumps(inputs), content, json.dumps(notes)
    file.attrs.update(
        dict(
            zip(
                ("created_from", "digest", "notes", "checksum"), (*told, digest(*told)), strict=True
            )
        )
    )


def _description(path: Path) -> tuple[str, str, str]:
    """What an HDF5 artifact says of itself: JSON of what it was made from, the digest of its
    content, JSON of its notes.
    """
    with h5py.File(path) as file:
        told = tuple(str(file.attrs[name]) for name in ("created_from", "digest", "notes"))
        if file.attrs["checksum"] != digest(*told):
            raise ValueError("its description is damaged")
    return told


def create(file: h5py.File, name: str, array: np.ndarray) -> None:
    """Put an array into an HDF5 artifact."""
    if array.dtype.kind in "OU":
        array = np.char.encode(array.astype(str), "utf-8")
        array = array.astype(h5py.string_dtype("utf-8", max(1, array.dtype.itemsize)))
    file.create_dataset(name, data=array, **in_chunks(array.shape, array.dtype))


def in_chunks(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    """How an array is stored: in chunks of at most `CHUNK` bytes, for only what has chunks can
    have checksums.
    """
    size = math.prod(shape) * dtype.itemsize
    rows = size and min(shape[0], max(1, CHUNK * shape[0] // size))
    return {"chunks": (rows, *shape[1:]) if rows else None, "fletcher32": bool(rows)}


def write_splits(path: Path, splits: dict[str, Arrays], inputs: CreatedFrom, **notes: Any) -> str:
    """`write_arrays` for arrays grouped by split: `train/name`, `test/name` and so on."""
    return write_arrays(
        path,
        {
            f"{split}/{name}": array
            for split, arrays in splits.items()
            for name, array in arrays.items()
        },
        inputs,
        **notes,
    )


def read_split(
    path: Path, split: str, names: Iterable[str], if_there: Iterable[str] = ()
) -> Arrays:
    """Arrays of one split by their short names; those `if_there` may be absent."""
    with reading(path), h5py.File(path) as file:
        wanted = [*names, *(name for name in if_there if f"{split}/{name}" in file)]
    arrays = read_arrays(path, [f"{split}/{name}" for name in wanted])
    return {name.removeprefix(f"{split}/"): array for name, array in arrays.items()}


def read_arrays(path: Path, names: Iterable[str]) -> Arrays:
    """The arrays of an HDF5 artifact by name; texts come as object arrays of str.

    Raises:
        UserError: the file is missing, damaged, or lacks one of the names.
    """
    arrays: Arrays = {}
    with reading(path), h5py.File(path) as file:
        for name in names:
            dataset = file[name]
            arrays[name] = (
                dataset.asstr()[:] if h5py.check_string_dtype(dataset.dtype) else dataset[:]
            )
    return arrays


def read_rows(path: Path, names: Iterable[str], rows: np.ndarray) -> Arrays:
    """`read_arrays`, but only some rows (n,) of each, in any order; rows that follow each other are
    read at once.

    Raises:
        UserError: the file is missing, damaged, or lacks one of the names.
    """
    order = np.argsort(rows, kind="stable")
    runs = np.split(rows[order], np.flatnonzero(np.diff(rows[order]) != 1) + 1) if len(rows) else []
    arrays: Arrays = {}
    with reading(path), h5py.File(path) as file:
        for name in names:
            dataset = file[name]
            arrays[name] = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
            arrays[name][order] = np.concatenate(
                [dataset[:0], *(dataset[run[0] : run[-1] + 1] for run in runs)]
            )
    return arrays


def read_shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of one array, without reading it."""
    with reading(path), h5py.File(path) as file:
        return file[name].shape


def holds(path: Path, name: str) -> bool:
    """Whether an HDF5 artifact has an array of this name."""
    with reading(path), h5py.File(path) as file:
        return name in file


def read_notes(path: Path) -> dict[str, Any]:
    """The JSON notes of an HDF5 artifact."""
    with reading(path):
        return json.loads(_description(path)[2])


def content_digest(path: Path) -> str:
    """The digest of an HDF5 artifact's content, as computed when it was written."""
    with reading(path):
        return _description(path)[1]


def write_weights(path: Path, weights: Arrays, inputs: CreatedFrom) -> None:
    """Write a network's weights as safetensors, with what they were made from and a checksum."""
    with replacing(path) as partial:
        arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
        partial.write_bytes(
            save(arrays, {"created_from": json.dumps({"checksum": CHECKSUM, **inputs})})
        )
        seal(partial)


def read_weights(path: Path) -> Arrays:
    """Weights as `write_weights` wrote them."""
    with reading(path):
        if not is_sound(path):
            raise ValueError("its checksum does not fit")
        return load_file(path)


def megabytes(path: Path) -> dict[str, float]:
    """How large a file is, plain and compressed: many zeros make a file smaller only once it is
    compressed.
    """
    content = path.read_bytes()
    return {
        "file (MB)": round(len(content) / 1e6, 3),
        "gzip (MB)": round(len(gzip.compress(content, 6)) / 1e6, 3),
    }


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any], inputs: CreatedFrom) -> None:
    """Write JSON with what it was made from and a checksum."""
    with replacing(path) as partial:
        partial.write_text(
            json.dumps({"checksum": CHECKSUM, **content, "created_from": inputs}, indent=1),
            encoding="utf-8",
        )
        seal(partial)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def up_to_date(path: Path, inputs: CreatedFrom, quiet: bool = False) -> bool:
    """Whether the artifact at `path` is there, undamaged to the last byte, and made from exactly
    these inputs.

    It is for the stage that makes the artifact, and will make it again; unless `quiet`, a damaged
    one is named.
    """
    if not path.is_file():
        return False
    if not is_sound(path):
        if not quiet:
            console.say(f"{path} is damaged (its checksum does not fit): it is made again")
        return False
    return made_from(path, inputs)


def made_from(path: Path, inputs: CreatedFrom) -> bool:
    """Whether the artifact at `path` says that it was made from exactly these inputs; for who
    goes on to read it.
    """
    try:
        return created_from(path) == inputs
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError):
        return False  # missing or damaged


def created_from(path: Path) -> CreatedFrom:
    """What an artifact says that it was made from."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))["created_from"]
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "np") as file:
            inputs = json.loads(file.metadata()["created_from"])
        del inputs["checksum"]
        return inputs
    return json.loads(_description(path)[0])
