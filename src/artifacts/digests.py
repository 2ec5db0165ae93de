"""SHA-256 of whatever an artifact is made from."""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from src.recipe import dump
from src.terminal.errors import UserError


def digest(*parts: bytes | str | np.ndarray | BaseModel) -> str:
    """SHA-256 of texts, bytes, recipe sections and arrays (with type and shape), as hexadecimal."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype}{part.shape}".encode())
            strings = part.dtype.kind in "OU"
            part = json.dumps(part.tolist()) if strings else np.ascontiguousarray(part).data
        elif isinstance(part, BaseModel):
            part = dump(part)
        part = part.encode() if isinstance(part, str) else part
        state.update(f" {len(part)} ".encode())  # where one part ends and the next begins
        state.update(part)
    return state.hexdigest()


def digest_files(files: Iterable[Path]) -> str:
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
