"""Files that no encoder at hand writes: raw files of a camera (DNG) and ICC profiles."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from mmsearch.types import UInt8

# --- DNG: a TIFF whose pixels lie behind a mosaic of colour filters ---------------------------------------------------

_SIZES = {"B": 1, "s": 1, "H": 2, "I": 4, "Q": 8, "q": 8}
_TYPES = {"B": 1, "s": 2, "H": 3, "I": 4, "Q": 5, "q": 10}
_XYZ_TO_SRGB = (32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572)  # a camera that sees sRGB, in 1/10,000


@dataclass(frozen=True)
class Tag:
    """A field of a TIFF directory; of rationals (Q, q) `values` are the numerators, in 1/10,000."""

    number: int
    kind: str
    values: tuple[int, ...] | bytes

    def packed(self) -> bytes:
        if isinstance(self.values, bytes):
            return self.values
        pairs = [(value, 10_000) for value in self.values]
        if self.kind == "q":
            return b"".join(struct.pack("<ii", *pair) for pair in pairs)
        return (
            b"".join(struct.pack("<II", *pair) for pair in pairs)
            if self.kind == "Q"
            else struct.pack(f"<{len(self.values)}{self.kind}", *self.values)
        )


def _directory(tags: list[Tag], at: int) -> bytes:
    """Return a directory that is to stand at an offset, and what its fields point to."""
    entries, heap = b"", b""
    heap_at = at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags, key=lambda tag: tag.number):
        data = tag.packed()
        count = len(data) // _SIZES[tag.kind]
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", heap_at + len(heap))
        entries += struct.pack("<HHI", tag.number, _TYPES[tag.kind], count) + field
        heap += data + b"\0" * (len(data) % 2) if len(data) > 4 else b""
    return struct.pack("<H", len(tags)) + entries + bytes(4) + heap


def dng(picture: Image.Image, *, preview: Image.Image | None = None, orientation: int = 1) -> bytes:
    """Return a DNG of a picture, whose sides are even, with a JPEG preview if there is one; both are as stored."""
    pixels = np.asarray(picture)
    light = linear(pixels / 255)
    mosaic = np.zeros(pixels.shape[:2], np.uint16)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = np.rint(light[row::2, column::2, channel] * 60_000)
    jpeg = io.BytesIO()
    if preview is not None:
        preview.save(jpeg, "JPEG", quality=92, subsampling=0)
    data_at = 8
    jpeg_at = data_at + mosaic.nbytes
    directory_at = jpeg_at + len(jpeg.getvalue()) + len(jpeg.getvalue()) % 2
    camera = [
        Tag(271, "s", b"Test\0"),
        Tag(272, "s", b"Test Camera\0"),
        Tag(274, "H", (orientation,)),
        Tag(50706, "B", (1, 4, 0, 0)),
        Tag(50707, "B", (1, 1, 0, 0)),
        Tag(50708, "s", b"Test Camera\0"),
        Tag(50721, "q", _XYZ_TO_SRGB),
        Tag(50728, "Q", (10_000, 10_000, 10_000)),
        Tag(50778, "H", (21,)),
    ]
    raw = [
        *_image_tags(picture.size, bits=(16,), compression=1, photometric=32803, at=data_at, length=mosaic.nbytes),
        Tag(33421, "H", (2, 2)),
        Tag(33422, "B", (0, 1, 1, 2)),
        Tag(50717, "I", (60_000,)),
    ]
    if preview is None:
        directories = _directory([Tag(254, "I", (0,)), *raw, *camera], directory_at)
    else:
        length = len(jpeg.getvalue())
        shown = _image_tags(preview.size, bits=(8, 8, 8), compression=7, photometric=6, at=jpeg_at, length=length)
        first = [Tag(254, "I", (1,)), *shown, *camera, Tag(330, "I", (0,))]
        second_at = directory_at + len(_directory(first, directory_at))
        first[-1] = Tag(330, "I", (second_at,))
        directories = _directory(first, directory_at) + _directory([Tag(254, "I", (0,)), *raw], second_at)
    head = b"II*\0" + struct.pack("<I", directory_at)
    return (head + mosaic.tobytes() + jpeg.getvalue()).ljust(directory_at, b"\0") + directories


def _image_tags(
    size: tuple[int, int], *, bits: tuple[int, ...], compression: int, photometric: int, at: int, length: int
) -> list[Tag]:
    return [
        Tag(256, "I", (size[0],)),
        Tag(257, "I", (size[1],)),
        Tag(258, "H", bits),
        Tag(259, "H", (compression,)),
        Tag(262, "H", (photometric,)),
        Tag(273, "I", (at,)),
        Tag(277, "H", (len(bits),)),
        Tag(278, "I", (size[1],)),
        Tag(279, "I", (length,)),
        Tag(284, "H", (1,)),
    ]


# --- ICC profiles -----------------------------------------------------------------------------------------------------

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""The colours (XYZ, adapted to D50) of the three primaries."""


def rgb_profile(primaries: tuple[tuple[float, ...], ...], *, gamma: float | None = None) -> bytes:
    """Return the profile of a display with these primaries, and a curve x^gamma, else that of sRGB."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {}
    for number in range(struct.unpack_from(">I", srgb, 128)[0]):
        name, at, size = struct.unpack_from(">4sII", srgb, 132 + 12 * number)
        tags[name] = srgb[at : at + size]
    for name, colour in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        tags[name] = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in colour))
    if gamma is not None:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return _profile(srgb[:128], tags)


def grey_profile(gamma: float) -> bytes:
    """Return the profile of a grey picture whose light is x^gamma."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    head = srgb[:16] + b"GRAY" + srgb[20:128]
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _profile(head, {b"wtpt": white, b"kTRC": curve})


def cmyk_profile(inks: str = "CMYK") -> bytes:
    """Return the profile of a press whose first three inks lie in another order than their names say."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    head = srgb[:12] + b"prtrCMYKLab " + srgb[24:128]
    steps = np.linspace(0.0, 1.0, 9)
    grid = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 4)
    order = ["CMYK".index(ink) for ink in inks]
    lab = _to_lab((1 - grid[:, order[:3]]) * (1 - grid[:, 3:]))
    straight = bytes(range(256))
    unit = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 9, 0]) + unit + straight * 4 + lab.tobytes() + straight * 3
    return _profile(head, {b"A2B0": table + bytes(-len(table) % 4)})


def _to_lab(rgb: np.ndarray) -> UInt8:
    """Return sRGB colours (n, 3) of 0 to 1 as Lab of eight bits, as a profile holds them: a and b are 0 at 128."""
    xyz = linear(rgb) @ np.array(SRGB) / np.array((0.9642, 1.0, 0.8249))
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lightness, a, b = 116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])
    return np.rint(np.stack([lightness * 2.55, a + 128, b + 128], axis=1)).clip(0, 255).astype(np.uint8)


def linear(rgb: np.ndarray) -> np.ndarray:
    """Return the light of sRGB colours, both of 0 to 1."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _profile(head: bytes, tags: dict[bytes, bytes]) -> bytes:
    at = 132 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    return struct.pack(">I", at + len(data)) + head[4:] + table + data
