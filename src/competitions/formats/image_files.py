"""Image files as people have them: PNG, JPEG, TIFF and NPY, of 8 or 16 bit or floating point.

A file is what its first bytes say, whatever its ending. Size, channels and type come from the
header alone. Left to itself, Pillow reads 16-bit colour as 8 bit and says nothing: PNG is therefore
read byte by byte, and TIFF by tifffile. Pixels are taken as stored: a turn that a camera noted
beside them (EXIF) is not applied.
"""

import logging
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from src.terminal.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
LARGEST = 100_000_000  # pixels; what claims more is refused before it is unpacked
# bytes; the room of each photograph in a prepared file, and that of its masks
LARGEST_PLACE = 1 << 28
LARGEST_VALUE = 1e9  # of a floating-point pixel
Image.MAX_IMAGE_PIXELS = LARGEST  # Pillow's own limit is lower
# what is wrong with a file is said once, by a UserError
logging.getLogger("tifffile").addHandler(logging.NullHandler())

PNG, TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # by colour type; without alpha
PILLOW_CHANNELS = {
    "1": 1,
    "L": 1,
    "LA": 1,
    "P": 3,
    "PA": 3,
    "RGB": 3,
    "RGBA": 3,
    "RGBX": 3,
    "CMYK": 3,
    "YCbCr": 3,
    "LAB": 3,
}
NPY_TYPES = {("u", 1): np.uint8, ("u", 2): np.uint16, ("f", 4): np.float32, ("f", 8): np.float32}


@dataclass(frozen=True)
class Header:
    """What a file says about its pixels: `channels` is 1 or 3 (alpha dropped), `dtype` uint8,
    uint16 or float32.
    """

    height: int
    width: int
    channels: int
    dtype: type
    decoder: Callable[[Path], np.ndarray]  # (H, W) or (H, W, C) pixels, alpha and all


def header(path: Path) -> Header:
    """What `path` holds, without unpacking it.

    Raises:
        UserError: the file is no image, is damaged, has no pixels or more than `LARGEST`, or has
            pixels of another kind.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no plain file: put the image itself there")
    with _told_in_one_line(path):
        with open(path, "rb") as stream:
            start = stream.read(26)
        found = _header(path, start)
    if found.height * found.width > LARGEST:
        raise _too_large(path)
    if not found.height * found.width:
        raise UserError(f"{path} has no pixels: take it away, or save it again")
    return found


def decode(path: Path) -> np.ndarray:
    """The image (H, W, C) in `path`, C being 1 or 3, of the type that `header` gives; alpha is
    dropped, palettes are looked up.

    Raises:
        UserError: as `header`, or a pixel is NaN, infinite, or so large that its square may be.
    """
    found = header(path)
    with _told_in_one_line(path), np.errstate(over="ignore"):
        pixels = found.decoder(path)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., : found.channels]
        pixels = np.ascontiguousarray(pixels, found.dtype)
        if pixels.shape != (found.height, found.width, found.channels):
            raise ValueError(
                f"pixels of shape {pixels.shape} where the header promises "
                f"{(found.height, found.width, found.channels)}"
            )
    if found.dtype is np.float32 and not (np.abs(pixels) < LARGEST_VALUE).all():
        raise UserError(
            f"{path} holds NaN or infinite values, or some beyond "
            f"{LARGEST_VALUE:.0e}: replace them by numbers"
        )
    return pixels


def decode_labels(path: Path) -> np.ndarray:
    """The label map (H, W) uint8 or uint16 in a PNG: grey values, or the numbers of the palette's
    colours; 1-bit white is 255.

    Raises:
        UserError: as `header`, or the pixels have colours instead of labels, or the palette paints
            label 0 white.
    """
    header(path)  # refuses what is too large
    with _told_in_one_line(path), Image.open(path, formats=["PNG"]) as image:
        if image.mode == "P":
            # A binary mask may have been packed into a palette in either order: white first would
            # swap defects and sound surface.
            if image.getpalette()[:3] == [255, 255, 255]:
                raise UserError(
                    f"{path}: its palette paints label 0 white, so defects may be "
                    "swapped with the rest: save it as grey"
                )
            return np.array(image)
    pixels = decode(path)
    if (pixels != pixels[..., :1]).any():
        raise UserError(
            f"{path} holds colours where a mask holds labels: save it as a grey PNG, "
            "0 for no defect and 1, 2, ... for classes"
        )
    return pixels[..., 0]


def _header(path: Path, start: bytes) -> Header:
    if start.startswith(PNG):
        return _png_header(start)
    if start.startswith(b"\xff\xd8\xff"):
        return _pillow_header(path)
    if start.startswith(TIFF):
        return _tiff_header(path)
    if start.startswith(b"\x93NUMPY"):
        return _npy_header(path)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is only a pointer that Git LFS left in the image's place: fetch "
            "the image itself with git lfs pull"
        )
    raise UserError(f"{path} is no PNG, JPEG, TIFF or NPY file: save it again as one of them")


def _png_header(start: bytes) -> Header:
    width, height, depth, colour = struct.unpack(">IIBB", start[16:26])
    deep_colour = depth == 16 and colour != 0
    dtype = np.uint16 if depth == 16 else np.uint8
    return Header(
        height,
        width,
        PNG_CHANNELS[colour],
        dtype,
        _decode_deep_png if deep_colour else _decode_by_pillow,
    )


def _pillow_header(path: Path) -> Header:
    try:
        with Image.open(path, formats=["JPEG", "TIFF"]) as image:
            width, height = image.size
            mode = image.mode
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    if mode not in PILLOW_CHANNELS:
        raise UserError(f"{path} holds pixels of kind '{mode}': save it as a grey or RGB PNG")
    return Header(height, width, PILLOW_CHANNELS[mode], np.uint8, _decode_by_pillow)


def _tiff_header(path: Path) -> Header:
    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise UserError(f"{path} holds {len(file.pages)} pages: save each as a file of its own")
        page = file.pages[0]
        height, width, samples, photometric = (
            page.imagelength,
            page.imagewidth,
            page.samplesperpixel,
            page.photometric,
        )
    if page.bitspersample <= 8:
        return _pillow_header(path)
    if (
        page.dtype != np.uint16
        or page.bitspersample != 16
        or samples not in (1, 2, 3, 4)
        or photometric not in (0, 1, 2)
    ):
        raise UserError(
            f"{path} holds pixels of {page.bitspersample} bit ({page.dtype}): save it "
            "as a TIFF of 8 or 16 bit, or as NPY"
        )
    plain_grey = samples == 1 and photometric == 1
    return Header(
        height,
        width,
        3 if samples > 2 else 1,
        np.uint16,
        _decode_by_pillow if plain_grey else _decode_deep_tiff,
    )


def _npy_header(path: Path) -> Header:
    array = np.lib.format.open_memmap(path, mode="r")  # never unpickles
    shape, dtype = array.shape, NPY_TYPES.get((array.dtype.kind, array.dtype.itemsize))
    if dtype is None or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
        wanted = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, float32 or float64"
        raise UserError(f"{path} holds an array {shape} of {array.dtype}: save it as {wanted}")
    return Header(
        shape[0], shape[1], 1 if len(shape) == 2 or shape[2] == 1 else 3, dtype, _decode_npy
    )


def _decode_by_pillow(path: Path) -> np.ndarray:
    with Image.open(path, formats=["PNG", "JPEG", "TIFF"]) as image:
        if image.mode == "1":
            return np.array(image, np.uint8) * np.uint8(255)
        if image.mode in ("L", "LA", "RGB", "RGBA") or image.mode.startswith("I;16"):
            return np.array(image)
        # By way of RGBA, since Pillow does not drop a palette's transparency without a warning.
        return np.array(image.convert("RGBA" if image.mode in ("P", "PA") else "RGB"))


def _decode_deep_png(path: Path) -> np.ndarray:
    """16-bit colour, and 16-bit grey with alpha, most significant byte first; torchvision's
    decoder ends the process at a damaged file.
    """
    with Image.open(path, formats=["PNG"]) as image:
        kind = image.tile[0].args
    if kind == "LA;16B":
        halves = _png_bytes(path, "RGBA")  # the four bytes of a pixel as if they were four channels
        return halves[..., 0] * np.uint16(256) + halves[..., 1]
    # Pillow keeps the more significant byte of each value; told that the bytes stand the other way
    # round, it keeps the other.
    return _png_bytes(path, kind) * np.uint16(256) + _png_bytes(path, kind.replace("16B", "16L"))


def _png_bytes(path: Path, kind: str) -> np.ndarray:
    """(H, W, C) uint16 below 256: what Pillow makes of a PNG's pixels if they are of this kind."""
    with Image.open(path, formats=["PNG"]) as image:
        image.tile = [tile._replace(args=kind) for tile in image.tile]
        return np.array(image, np.uint16)


def _decode_deep_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        pixels = page.asarray()
        if page.samplesperpixel > 1 and page.planarconfig == 2:  # one plane after the other
            pixels = np.moveaxis(pixels, 0, -1)
        return 65535 - pixels if page.photometric == 0 else pixels  # 0: white is zero


def _decode_npy(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


def _too_large(path: Path) -> UserError:
    return UserError(
        f"{path} claims more than {LARGEST:,} pixels: cut it into smaller images, or "
        "take it away if it is none of yours"
    )


@contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    """Errors of decoders as one that names the file; what they only warn of, such as odd notes
    beside the pixels, is not said.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(
            f"{path} takes more memory than there is: cut it into smaller images, or "
            "put a whole copy there"
        ) from None
    except Exception as error:
        # decoders of damaged files raise whatever their parsers stumble over
        reason = (
            " ".join(str(error).replace(str(path), "the file").split())[:120]
            or type(error).__name__
        )
        raise UserError(
            f"{path}: cannot be read ({reason}): put a whole copy there, or save it "
            "again as a plain PNG"
        ) from None
