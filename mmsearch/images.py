"""Pictures: from a file to upright RGB pixels, and what is known of the file.

The order matters: named formats only → pixel limit → (for JPEG) decoding at a reduced scale → EXIF orientation →
sixteen-bit and float samples to eight → transparency on white → RGB → from the ICC profile's colours to sRGB.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeGuard

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmsearch import raw
from mmsearch.colour import jpeg2000_profile, to_srgb
from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.metadata import exif_of_tiff, metadata_of, orientation_of, read_metadata
from mmsearch.types import PictureMetadata

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM")
"""The formats that Pillow opens; nothing that runs another program (EPS) is among them.

HEIF is opened by pillow-heif, and `mmsearch.raw` opens the raw files of cameras, where they are installed.
"""

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".jp2",
        ".j2k",
        ".jpx",
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".hif",
        ".pnm",
        ".pbm",
        ".pgm",
        ".ppm",
        *raw.SUFFIXES,
    ]
)
"""File name endings, in lower case, that a folder scan takes for pictures."""

MAX_PIXELS = 178_000_000
"""Default pixel limit: a little under the size at which Pillow itself refuses."""

_BITS_PER_SAMPLE = 0x0102
_PHOTOMETRIC = 0x0106
_PLANAR_CONFIGURATION = 0x011C
_DNG_VERSION = 0xC612
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation; 1 is upright."""

_TRANSPOSED = (5, 6, 7, 8)
_JPEG = ("JPEG", "MPO")  # an MPO is a JPEG with others behind it: a second view, or the depth of the first
_HEIF_BRANDS = frozenset(
    [b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"]
)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Width and height in pixels of the upright picture, its format's name, and what it tells of itself.

    The name is Pillow's; that of a raw file its ending in capital letters.
    """

    width: int
    height: int
    format: str
    metadata: PictureMetadata = field(default_factory=PictureMetadata)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A picture that is not decoded yet, and the EXIF orientation that it has to be turned by."""

    source: Image.Image | raw.RawFile
    info: ImageInfo
    orientation: int = 1


def lift_pillow_limit() -> None:
    """Leave the pixel limit to `max_pixels` alone, in the whole process: for programs, not for libraries."""
    Image.MAX_IMAGE_PIXELS = None


def is_picture_name(name: str) -> bool:
    """Return True when the file name ends like a picture's."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SUFFIXES


def is_raw_name(name: str) -> bool:
    """Return True when the file name ends like that of a camera's raw file."""
    return raw.suffix(name) in raw.SUFFIXES


def content_hash(file: BufferedReader | BytesIO) -> bytes:
    """Return the SHA-256 (32 bytes) of an open file, from its start; the file is left at its start."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0)
    return digest


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Return the picture as upright RGB; raise UnreadableImage, ImageTooLarge or OSError (see `decode`)."""
    with Path(path).open("rb") as file:
        return decode(file, str(path), max_pixels=max_pixels, min_side=min_side)[0]


def largest_side(*sides: int | None) -> int | None:
    """Return the largest of some `min_side`, which is enough for all of them; None where one is None."""
    known = [side for side in sides if side is not None]
    return max(known) if len(known) == len(sides) else None


def decode(
    file: BinaryIO, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> tuple[Image.Image, ImageInfo]:
    """Return the picture as upright RGB, and what is known of it.

    With `min_side`, a JPEG may be decoded at a reduced scale at which neither side is shorter than that many pixels;
    `ImageInfo` always holds the full size. Raise UnreadableImage or ImageTooLarge for what the file is, OSError (with
    an errno) for a disk that fails or a decoder that is not installed (ENOSYS): the first two stay true until the file
    changes, the last may pass.
    """
    with _named_errors(name):
        opened = _open(file, name, max_pixels)
        image, orientation = opened.source, opened.orientation
        if isinstance(image, raw.RawFile):
            image, orientation = image.picture(min_side)
        if min_side is not None and image.format in _JPEG:
            image.draft(None, (min_side, min_side))
        upright = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
        return _to_rgb(upright), opened.info


def probe(file: BinaryIO, name: str) -> ImageInfo:
    """Return what the header of a picture tells, without decoding it; raise as `decode` does."""
    with _named_errors(name):
        return _open(file, name, None).info


def _open(file: BinaryIO, name: str, max_pixels: int | None) -> _Opened:
    head = file.read(64)
    file.seek(0)
    if _is_raw(file, head, name) and (found := _open_raw(file, name, max_pixels)):
        return found
    image = _open_heif(file) if _is_heif(head) else Image.open(file, formats=FORMATS)
    width, height = image.size
    _check_size(name, width, height, max_pixels)
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # it may stand behind the pixels
    if _is_tiff(image):
        _mend_planes(image)
    if image.format == "JPEG2000" and (profile := jpeg2000_profile(file)):
        image.info["icc_profile"] = profile  # Pillow (13.0) does not look for it
    orientation = orientation_of(image)
    metadata = read_metadata(image)
    if image.format in ("TIFF", "HEIF"):  # these are turned by who decodes them
        orientation = 1
    if orientation in _TRANSPOSED:
        width, height = height, width
    format_name = "JPEG" if image.format in _JPEG else image.format or "?"
    return _Opened(image, ImageInfo(width, height, format_name, metadata), orientation)


def _is_tiff(image: Image.Image) -> TypeGuard[TiffImageFile]:
    return image.format == "TIFF"  # importing the plugin to ask for its class would cost a cold query 7 ms


def _mend_planes(image: TiffImageFile) -> None:
    """Have sixteen-bit samples that lie in planes, uncompressed, decoded so: Pillow (13.0) takes them for bytes."""
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))
    if image.tag_v2.get(_PLANAR_CONFIGURATION) != 2 or set(bits) != {16}:
        return
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    for number, tile in enumerate(image.tile):
        if tile.codec_name == "raw" and isinstance(tile.args, tuple) and len(tile.args[0]) == 1:
            samples = image.mode if image.mode.startswith("I;16") else f"{tile.args[0]};16{order}"
            image.tile[number] = tile._replace(args=(samples, *tile.args[1:]))


def _is_raw(file: BinaryIO, head: bytes, name: str) -> bool:
    """Return True for a TIFF that is called like a raw file, or is a DNG whatever it is called."""
    if not head.startswith((b"II*\0", b"MM\0*")):
        return False
    try:
        return is_raw_name(name) or _DNG_VERSION in exif_of_tiff(file)
    finally:
        file.seek(0)


def _open_raw(file: BinaryIO, name: str, max_pixels: int | None) -> _Opened | None:
    """Return a raw file of a camera, None when it is a TIFF that is only called so."""
    found = raw.open_raw(file)
    if found is None:
        file.seek(0)
        return None
    _check_size(name, *found.size, max_pixels)
    format_name = raw.suffix(name)[1:].upper() if is_raw_name(name) else "DNG"
    return _Opened(found, ImageInfo(*found.size, format_name, metadata_of(exif_of_tiff(file))))


def _is_heif(head: bytes) -> bool:
    """Return True for the first bytes of a HEIC file; AVIF is built alike, and Pillow's own."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avi" not in head[8:]


def _open_heif(file: BinaryIO) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise OSError(errno.ENOSYS, 'HEIC needs pillow-heif, which comes with pip install "mmsearch[heif]"') from error
    image: Image.Image = HeifImageFile(file)
    return image


def _check_size(name: str, width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLarge(
            f"{name} has {width} × {height} pixels, over the limit of {max_pixels:,}: raise it with --max-pixels."
        )


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that names the file."""
    try:
        yield
    except (ImageTooLarge, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(
            f"{name} is over Pillow's own pixel limit: raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels."
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UnreadableImage(f"{name} cannot be read as a picture: {_reason(error)}.") from error
    except Exception as error:  # a decoder given a hostile file may raise anything at all
        raise UnreadableImage(f"{name} cannot be read as a picture: {_reason(error)}.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture that is already in memory as upright RGB (EXIF orientation applied, transparency on white)."""
    return _to_rgb(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return RGB without the metadata of the picture: they are not true of it any more, and it may travel."""
    flat = _flatten(image)
    profile = image.info.get("icc_profile")
    if profile and image.mode != "LAB":
        is_grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        flat = to_srgb(flat.convert("L") if is_grey else flat, profile)
    rgb = flat.convert("RGB") if flat.mode != "RGB" else flat
    rgb.load()
    rgb.info = {}
    return rgb


def _flatten(image: Image.Image) -> Image.Image:
    """Return an eight-bit picture without transparency: RGB, L or CMYK."""
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        grey = _from_deep(image)
        return ImageOps.invert(grey) if _is_negative(image) else grey
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def _is_negative(image: Image.Image) -> bool:
    """Return True for sixteen-bit samples whose zero is white: Pillow (13.0) turns those of eight bits only."""
    return _is_tiff(image) and image.mode[0] == "I" and image.tag_v2.get(_PHOTOMETRIC) == 0


def _from_deep(image: Image.Image) -> Image.Image:
    """Return an 8-bit grey picture: 16-bit samples lose their low byte, wider or float ones are stretched to fit."""
    samples = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and samples.min() >= 0 and 255 < samples.max() <= 65535):
        return Image.fromarray((samples.astype(np.uint32) >> 8).astype(np.uint8))
    values = np.nan_to_num(samples.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    elif low >= 0.0 and high <= 255.0:
        low, high = 0.0, 255.0
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is in none of the known formats"
    text = str(error).strip().rstrip(".")
    return text[:200] if text else type(error).__name__
