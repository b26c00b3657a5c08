"""Raw files of cameras (CR2, NEF, ARW, DNG): the preview that the camera put in, else the picture developed.

Needs rawpy, the extra [raw]; this is its only home.
"""

from __future__ import annotations

import errno
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    import rawpy

SUFFIXES = frozenset([".cr2", ".nef", ".arw", ".dng"])
"""Endings, in lower case, of the names of raw files."""

MIN_SIDE = 512
"""A preview whose short side has fewer pixels is not used."""

_ORIENTATIONS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}
"""EXIF orientations by LibRaw's `flip`, whose bits are: 1 mirrored, 2 upside down, 4 sides exchanged."""


def suffix(name: str) -> str:
    """Return the ending of a file name in lower case, with its dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot >= 0 else ""


def open_raw(file: BinaryIO) -> RawFile | None:
    """Return the raw file, or None when it is none (a TIFF that is called so).

    Raise OSError (ENOSYS) without rawpy, ValueError for a damaged file.
    """
    try:
        import rawpy
    except ImportError as error:
        raise OSError(
            errno.ENOSYS, 'a raw file of a camera needs rawpy, which comes with pip install "mmsearch[raw]"'
        ) from error
    file.seek(0)
    try:
        return RawFile(rawpy.imread(file))
    except rawpy.LibRawFileUnsupportedError:
        return None
    except rawpy.LibRawError as error:
        raise ValueError(_text(error)) from error


class RawFile:
    """An open raw file. `size` is width and height in pixels of the whole picture, upright."""

    def __init__(self, raw: rawpy.RawPy) -> None:
        sizes = raw.sizes
        self._raw = raw
        self._turned = bool(sizes.flip & 4)
        self._orientation = _ORIENTATIONS.get(sizes.flip, 1)
        self.size = (sizes.height, sizes.width) if self._turned else (sizes.width, sizes.height)

    def picture(self, min_side: int | None) -> tuple[Image.Image, int]:
        """Return a picture and the EXIF orientation that it has to be turned by.

        That is an embedded preview, not decoded yet, whose short side has `min_side` pixels and at least 512, else the
        raw data developed in sRGB, at half the size where that is enough. Raise ValueError for damaged data.
        """
        import rawpy

        wanted = min(max(min_side or 0, MIN_SIDE), *self.size)
        preview = self._preview()
        if preview is not None and min(preview.size) >= wanted:
            return preview, 1 if self._is_upright(preview) else self._orientation
        try:
            pixels = self._raw.postprocess(half_size=min(self.size) >= 2 * wanted, use_camera_wb=True)
        except rawpy.LibRawError as error:
            raise ValueError(_text(error)) from error
        return Image.fromarray(pixels), 1  # LibRaw turns it

    def _preview(self) -> Image.Image | None:
        """Return the largest embedded preview, not decoded yet; None when there is none that can be read.

        Nor is one with more pixels than the picture: the limit on these was held against the picture alone.
        """
        import rawpy

        try:
            found = self._raw.extract_thumb()
            is_jpeg = found.format == rawpy.ThumbFormat.JPEG
            preview = Image.open(BytesIO(found.data), formats=("JPEG",)) if is_jpeg else Image.fromarray(found.data)
            return preview if preview.width * preview.height <= self.size[0] * self.size[1] else None
        except (rawpy.LibRawError, rawpy.NotSupportedError, UnidentifiedImageError, ValueError, TypeError):
            return None

    def _is_upright(self, preview: Image.Image) -> bool:
        """Return True when a preview lies on the side already that the camera was turned to; most do not."""
        wide = self.size[0] > self.size[1]
        return self._turned and (preview.width > preview.height) == wide


def _text(error: Exception) -> str:
    """Return what LibRaw says, which rawpy hands on as bytes."""
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
