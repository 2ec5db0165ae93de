"""What the fuzzer does to raw files and recipes. A mutation returns in words what it did, or
None where it has nothing to work on.
"""

import bz2
import gzip
import io
import json
import math
import os
import shutil
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_inputs import as_zip, npy, packed, smooth, tiff
from PIL import Image

from src import recipe

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".npy")
PNG = b"\x89PNG\r\n\x1a\n"
Rng = np.random.Generator


@dataclass
class Job:
    """One run of stage 00 (or of the converter): the folder of raw files, and the recipe, None
    for the converter.
    """

    raw: Path
    recipe: str | None
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Mutation:
    kind: str
    apply: Callable[[Rng, Job], str | None]
    refused: bool  # whether it may end in nothing but a refusal
    slow: bool  # left out of a quick run


MUTATIONS: list[Mutation] = []


def mutation(kind: str, refused: bool = False, slow: bool = False) -> Callable:
    def register(apply: Callable[[Rng, Job], str | None]) -> Callable:
        MUTATIONS.append(Mutation(kind, apply, refused, slow))
        return apply

    return register


# Which file, or which entry of a zip or gzip


def files(raw: Path, endings: tuple[str, ...] = ("",)) -> list[Path]:
    return sorted(
        path for path in raw.rglob("*") if path.is_file() and path.name.lower().endswith(endings)
    )


def pick(rng: Rng, choices: list | tuple) -> Any:
    return choices[int(rng.integers(len(choices)))]


def leaves(raw: Path, endings: tuple[str, ...]) -> list[tuple[Path, str | None]]:
    """Files with these endings, as they lie there or packed."""
    found: list[tuple[Path, str | None]] = [(path, None) for path in files(raw, endings)]
    found += [(path, "") for path in files(raw, tuple(f"{ending}.gz" for ending in endings))]
    for path in files(raw, (".zip",)):
        with zipfile.ZipFile(path) as archive:
            found += [(path, name) for name in archive.namelist() if name.lower().endswith(endings)]
    return found


def change(
    rng: Rng, job: Job, endings: tuple[str, ...], edit: Callable[[bytes], bytes]
) -> str | None:
    """Edit one of `leaves`."""
    places = leaves(job.raw, endings)
    if not places:
        return None
    path, entry = pick(rng, places)
    if entry is None:
        path.write_bytes(edit(path.read_bytes()))
    elif entry == "":
        path.write_bytes(gzip.compress(edit(gzip.decompress(path.read_bytes()))))
    else:
        with zipfile.ZipFile(path) as archive:
            inside = {name: archive.read(name) for name in archive.namelist()}
        path.write_bytes(as_zip(inside | {entry: edit(inside[entry])}))
    return f"{path.name}: {entry}" if entry else path.name


def place(rng: Rng, content: bytes) -> int:
    """Anywhere, but in half of the cases among the first bytes, where headers are."""
    return (
        int(rng.integers(len(content) if rng.random() < 0.5 else min(128, len(content))))
        if content
        else 0
    )


# Bytes


def flip(rng: Rng, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if content else 0):
        changed[place(rng, content)] ^= int(rng.integers(1, 256))
    return bytes(changed)


def cut(rng: Rng, content: bytes) -> bytes:
    return (
        content[: place(rng, content)]
        if rng.random() < 0.7
        else content[int(rng.integers(1, 60)) :]
    )


def smear(rng: Rng, content: bytes) -> bytes:
    """A stretch of bytes zeroed, doubled, taken away, or filled with noise."""
    start, length = place(rng, content), int(rng.integers(1, 2000))
    stretch = content[start : start + length]
    return (
        content[:start]
        + pick(rng, [bytes(len(stretch)), 2 * stretch, b"", rng.bytes(length)])
        + content[start + length :]
    )


for _kind, _edit in (
    ("bytes flipped", flip),
    ("cut off", cut),
    ("bytes smeared", smear),
    ("emptied", lambda rng, content: b""),
):

    def _as_it_lies(rng: Rng, job: Job, edit: Callable = _edit) -> str | None:
        path = pick(rng, files(job.raw))
        path.write_bytes(edit(rng, path.read_bytes()))
        return path.name

    mutation(_kind)(_as_it_lies)
    mutation(f"{_kind}, unpacked")(
        lambda rng, job, edit=_edit: change(
            rng, job, (*IMAGES, ".csv"), lambda content: edit(rng, content)
        )
    )


@mutation("other content")
def other_content(rng: Rng, job: Job) -> str | None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    others = [
        b"<html>\n" * 99,
        pointer,
        rng.bytes(5000),
        bytes(5000),
        pick(rng, files(job.raw)).read_bytes(),
        b"PK\x05\x06" + bytes(18),
    ]
    return change(rng, job, (*IMAGES, ".csv"), lambda content: pick(rng, others))


# Files and their names


@mutation("missing")
def missing(rng: Rng, job: Job) -> str:
    path = pick(rng, sorted(job.raw.rglob("*")))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path.name


ODD_NAMES = ["²1{}", "٣1{}", "a b{}", "line\nend{}", "\x1b[31mred{}", "{}.bak", ".hidden{}",
             "x" * 200 + "{}", "\udcff{}", "a.b{}", "-{}", "{}\udcff", "CON{}", "é{}", "e\u0301{}",
             "a\u202eb{}", "0{}", "well_1_patch_٣{}", "well_1_patch_99999{}", "'{}",
             '",{}']  # fmt: skip


@mutation("odd names")
def odd_name(rng: Rng, job: Job) -> str:
    path = pick(rng, files(job.raw))
    target = path.with_name(pick(rng, ODD_NAMES).format(path.suffix))
    shutil.copy(path, target) if rng.random() < 0.5 else path.rename(target)
    return f"{path.name} as {target.name!a}"


@mutation("twice")
def twice(rng: Rng, job: Job) -> str:
    path = pick(rng, files(job.raw))
    folder = pick(
        rng,
        [path.parent, *(other for other in sorted(job.raw.rglob("*")) if other.is_dir()), job.raw],
    )
    target = folder / pick(
        rng,
        [
            path.name,
            path.name.upper(),
            path.stem + pick(rng, [*IMAGES, ".zip", ".csv", ".csv.gz"]),
            "copy " + path.name,
        ],
    )
    if target != path:
        shutil.copy(path, target)
    return f"{path.name} as {target.relative_to(job.raw)}"


@mutation("no plain file")
def no_plain_file(rng: Rng, job: Job) -> str:
    path = pick(rng, files(job.raw))
    path.unlink()
    what = pick(rng, ["folder", "loop", "ring", "nowhere", "pipe", "zero"])
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(
            {"loop": path.name, "ring": path.parent, "nowhere": "nowhere", "zero": "/dev/zero"}[
                what
            ]
        )
    return f"{path.name} is {what}"


# Arrays


class Trap:
    """Unpickling this ends the process with a code that no stage has."""

    def __reduce__(self) -> tuple:
        return os._exit, (66,)


def claims(text: str, version: tuple[int, int] = (1, 0), size: int = 36 * 36 * 4) -> bytes:
    head = text.ljust(117).encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(head))
    return b"\x93NUMPY" + bytes(version) + length + head + bytes(size)


def array_of(array: np.ndarray) -> list[bytes]:
    shape = array.shape
    described = "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}"
    texts = [
        ("'<f4'", False, f"({10**12}, {10**12})"),
        ("'<f4'", False, "(36, -36)"),
        ("'|O'", False, shape),
        ("'<f4'", 7, shape),
        ("[('a', '<f4')]", False, shape),
        ("'<f4'", False, "36"),
        ("'<f4'", False, "(36.0, 36)"),
        ("'|V9999999999'", False, shape),
        ("'<U999999999'", False, "(1, 1)"),
        ("'<f4'", False, "(" * 300),
        ("'<f4'", False, f"({10**5000 if False else '9' * 5000}, 1)"),
        ("'<f4'", False, "(0, 36)"),
        ("'<f4'", False, "(True, 36)"),
        ("'m8'", False, shape),
        ("'<f4, <i4'", False, shape),
        ("'<f16'", False, shape),
        ("'<c8'", False, shape),
        ("'<f4'", False, "(2147483648, 2147483648, 4)"),
    ]
    with np.errstate(all="ignore"):
        typed = [
            array.astype(kind)
            for kind in (
                ">f4",
                ">f8",
                "f2",
                "i1",
                "u2",
                ">u2",
                "i8",
                "u8",
                "?",
                "c8",
                "U3",
                "S2",
                "M8[s]",
            )
        ]
    record = np.zeros(shape, [("a", "f4"), ("b", "i2")])
    extreme = [
        np.full(shape, value) for value in (1e300, -np.inf, np.nan, 1e38, -1e38, 1e-320, 2**63 - 1)
    ]
    shaped = [
        array[:0],
        array[None],
        array[..., None],
        array[:, :-1],
        array.ravel(),
        array.T,
        np.asfortranarray(array),
        array[0, 0],
    ]
    objects = np.array([[Trap()] * 2] * 2, object)
    whole = [npy(other) for other in (*typed, record, *extreme, *shaped)] + [
        npy(objects, allow_pickle=True)
    ]
    return whole + [
        claims(described.format(*text), version)
        for text in texts
        for version in ((1, 0), (2, 0), (3, 0))
    ]


@mutation("arrays")
def arrays(rng: Rng, job: Job) -> str | None:
    def replace(content: bytes) -> bytes:
        return pick(rng, array_of(np.load(io.BytesIO(content))))

    return change(rng, job, (".npy",), replace)


@mutation("array values")
def array_values(rng: Rng, job: Job) -> str | None:
    """Some pixels, or all, become values that are no measurements."""

    def poison(content: bytes) -> bytes:
        array = np.load(io.BytesIO(content)).astype(pick(rng, ["f4", "f8"]))
        where = rng.random(array.shape) < pick(rng, [0.001, 0.1, 1])
        with np.errstate(over="ignore"):
            array[where] = pick(
                rng, [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e300, 1e9, -999.25, 1e-45, 101.0]
            )
        return npy(array)

    return change(rng, job, (".npy",), poison)


# Zips


def info(name: str, **attributes: object) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    for key, value in attributes.items():
        setattr(entry, key, value)
    return entry


def zipped(
    path: Path,
    change_entries: Callable[
        [list[tuple[zipfile.ZipInfo, bytes]]], list[tuple[zipfile.ZipInfo, bytes]]
    ],
) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = [(info(old.filename), archive.read(old)) for old in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in change_entries(entries):
            archive.writestr(entry, content)


@mutation("zip entries")
def zip_entries(rng: Rng, job: Job) -> str | None:
    """Hostile names, doubles, links, folders with contents, other compression."""
    path = pick(rng, files(job.raw, (".zip",)) or [None])
    if path is None:
        return None
    with zipfile.ZipFile(path) as archive:
        old = pick(rng, archive.namelist())
    base = old.rpartition("/")[2]
    names = [f"/{old}", f"../{old}", f"a/../../{old}", f"C:\\{base}", f"..\\{base}", f"{old}/", old,
             f"other/{base}", f"\x1b]0;x\x07{base}", f"a\nb/{base}", f"{'d/' * 2000}{base}",
             f"é/{base}", f"./{old}", f"//{old}", f"{base}\0hidden", f"\u202e{base}",
             ""]  # fmt: skip
    name = pick(rng, names)
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    added = info(name, compress_type=pick(rng, methods))
    if rng.random() < 0.3:
        added.external_attr = 0o120777 << 16  # a symbolic link
    content = pick(rng, [b"/etc/passwd", b"", None])

    def change_entries(entries: list) -> list:
        own = dict((entry.filename, inside) for entry, inside in entries)[old]
        kept = [pair for pair in entries if rng.random() < 0.5 or pair[0].filename != old]
        return [*kept, (added, own if content is None else content)]

    zipped(path, change_entries)
    return f"{path.name}: {name[:60]!a}"


@mutation("zip headers")
def zip_headers(rng: Rng, job: Job) -> str | None:
    """Fields of the central directory or of local headers overwritten: sizes, methods, flags,
    offsets, counts.
    """
    path = pick(rng, files(job.raw, (".zip",)) or [None])
    if path is None:
        return None
    content = bytearray(path.read_bytes())
    signature, fields = pick(rng, [(b"PK\1\2", (6, 8, 10, 16, 20, 24, 28, 30, 32, 34, 38, 42)),
                                   (b"PK\3\4", (6, 8, 14, 18, 22, 26, 28)),
                                   (b"PK\5\6", (4, 8, 10, 12, 16, 20))])  # fmt: skip
    starts = [at for at in range(len(content)) if content[at : at + 4] == signature]
    at, value = (
        pick(rng, starts) + pick(rng, fields),
        pick(rng, [0, 1, 8, 12, 14, 93, 0xFFFF, int(rng.integers(1 << 16))]),
    )
    content[at : at + 2] = struct.pack("<H", value)
    path.write_bytes(content)
    return f"{path.name}: {value} at {at}"


@lru_cache
def zeros(method: str) -> bytes:
    """Two GiB of zeros, packed (a few KB by bzip2)."""
    block = bytes(1 << 20)
    packer = (
        bz2.BZ2Compressor()
        if method == "bzip2"
        else zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "deflate": -15}[method])
    )
    parts = [packer.compress(block) for _ in range(1 << 11)]
    return b"".join([*parts, packer.flush()])


def bomb(name: str, declared: int, method: str) -> bytes:
    """A zip of one entry that unpacks to GiB and declares another size."""
    content, number, label = zeros(method), {"deflate": 8, "bzip2": 12}[method], name.encode()
    sizes = struct.pack("<III", 0, len(content), declared)
    local = (
        b"PK\3\4"
        + struct.pack("<HHHHH", 20, 0, number, 0, 33)
        + sizes
        + struct.pack("<HH", len(label), 0)
        + label
        + content
    )
    central = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, number, 0, 33) + sizes
    central += struct.pack("<HHHHHII", len(label), 0, 0, 0, 0, 0, 0) + label
    return (
        local
        + central
        + b"PK\5\6"
        + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    )


@mutation("zip bombs", refused=True, slow=True)
def zip_bomb(rng: Rng, job: Job) -> str | None:
    packed_files = files(job.raw, (".zip", ".gz"))
    if not packed_files:
        return None
    path = pick(rng, packed_files)
    if path.suffix == ".gz":
        path.write_bytes(zeros("gzip"))
        return path.name
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[0]
        size = archive.infolist()[0].file_size
    declared, method = (
        pick(rng, [size, 10_000, (1 << 31) - 1, 1 << 20]),
        pick(rng, ["deflate", "bzip2"]),
    )
    path.write_bytes(bomb(name, declared, method))
    return f"{path.name}: {name} declares {declared} bytes, {method}"


@mutation("csv bombs", refused=True, slow=True)
def csv_bomb(rng: Rng, job: Job) -> str | None:
    """A table that is one endless line, or nothing but line ends; packed, or of holes on the
    disk.
    """
    path = pick(rng, files(job.raw, (".csv", ".csv.gz", ".csv.zip")) or [None])
    if path is None:
        return None
    filler = pick(rng, [b"\n", b",", b"0,", b'"', b"1 1 "])
    if path.suffix == ".csv":
        header = path.read_bytes().partition(b"\n")[0] + b"\n"
        with open(path, "wb") as stream:
            stream.write(header)
            stream.truncate(900 << 20)
        return f"{path.name}: 900 MiB of zeros"
    with (
        gzip.open(path)
        if path.suffix == ".gz"
        else zipfile.ZipFile(path).open("y_train.csv") as stream
    ):
        header = stream.readline()
    content = header + filler * ((600 << 20) // len(filler))
    path.write_bytes(
        gzip.compress(content, 1) if path.suffix == ".gz" else as_zip({"y_train.csv": content})
    )
    return f"{path.name}: 600 MiB of {filler}"


# Images


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_of(
    width: int,
    height: int,
    depth: int = 8,
    colour: int = 0,
    content: bytes = b"",
    between: bytes = b"",
) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        PNG
        + head
        + between
        + chunk(b"IDAT", content or zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def jpeg_of(width: int, height: int) -> bytes:
    content, size = packed(smooth((24, 40)), "JPEG"), struct.pack(">HH", 24, 40)
    return content.replace(b"\x08" + size, b"\x08" + struct.pack(">HH", height, width), 1)


def tiff_of(**tags: int) -> bytes:
    """A grey TIFF whose header says something else than it holds."""
    content, number = (
        tiff(smooth((24, 40), np.uint16, 65535)),
        {"width": 256, "height": 257, "bits": 258, "samples": 277, "rows": 278},
    )
    for name, value in tags.items():
        at = next(
            at
            for at in range(8, len(content))
            if content[at : at + 2] == struct.pack("<H", number[name])
        )
        content = content[: at + 2] + struct.pack("<HII", 4, 1, value) + content[at + 12 :]
    return content


@mutation("image bombs", refused=True)
def image_bomb(rng: Rng, job: Job) -> str | None:
    """Headers that claim more than any memory holds."""
    largest = (1 << 31) - 1
    claimed = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}"
    bombs = [png_of(largest, largest), png_of(largest, 1), png_of(60_000, 60_000, 16, 6),
             png_of(0, 9), png_of(20_000, 20_000, 1), jpeg_of(65_500, 65_500),
             jpeg_of(65_500, 9999), tiff_of(width=largest, height=largest),
             tiff_of(width=1 << 20, height=1 << 20), tiff_of(samples=60_000), tiff_of(bits=1 << 30),
             claims(claimed.format((1 << 20, 1 << 20))),
             claims(claimed.format((1 << 40, 1 << 40)))]  # fmt: skip
    return change(rng, job, IMAGES[:-1], lambda content: pick(rng, bombs))


@lru_cache
def blank(width: int, height: int, depth: int, colour: int, last: int) -> bytes:
    """A true PNG of zeros, whose very last byte is `last`; it packs a thousandfold."""
    size = height * (1 + width * depth // 8 * {0: 1, 2: 3, 6: 4}[colour]) - 1
    block, packer = bytes(1 << 20), zlib.compressobj(1)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    parts += [packer.compress(bytes(size % (1 << 20)) + bytes([last])), packer.flush()]
    return png_of(width, height, depth, colour, b"".join(parts))


@mutation("large images", slow=True)
def large_image(rng: Rng, job: Job) -> str | None:
    """An image, and its mask, that are as large as they claim; and images that are long the one
    way and the other.
    """
    shapes = [(9_990, 9_990), (7_000, 7_000), (4_000, 4_000)]  # up to just below the limit
    pairs = [path for path in files(job.raw, IMAGES) if path.parent.name.lower() == "images"]
    if not pairs:
        return None
    (width, height), depth, colour = pick(rng, shapes), pick(rng, [8, 16]), pick(rng, [0, 2, 6])
    width, height = pick(rng, [(width, height), (width * height // 4, 4), (2, width * height // 2)])
    path = pick(rng, pairs)
    path.write_bytes(blank(width, height, depth, colour, 0))
    for mask in (path.parent.parent / pick(rng, ["masks"])).parent.glob(f"[mM]asks/{path.stem}.*"):
        mask.write_bytes(blank(width, height, 8, 0, pick(rng, [0, 1, 64])))
    if rng.random() < 0.5:
        pick(rng, pairs).write_bytes(blank(height, width, 8, 0, 0))
    return f"{path.name}: {width}x{height}, {depth} bit, colour {colour}"


def odd_images() -> list[bytes]:
    pixels = smooth((24, 40, 3))
    image = Image.fromarray(pixels)
    contents = []
    for mode in (
        "1",
        "L",
        "LA",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "I;16",
    ):
        for form in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
            content = io.BytesIO()
            try:
                (image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)).save(
                    content, form
                )
            except (OSError, ValueError, KeyError):
                continue
            contents.append(content.getvalue())
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200 << 20), 9))
    rows = zlib.compress(bytes(41 * 24))
    contents += [
        png_of(40, 24, content=rows, between=between)
        for between in (text, profile, 9 * chunk(b"tRNS", b"\0\1"), chunk(b"acTL", b""))
    ]
    contents += [
        tiff(pixels[..., 0] / np.float32(9)),
        tiff(smooth((3, 24, 40)), planarconfig="separate"),
        tiff(smooth((24, 40))) * 2,
    ]
    contents += [
        tiff(smooth((24, 40)), compression="packbits" if False else "deflate"),
        tiff(smooth((24, 40), np.uint32, 1 << 20)),
    ]
    content = io.BytesIO()
    image.save(content, "TIFF", save_all=True, append_images=[image] * 3)
    grey = tiff(smooth((24, 40)))
    # the next page may now be the first again
    loop = grey.replace(bytes(4), struct.pack("<I", 8), 1)
    return [
        *contents,
        content.getvalue(),
        loop,
        jpeg_of(65_500, 1),
        packed(smooth((1, 1)), "PNG"),
        packed(smooth((24, 41)), "PNG"),
    ]


ODD_IMAGES = lru_cache(odd_images)


@mutation("image kinds")
def image_kind(rng: Rng, job: Job) -> str | None:
    return change(rng, job, IMAGES[:-1], lambda content: pick(rng, ODD_IMAGES()))


# Tables


ODD_CELLS = ['"', '"" "', "\0", "nan", "inf", "-inf", "1e999", "-1", "0x10", "", " ", "1,1", "1\r1",
             "٣", "9" * 5000, "x" * 200_000, "=1+1", "True", "1_000", "\u2028", "1e-400",
             "2024-01-01", "../a", "1;1", "'", "\\", "1 1 1 1", "3 5 4 5", "-3 5", "0 5", "1 0",
             "409600 2", "9223372036854775807 1", "1 9223372036854775807", "1 1 " * 200_000,
             "99999999999999999999 1", "1", "1.5 2", "nan 3"]  # fmt: skip


def edit_cells(rng: Rng, content: bytes) -> bytes:
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(int(rng.integers(1, 4))):
        row = int(rng.integers(len(lines)))
        cells = lines[row].split(",")
        cell = int(rng.integers(len(cells))) if rng.random() < 0.7 else len(cells) - 1
        what = pick(rng, ["set", "set", "set", "drop", "double", "drop row", "double row", "quote"])
        if what == "set":
            cells[cell] = pick(rng, ODD_CELLS)
        elif what == "drop":
            del cells[cell]
        elif what == "double":
            cells.insert(cell, cells[cell])
        elif what == "quote":
            cells[cell] = f'"{cells[cell]}"'
        lines[row] = ",".join(cells)
        if "row" in what:
            lines[row : row + 1] = [] if what == "drop row" and len(lines) > 1 else [lines[row]] * 2
    return "\n".join(lines).encode("utf-8", "surrogateescape")


@mutation("table cells")
def table_cells(rng: Rng, job: Job) -> str | None:
    return change(rng, job, (".csv",), lambda content: edit_cells(rng, content))


@mutation("table encodings")
def table_encodings(rng: Rng, job: Job) -> str | None:
    edits = [lambda text: text.encode("utf-16"), lambda text: b"\xef\xbb\xbf" + text.encode(),
             lambda text: text.replace("\n", "\r").encode(),
             lambda text: text.replace("\n", "\r\n").encode(),
             lambda text: text.replace(",", ";").encode(), lambda text: text.encode("cp037"),
             lambda text: text.replace(",", "\xff,").encode("latin-1"),
             lambda text: text.encode() + b"\x1a", lambda text: ("\n" + text).encode(),
             lambda text: text.replace("\n", "\n\n").encode(),
             lambda text: text.replace(",", ",\0").encode(), lambda text: text.lower().encode(),
             lambda text: text.encode() + b"\n" * 100_000,
             lambda text: text.encode() + text.encode(),
             lambda text: b"sep=,\n" + text.encode()]  # fmt: skip
    return change(
        rng, job, (".csv",), lambda content: pick(rng, edits)(content.decode("utf-8", "replace"))
    )


@mutation("table names far apart")
def far_names(rng: Rng, job: Job) -> str | None:
    """CorroSeg: a patch gets a number, or a well, far from the others'; in the images and in the
    masks.
    """
    if "corroseg" not in job.raw.name:
        return None
    new = pick(
        rng,
        [
            "well_2_patch_99999",
            "well_99999_patch_0",
            "well_2_patch_9999",
            "well_0_patch_5",
            "well_1_patch_450",
            "well_10_patch_50000",
        ],
    )
    for path in files(job.raw, (".npy",)):
        if path.stem == "well_2_patch_5":
            path.rename(path.with_name(f"{new}.npy"))
    for path in files(job.raw, (".zip", ".csv", ".gz")):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                inside = {name: archive.read(name) for name in archive.namelist()}
            path.write_bytes(
                as_zip(
                    {
                        name.replace("well_2_patch_5", new): own.replace(
                            b"well_2_patch_5,", new.encode() + b","
                        )
                        for name, own in inside.items()
                    }
                )
            )
        else:
            opened = gzip.open if path.suffix == ".gz" else open
            with opened(path, "rb") as stream:
                content = stream.read().replace(b"well_2_patch_5,", new.encode() + b",")
            with opened(path, "wb") as stream:
                stream.write(content)
    return new


# Recipes


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"{json.dumps(key, ensure_ascii=False)} = {toml(item)}"
                for key, item in value.items()
            )
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else str(value)
    return value.raw if isinstance(value, Raw) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Raw:
    """A piece of TOML as it stands."""

    raw: str


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = [-1, 0, 1, 2, 3, 101, 2**31, 2**63 - 1, 2**63, 10**30, -(10**30),
              Raw("0x" + "f" * 5000), Raw("9" * 5000), math.nan, math.inf, -math.inf, 1e308, 5e-324,
              -0.0, 0.5, True, False, "", "x", "../up", "a" * 300, "corroseg", "demo", "group",
              "random", "blocks", "per_pixel", "é\u202e", Raw('"\\u0000"'),
              Raw('"a\\nb"'), Raw("2024-01-01"), Raw("07:32:00"), [], [1], [[1]], [[1, 2], [10]],
              [[1], [2], [10]], {}, {"a": 1}, [{}], [{"a": [1]}], nested(50), ["x"] * 3, [10**30],
              [[10**30], [1]], "mine"]  # fmt: skip


def branches(value: Any) -> list[dict | list]:
    """Every section and list in a recipe."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if isinstance(value, dict | list) and value else []) + [
        branch for item in inner for branch in branches(item)
    ]


@mutation("recipe values")
def recipe_values(rng: Rng, job: Job) -> str | None:
    if job.recipe is None:
        return None
    chosen = recipe.parse({"name": "tiny", **tomllib.loads(job.recipe)}, "the whole recipe")
    kind = "wells" if recipe.foreign(chosen, "wells") is None else "photographs"
    whole = recipe.to_toml(chosen, kind)
    tree = tomllib.loads(whole if rng.random() < 0.7 else job.recipe)
    for _ in range(int(rng.integers(1, 3))):
        branch = pick(rng, branches(tree))
        key = pick(rng, list(branch) if isinstance(branch, dict) else list(range(len(branch))))
        what = pick(rng, ["set", "set", "set", "set", "drop", "rename", "double"])
        if what == "set":
            branch[key] = pick(rng, ODD_VALUES)
        elif what == "drop" or not isinstance(branch, dict):
            del branch[key]
        else:
            branch[
                pick(
                    rng, [f"{key}s", key.upper(), "", "é", "a.b", "x" * 1000, "\x1b[0m", f"{key}\n"]
                )
            ] = branch[key]
            if what == "rename":
                del branch[key]
        if not tree:
            break
    job.recipe = (
        "\n".join(
            f"{json.dumps(key, ensure_ascii=False)} = {toml(value)}" for key, value in tree.items()
        )
        + "\n"
    )
    return job.recipe[:300]


@mutation("recipe text")
def recipe_text(rng: Rng, job: Job) -> str | None:
    if job.recipe is None:
        return None
    content = pick(rng, [flip, cut, smear])(rng, job.recipe.encode())
    job.recipe = content.decode("utf-8", "surrogateescape")
    return f"{job.recipe[:300]!a}"


@mutation("recipe bombs", refused=True)
def recipe_bomb(rng: Rng, job: Job) -> str | None:
    if job.recipe is None:
        return None
    bombs = ["a = " + "[" * 20_000, "a = " + "[" * 500 + "]" * 500, "a = " + "{a=" * 20_000,
             ".".join(["a"] * 5_000) + " = 1", "a = " + "9" * 10_000,
             "\n".join(f"[a{'.a' * n}]" for n in range(300)), "a = '" + "x" * (5 << 20) + "'",
             "\n".join(f"a{n} = 1" for n in range(50_000)),
             "\n".join("[[member.phase]]" for _ in range(20_000)),
             "seeds = [" + "0x" + "f" * 5_000 + "]", "a = 1e" + "9" * 5_000,
             "a = 0b" + "1" * 99]  # fmt: skip
    job.recipe = (
        pick(rng, bombs) + "\n" + job.recipe
        if rng.random() < 0.7
        else job.recipe + "\n" + pick(rng, bombs)
    )
    return f"{len(job.recipe)} characters: {job.recipe[:40]}"


@mutation("overrides")
def overrides(rng: Rng, job: Job) -> str | None:
    if job.recipe is None:
        return None
    keys = [
        "member",
        "member.0",
        "member.9",
        "member.0.phase.0.epochs",
        "member.phase",
        "member.phase.epochs.x",
        "folds.count",
        "folds.groups",
        "",
        ".",
        "a..b",
        "=",
        "folds",
        "folds.run",
        "data.patches",
        "data.scaling",
        "name",
        "prepared",
        "competition",
        "seeds.0",
        "0",
        "0.member",
        "member." + "9" * 5_000,
        "a." * 3_000 + "a",
        "member.٣.name",
        "é",
        "\x1b[0m",
        "data.folder",
        "generate.seed",
        "data",
        "member.network",
        "postprocess.betas",
        "inference.flips",
        "folds.gap",
        "member.²",
        "data.missing_test",
        "generate.train_patches",
    ]
    texts = [
        *(toml(value) for value in ODD_VALUES),
        "",
        "[" * 5_000,
        "1\nx = 2",
        "'",
        '"""',
        "# nothing",
        "1 # one",
        "{",
        "\udcff",
        " ",
        "=",
        "-1",
    ]
    for _ in range(int(rng.integers(1, 3))):
        job.overrides.append(
            pick(rng, keys) + pick(rng, ["=", "=", "=", "=", "", "=="]) + pick(rng, texts)
        )
    return f"{[text[:60] for text in job.overrides]!a}"
