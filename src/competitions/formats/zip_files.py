"""Zips read without trust: what their directory says is checked before anything is unpacked, and
nothing is ever written to disk.
"""

import io
import lzma
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from src.terminal.errors import UserError

# What zipfile, its decompressors and Pillow raise on bytes that are damaged or made up.
DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)

# By others zipfile unpacks a few KB to GiB at once, however few bytes it is asked for and whatever
# size is declared.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def whole(stream: BinaryIO) -> bytes:
    """All bytes of an opened file, of a zip too, to its end: only there is a checksum compared.

    They are unpacked in small steps: asked for all at once, zipfile unpacks up to 2 GiB of an entry
    whatever size is declared.
    """
    content = io.BytesIO()
    shutil.copyfileobj(stream, content)
    return content.getvalue()


def entries(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The files in a zip, without folders and the hidden files that some systems add.

    Raises:
        UserError: a name that leads out of the zip, or an entry packed by another method than
            Deflate.
    """
    found = []
    for info in archive.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts:
            raise UserError(
                f"{path}: {info.filename} climbs out of the zip: this is no file of the competition"
            )
        if info.compress_type not in METHODS:
            raise UserError(
                f"{path}: {info.filename} is packed by method {info.compress_type}: "
                "pack it again as a plain zip (Deflate)"
            )
        if not info.is_dir() and parts[0] != "__MACOSX" and not parts[-1].startswith("."):
            found.append(info)
    return found
