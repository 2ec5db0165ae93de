"""Artifacts that say what they are made from, and know when they are damaged.

Near its beginning an artifact holds a record: its inputs, by name, and the SHA-256 of all its
bytes, zeros standing where that sum is. The sum is its fingerprint too: what is made from it names
it so. JSON and safetensors have the record among their own fields; an HDF5 file and a checkpoint
begin with a line of it. What has no room for a record, such as a CSV, is listed in a sealed JSON.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from safetensors.numpy import load_file, save

from src.artifacts.digests import digest_files
from src.artifacts.files import replacing
from src.terminal import console
from src.terminal.errors import UserError

NO_SUM = "sha256:" + 64 * "0"  # what stands where the sum is to be
SUM = re.compile(rb"sha256:([0-9a-f]{64})")
HEAD, BLOCK = 1 << 16, 1 << 20  # bytes: where the sum lies, and what is read at a time
DAMAGE = (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError)

Arrays = dict[str, np.ndarray]
Inputs = dict[str, str]  # by name, the digests of what an artifact is made from


def record(inputs: Inputs) -> bytes:
    """The line that an HDF5 file or a checkpoint begins with, not yet sealed."""
    return json.dumps({"checksum": NO_SUM, "inputs": inputs}).encode() + b"\n"


def seal(path: Path) -> None:
    """Put the SHA-256 of all bytes of a file into its record."""
    with open(path, "rb+") as file:
        place, _, computed = _sums(file)
        file.seek(place)
        file.write(computed)


def is_sound(path: Path) -> bool:
    """Whether a file carries the sum of its bytes; read whole, once a process while unchanged."""
    return _is_sound(path, *_version(path))


@cache
def _is_sound(path: Path, *version: int) -> bool:
    with open(path, "rb") as file:
        place, stored, computed = _sums(file)
    return place >= 0 and stored == computed


def fingerprint(path: Path) -> str:
    """The sum that a sealed file carries, read from its beginning alone.

    Raises:
        UserError: the file is missing or carries none.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run the stage that makes it")
    return _fingerprint(path, *_version(path))


@cache
def _fingerprint(path: Path, *version: int) -> str:
    with open(path, "rb") as file:
        found = SUM.search(file.read(HEAD))
    if not found:
        raise UserError(f"{path} is damaged (no checksum): run the stage that makes it again")
    return found[1].decode()


def _version(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _sums(file: BinaryIO) -> tuple[int, bytes, bytes]:
    """Where a file's sum lies (-1: nowhere), what it is, and what it should be."""
    head = file.read(HEAD)
    found = SUM.search(head)
    if not found:
        return -1, b"", b""
    state = hashlib.sha256(head[: found.start()] + NO_SUM.encode() + head[found.end() :])
    while block := file.read(BLOCK):
        state.update(block)
    return found.start(1), found[1], state.hexdigest().encode()


def inputs_of(path: Path) -> Inputs:
    """What an artifact says that it is made from."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))["created_from"]
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "np") as file:
            return json.loads(file.metadata()["record"])["inputs"]
    with open(path, "rb") as file:
        return json.loads(file.readline(HEAD))["inputs"]


def up_to_date(path: Path, inputs: Inputs, quiet: bool = False) -> bool:
    """Whether an artifact is there, undamaged to the last byte, and made from exactly these inputs.

    Unless `quiet`, one that is damaged, or was put in another's place, is named.
    """
    if not path.is_file():
        return False
    problem = None
    if not is_sound(path):
        problem = "is damaged (its checksum does not fit)"
    else:
        try:
            found = inputs_of(path)
        except DAMAGE:
            return False
        if found == inputs:
            return True
        if found.get("task") != inputs.get("task"):
            problem = f"belongs to {found.get('task')}, not to {inputs.get('task')}"
    if problem and not quiet:
        console.say(f"{path} {problem}: it is made again")
    return False


def verified(path: Path) -> Path:
    """The path of an artifact that is there and undamaged, for who goes on to read it.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run the stage that makes it")
    if not is_sound(path):
        raise UserError(f"{path} is damaged: run the stage that makes it again")
    return path


def write_weights(path: Path, weights: Arrays, inputs: Inputs) -> None:
    """Write a network's weights as safetensors."""
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    with replacing(path) as partial:
        # One field: the library writes several in an order of its own.
        partial.write_bytes(save(arrays, {"record": record(inputs).decode()}))
        seal(partial)


def read_weights(path: Path) -> Arrays:
    """Weights as `write_weights` wrote them."""
    try:
        return load_file(verified(path))
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read ({error}): run the stage that makes it") from None


def write_json(path: Path, content: dict[str, Any], inputs: Inputs) -> None:
    """Write JSON."""
    whole = {"checksum": NO_SUM, **content, "created_from": inputs}
    with replacing(path) as partial:
        partial.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        seal(partial)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    return json.loads(verified(path).read_text(encoding="utf-8"))


def listed(files: Iterable[Path]) -> dict[str, str]:
    """Digests of files by their names, to stand in a sealed JSON."""
    return {file.name: digest_files([file]) for file in files}


def changed(folder: Path, files: dict[str, str]) -> Path | None:
    """The first file of a folder that is missing or not as it was `listed`."""
    for name, digest in files.items():
        if not (folder / name).is_file() or digest_files([folder / name]) != digest:
            return folder / name
    return None


def megabytes(path: Path) -> dict[str, float]:
    """How large a file is, or a folder of files, plain and compressed: zeros save space only once
    it is compressed.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    content = b"".join(file.read_bytes() for file in files)
    packed = len(gzip.compress(content, 6))
    return {
        "file (MB)": round(len(content) / 1e6, 3),
        "gzip (MB)": round(packed / 1e6, 3),
    }
