"""Every format of the list, written by a real encoder, becomes the vector of the picture that was written."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mmsearch.errors import UnreadableImage
from mmsearch.types import Encoder, UInt8
from tests.made_files import dng
from tests.photograph import (
    ALIKE,
    DEEP,
    LARGE,
    PHOTO,
    STORED,
    SWAPS,
    UNLIKE,
    Cosine,
    Turn,
    grey,
    heic,
    opened,
    tiff,
    with_alpha,
)
from tests.support import encoded

# --- the measure ----------------------------------------------------------------------------------------------------


def test_a_turn_or_a_swap_of_colours_would_be_seen(cosine: Cosine) -> None:
    assert cosine(PHOTO) > 0.9999
    assert max(cosine(PHOTO.transpose(turn)) for turn in Turn) < UNLIKE
    channels = PHOTO.split()
    assert max(cosine(Image.merge("RGB", [channels[n] for n in swap])) for swap in SWAPS) < UNLIKE
    assert cosine(Image.eval(PHOTO, lambda value: 255 - value)) < UNLIKE
    assert cosine(Image.eval(PHOTO, lambda value: value // 3)) < ALIKE


# --- formats --------------------------------------------------------------------------------------------------------

COLOUR: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg baseline": ("JPEG", lambda: encoded(PHOTO, "JPEG", quality=90)),
    "jpeg progressive": ("JPEG", lambda: encoded(PHOTO, "JPEG", quality=90, progressive=True)),
    "jpeg cmyk": ("JPEG", lambda: encoded(PHOTO.convert("CMYK"), "JPEG", quality=90)),
    "jpeg with a second view": ("JPEG", lambda: encoded(PHOTO, "MPO", save_all=True, append_images=[LARGE])),
    "png": ("PNG", lambda: encoded(PHOTO, "PNG")),
    "png palette": ("PNG", lambda: encoded(PHOTO.quantize(256), "PNG")),
    "png alpha": ("PNG", lambda: encoded(with_alpha(PHOTO), "PNG")),
    "png 16 bit": ("PNG", lambda: png_16(DEEP)),
    "png interlaced": ("PNG", lambda: png_interlaced(np.asarray(PHOTO))),
    "webp": ("WEBP", lambda: encoded(PHOTO, "WEBP", quality=90)),
    "webp lossless, alpha": ("WEBP", lambda: encoded(with_alpha(PHOTO), "WEBP", lossless=True)),
    "webp animated": (
        "WEBP",
        lambda: encoded(
            PHOTO, "WEBP", save_all=True, append_images=[LARGE.resize(PHOTO.size).transpose(Turn.ROTATE_180)]
        ),
    ),
    "gif": ("GIF", lambda: encoded(PHOTO.quantize(256), "GIF")),
    "gif animated": ("GIF", lambda: encoded(PHOTO.quantize(256), "GIF", save_all=True, append_images=[grey(PHOTO)])),
    "tiff": ("TIFF", lambda: encoded(PHOTO, "TIFF", compression="tiff_lzw")),
    "tiff jpeg": ("TIFF", lambda: encoded(PHOTO, "TIFF", compression="jpeg", quality=90)),
    "tiff cmyk": ("TIFF", lambda: encoded(PHOTO.convert("CMYK"), "TIFF")),
    "tiff pages": (
        "TIFF",
        lambda: encoded(PHOTO, "TIFF", save_all=True, append_images=[LARGE.transpose(Turn.ROTATE_180)]),
    ),
    "tiff 16 bit": ("TIFF", lambda: tiff(DEEP, photometric="rgb")),
    "tiff 16 bit, big endian, zip": (
        "TIFF",
        lambda: tiff(DEEP, photometric="rgb", byteorder=">", compression="zlib", predictor=True),
    ),
    "tiff 16 bit in planes": (
        "TIFF",
        lambda: tiff(DEEP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    ),
    "tiff 16 bit in planes, big endian, tiles": (
        "TIFF",
        lambda: tiff(DEEP.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", byteorder=">", tile=(64, 64)),
    ),
    "bigtiff": ("TIFF", lambda: tiff(np.asarray(PHOTO), photometric="rgb", bigtiff=True)),
    "bmp": ("BMP", lambda: encoded(PHOTO, "BMP")),
    "jpeg 2000": ("JPEG2000", lambda: encoded(PHOTO, "JPEG2000", quality_mode="rates", quality_layers=[8])),
    "jpeg 2000 codestream": ("JPEG2000", lambda: encoded(PHOTO, "JPEG2000", no_jp2=True)),
    "avif": ("AVIF", lambda: encoded(PHOTO, "AVIF", quality=80)),
    "avif animated": (
        "AVIF",
        lambda: encoded(PHOTO, "AVIF", save_all=True, append_images=[PHOTO.transpose(Turn.ROTATE_180)]),
    ),
    "ppm": ("PPM", lambda: encoded(PHOTO, "PPM")),
    "ppm in words": ("PPM", lambda: b"P3 480 318 255\n" + b" ".join(b"%d" % n for n in np.asarray(PHOTO).ravel())),
    "ppm 16 bit": ("PPM", lambda: b"P6 480 318 65535\n" + DEEP.astype(">u2").tobytes()),
    "heic": ("HEIF", lambda: heic(PHOTO)),
    "heic alpha": ("HEIF", lambda: heic(with_alpha(PHOTO), chroma=444)),
}


@pytest.mark.parametrize("kind", COLOUR)
def test_a_picture_in_colour(kind: str, cosine: Cosine) -> None:
    format_name, write = COLOUR[kind]
    image, info = opened(write())
    assert info.format == format_name
    assert (info.width, info.height) in ((480, 318), (480, 320))
    assert cosine(image) > ALIKE


GREY: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(grey(PHOTO), "JPEG", quality=90),
    "png": lambda: encoded(grey(PHOTO), "PNG"),
    "png alpha": lambda: encoded(grey(PHOTO).convert("LA"), "PNG"),
    "png 16 bit": lambda: encoded(Image.fromarray(np.asarray(grey(PHOTO)).astype(np.uint16) * 257), "PNG"),
    "tiff 16 bit": lambda: tiff(np.asarray(grey(PHOTO)).astype(np.uint16) * 257),
    "tiff 16 bit, its darkest white": lambda: tiff(
        65535 - np.asarray(grey(PHOTO)).astype(np.uint16) * 257, photometric="miniswhite"
    ),
    "tiff float": lambda: tiff(np.asarray(grey(PHOTO)).astype(np.float32) / 255),
    "tiff float of any range": lambda: tiff(np.asarray(grey(PHOTO)).astype(np.float32) * 40 - 1000),
    "jpeg 2000 16 bit": lambda: encoded(Image.fromarray(np.asarray(grey(PHOTO)).astype(np.uint16) * 257), "JPEG2000"),
    "pgm": lambda: encoded(grey(PHOTO), "PPM"),
    "pgm 16 bit": lambda: b"P5 480 318 65535\n" + (np.asarray(grey(PHOTO)).astype(">u2") * 257).tobytes(),
    "avif": lambda: encoded(grey(PHOTO), "AVIF", quality=80),
    "heic": lambda: heic(grey(PHOTO)),
}


@pytest.mark.parametrize("kind", GREY)
def test_a_grey_picture(kind: str, encoder: Encoder) -> None:
    image, _ = opened(GREY[kind]())
    pair = np.stack([encoder.prepare_image(one) for one in (image, grey(PHOTO).convert("RGB"))])
    first, second = encoder.encode_images(pair)
    assert first @ second > ALIKE


def test_a_bitmap() -> None:
    for data in (encoded(PHOTO.convert("1"), "PPM"), encoded(PHOTO.convert("1"), "TIFF", compression="group4")):
        image, _ = opened(data)
        assert np.array_equal(np.asarray(image), np.asarray(PHOTO.convert("1").convert("RGB")))


def png_16(samples: np.ndarray) -> bytes:
    """Return a PNG of three samples of sixteen bits, which Pillow reads and does not write."""
    lines = samples.astype(">u2").reshape(len(samples), -1).view(np.uint8)
    return _png(samples.shape[1], samples.shape[0], np.pad(lines, ((0, 0), (1, 0))).tobytes(), depth=16)


def png_interlaced(samples: UInt8) -> bytes:
    """Return a PNG in the seven passes of Adam7, which Pillow reads and does not write."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = b""
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        lines += np.pad(part.reshape(len(part), -1), ((0, 0), (1, 0))).tobytes()
    return _png(samples.shape[1], samples.shape[0], lines, interlaced=True)


def _png(width: int, height: int, lines: bytes, *, depth: int = 8, interlaced: bool = False) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")


# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "DNG", "DNG with a preview"])
def test_every_orientation_is_seen_upright(kind: str, orientation: int, cosine: Cosine) -> None:
    turn = STORED[orientation]
    stored = PHOTO if turn is None else PHOTO.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind.startswith("DNG"):
        pytest.importorskip("rawpy")
        preview = stored if "preview" in kind else None
        image, info = opened(dng(stored, preview=preview, orientation=orientation), "raw.dng")
    elif kind == "HEIF":
        heif = pytest.importorskip("pillow_heif").from_pillow(stored)
        heif.info["exif"] = exif.tobytes()
        buffer = io.BytesIO()
        heif.save(buffer, quality=90)
        image, info = opened(buffer.getvalue())
    else:
        options = {"quality": 90} if kind in ("JPEG", "WEBP", "AVIF") else {}
        image, info = opened(encoded(stored, kind, exif=exif, **options))
    assert (info.width, info.height) == image.size == PHOTO.size
    assert cosine(image) > ALIKE


def test_what_is_no_orientation_is_upright(cosine: Cosine) -> None:
    for orientation in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert cosine(opened(encoded(PHOTO, "JPEG", quality=90, exif=exif))[0]) > ALIKE
    for broken in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ):
        assert cosine(opened(encoded(PHOTO, "JPEG", quality=90, exif=broken))[0]) > ALIKE


# --- sizes and names ------------------------------------------------------------------------------------------------


def test_twelve_megapixels_are_decoded_small(cosine: Cosine) -> None:
    for options in ({}, {"progressive": True}):
        data = encoded(PHOTO.resize((4256, 2820)), "JPEG", quality=85, **options)
        image, info = opened(data, min_side=260)
        assert (info.width, info.height) == (4256, 2820)
        assert image.width < 1100
        assert cosine(image) > ALIKE
    assert cosine(opened(data)[0]) > ALIKE


@pytest.mark.parametrize(
    ("format_name", "size"),
    [
        (format_name, size)
        for format_name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM")
        for size in ((1, 1), (20_000, 2), (2, 20_000), (1, 3))
        if format_name != "WEBP" or max(size) <= 16_383  # it has none that are longer
    ],
)
def test_pictures_of_odd_sizes_have_vectors(format_name: str, size: tuple[int, int], encoder: Encoder) -> None:
    image, info = opened(encoded(Image.new("RGB", size, (200, 30, 30)), format_name), min_side=encoder.min_side or 1)
    assert (info.width, info.height) == size
    vector = encoder.encode_images(encoder.prepare_image(image)[None])
    np.testing.assert_allclose(np.linalg.norm(vector), 1.0, atol=1e-5)


def test_a_wrong_ending_does_not_matter(cosine: Cosine) -> None:
    for data, name in (
        (encoded(PHOTO, "PNG"), "x.jpg"),
        (encoded(PHOTO, "JPEG", quality=90), "x.dng"),
        (encoded(PHOTO, "WEBP"), "x.heic"),
        (encoded(PHOTO, "TIFF"), "x.png"),
    ):
        assert cosine(opened(data, name)[0]) > ALIKE
    pytest.importorskip("rawpy")
    for data, name, format_name in ((encoded(PHOTO, "TIFF"), "x.nef", "TIFF"), (dng(PHOTO), "x.tif", "DNG")):
        image, info = opened(data, name)
        assert info.format == format_name
        assert cosine(image) > ALIKE


@pytest.mark.parametrize("name", ["x.jpg", "x.dng", "x.heic", "x.png", "x"])
def test_no_bytes_and_what_starts_a_program(name: str) -> None:
    for data in (
        b"",
        b"\0" * 64,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"II*\0",
        b"\0\0\0\x18ftypheic",
    ):
        with pytest.raises(UnreadableImage, match=r"^x.* cannot be read as a picture: "):
            opened(data, name)
