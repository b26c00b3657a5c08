"""Pictures: from a file to upright RGB pixels, and what is known of the file.

The order matters: named formats only → pixel limit → (for JPEG) decoding at a reduced scale → EXIF orientation →
sixteen-bit and float samples to eight → transparency on white → RGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.types import PictureMetadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM")
"""The Pillow formats that are opened; nothing that runs another program (EPS) is among them."""

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
        ".pnm",
        ".pbm",
        ".pgm",
        ".ppm",
    ]
)
"""File name endings, in lower case, that a folder scan takes for pictures."""

MAX_PIXELS = 178_000_000
"""Default pixel limit: a little under the size at which Pillow itself refuses."""

_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Width and height in pixels of the upright picture, its Pillow format name, and what it tells of itself."""

    width: int
    height: int
    format: str
    metadata: PictureMetadata = field(default_factory=PictureMetadata)


def lift_pillow_limit() -> None:
    """Leave the pixel limit to `max_pixels` alone, in the whole process: for programs, not for libraries."""
    Image.MAX_IMAGE_PIXELS = None


def is_picture_name(name: str) -> bool:
    """Return True when the file name ends like a picture's."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SUFFIXES


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


def decode(
    file: BinaryIO, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> tuple[Image.Image, ImageInfo]:
    """Return the picture as upright RGB, and what is known of it.

    With `min_side`, a JPEG may be decoded at a reduced scale at which neither side is shorter than that many pixels;
    `ImageInfo` always holds the full size. Raise UnreadableImage or ImageTooLarge for what the file is, OSError (with
    an errno) for a disk that fails: the first two stay true until the file changes, the last may pass.
    """
    with _named_errors(name):
        image, info, orientation = _open(file, name, max_pixels)
        if min_side is not None and info.format == "JPEG":
            image.draft(None, (min_side, min_side))
        upright = ImageOps.exif_transpose(image) if orientation != 1 else image
        rgb = _to_rgb(upright)
        rgb.load()
        return rgb, info


def probe(file: BinaryIO, name: str) -> ImageInfo:
    """Return what the header of a picture tells, without decoding it; raise as `decode` does."""
    with _named_errors(name):
        return _open(file, name, None)[1]


def _open(file: BinaryIO, name: str, max_pixels: int | None) -> tuple[Image.Image, ImageInfo, int]:
    image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLarge(
            f"{name} has {width} × {height} pixels, over the limit of {max_pixels:,}: raise it with --max-pixels."
        )
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation in _TRANSPOSED and image.format != "TIFF":  # Pillow turns TIFF files itself
        width, height = height, width
    return image, ImageInfo(width, height, image.format or "?"), orientation


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
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


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
