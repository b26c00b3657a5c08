"""One photograph, the ways to store it, and the measure of what became of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mmsearch.images import ImageInfo, decode, probe
from tests.support import PHOTOS

ALIKE = 0.974
"""Cosine of the worst encoder here (256 colours, 0.980) …"""

UNLIKE = 0.938
"""… and of the least mistake (its negative, 0.924): every turn and swap of the photograph is another picture."""

PHOTO = Image.open(PHOTOS / "two-brown-dogs.jpg").convert("RGB").resize((480, 318), box=(14, 64, 307, 258))
LARGE = PHOTO.resize((1200, 796), Image.Resampling.BICUBIC)
DEEP = np.asarray(PHOTO).astype(np.uint16) * 257
Turn = Image.Transpose
# What is stored for each EXIF orientation, so that a viewer who turns it sees the photograph.
STORED = {
    1: None,
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_90,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_270,
}
SWAPS = ((2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1))


Cosine = Callable[[Image.Image], float]


def opened(data: bytes, name: str = "test", **options: int) -> tuple[Image.Image, ImageInfo]:
    image, info = decode(io.BytesIO(data), name, **options)
    assert probe(io.BytesIO(data), name) == info
    assert image.mode == "RGB"
    return image, info


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def heic(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    """Return the picture opaque, between stripes of wild colours that nobody can see."""
    wide = Image.new("RGBA", (image.width, image.height + 2), (255, 0, 255, 0))
    wide.paste(image, (0, 1))
    return wide


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L")
