"""Colours: from the ICC profile that a picture carries to sRGB, which is what encoders have learned from."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_CLASSES = ("scnr", "mntr", "prtr", "spac")
_MAX_PROFILE = 4 * 1024 * 1024
_SAME = 2
"""A profile that moves no colour by more than this (of 255) is sRGB, whatever it calls itself."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an RGB, grey (L) or CMYK picture in sRGB; the same picture when the profile is sRGB, broken or of no use.

    An RGB profile is also taken for a grey picture.
    """
    mode, transform = _transform(profile) if len(profile) <= _MAX_PROFILE else ("", None)
    if transform is None:
        return image
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    return transform.apply(image) if image.mode == mode else image


@lru_cache(maxsize=16)  # building one takes longer than opening a picture, and one camera writes one profile
def _transform(profile: bytes) -> tuple[str, ImageCmsTransform | None]:
    """Return the mode that a profile is for, and the way to sRGB, None when there is none to go. Thread-safe."""
    from PIL import ImageCms  # only pictures with a profile need it

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space, "")
        if not mode or source.profile.device_class not in _CLASSES:
            return "", None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return mode, None if _changes_nothing(mode, transform) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "", None


def _changes_nothing(mode: str, transform: ImageCmsTransform) -> bool:
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    difference = np.asarray(transform.apply(before)).astype(int) - np.asarray(before.convert("RGB"))
    return int(np.abs(difference).max()) <= _SAME


def jpeg2000_profile(file: BinaryIO) -> bytes | None:
    """Return the ICC profile in the head of a JP2 file (ISO 15444-1, I.5.3.3), None when there is none."""
    place = file.tell()
    file.seek(0)
    head = file.read(64 * 1024)
    file.seek(place)
    for name, content in _boxes(head):
        if name == b"jp2h":
            told = (data for kind, data in _boxes(content) if kind == b"colr" and bytes(data[:1]) in (b"\2", b"\3"))
            return next((bytes(data[3:]) for data in told), None)
    return None


def _boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and content of the boxes that follow one another, up to the first that is broken."""
    view = memoryview(data)
    while len(view) >= 8:
        size, name = struct.unpack_from(">I4s", view)
        if not 8 <= size <= len(view):
            return
        yield name, view[8:size]
        view = view[size:]
