"""Every format of the list, written by a real encoder, becomes the vector of the picture that was written."""

from __future__ import annotations

import builtins
import errno
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from indexer.patterns import FolderOptions
from indexer.sources.folder import FolderSource
from mmsearch.encoders import load_encoder
from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.images import ImageInfo, decode, is_picture_name, probe, to_rgb
from mmsearch.types import Encoder, Float32, Modality, SourceEntry, UInt8
from tests.made_files import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, dng, grey_profile, linear, rgb_profile
from tests.support import PHOTOS, encoded

ALIKE = 0.97
"""Cosine of the worst encoder here (256 colours, 0.975) …"""

UNLIKE = 0.93
"""… and of the least mistake: the photograph was chosen because every turn and swap of it is another picture."""

PHOTO = Image.open(PHOTOS / "mariachi-band.jpg").convert("RGB").crop((0, 0, 480, 318))
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


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("compact")


@pytest.fixture(scope="module")
def cosine(encoder: Encoder) -> Callable[[Image.Image], float]:
    """Return the likeness of a picture and the photograph."""

    def vector(image: Image.Image) -> Float32:
        return encoder.encode_images(encoder.prepare_image(image)[None])[0]

    photo = vector(PHOTO)
    return lambda image: float(vector(image) @ photo)


Cosine = Callable[[Image.Image], float]


def opened(data: bytes, name: str = "test", **options: int) -> tuple[Image.Image, ImageInfo]:
    image, info = decode(io.BytesIO(data), name, **options)
    assert probe(io.BytesIO(data), name) == info
    assert image.mode == "RGB"
    return image, info


def tiff(samples: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)  # type: ignore[arg-type]
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


# --- colours --------------------------------------------------------------------------------------------------------

SWAPPED = (SRGB[1], SRGB[2], SRGB[0])
"""Primaries of a display whose red is green, whose green is blue and whose blue is red."""


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "JPEG2000", "AVIF", "HEIF"])
def test_the_colours_are_those_of_the_profile(format_name: str, cosine: Cosine) -> None:
    red, green, blue = PHOTO.split()
    stored = Image.merge("RGB", (green, blue, red))
    profile = rgb_profile(SWAPPED)
    if format_name == "HEIF":
        data = heic(stored, icc_profile=profile)
    elif format_name == "JPEG2000":
        data = jp2_with_profile(stored, profile)
    else:
        data = encoded(stored, format_name, icc_profile=profile)
    assert cosine(opened(data)[0]) > ALIKE
    assert cosine(stored) < UNLIKE


def jp2_with_profile(image: Image.Image, profile: bytes) -> bytes:
    """Return a JPEG 2000 file whose colours are told by a profile, which Pillow reads and does not write."""
    data = encoded(image, "JPEG2000")
    told = struct.pack(">I4sBBBI", 15, b"colr", 1, 0, 0, 16)
    profiled = struct.pack(">I4sBBB", 11 + len(profile), b"colr", 2, 0, 0) + profile
    assert data.count(told) == 1
    data = data.replace(told, profiled)
    at = data.index(b"jp2h") - 4
    size = struct.unpack_from(">I", data, at)[0] + len(profiled) - len(told)
    return data[:at] + struct.pack(">I", size) + data[at + 4 :]


@pytest.mark.parametrize(("primaries", "gamma"), [(DISPLAY_P3, None), (ADOBE_RGB, 2.2)])
def test_a_wider_space_is_brought_to_srgb(primaries: tuple[tuple[float, ...], ...], gamma: float | None) -> None:
    inside = np.array([[200, 60, 50], [90, 160, 80], [60, 70, 170], [128, 128, 128], [0, 0, 0], [255, 255, 255]])
    wide = linear(inside / 255) @ np.array(SRGB) @ np.linalg.inv(np.array(primaries))
    curve = (
        wide ** (1 / gamma) if gamma else np.where(wide <= 0.0031308, wide * 12.92, 1.055 * wide ** (1 / 2.4) - 0.055)
    )
    stored = Image.fromarray(np.rint(curve.clip(0, 1) * 255).astype(np.uint8)[None].repeat(16, 0))
    image, _ = opened(encoded(stored, "PNG", icc_profile=rgb_profile(primaries, gamma=gamma)))
    np.testing.assert_allclose(np.asarray(image)[8], inside, atol=3)
    assert np.abs(np.asarray(stored)[8].astype(int) - inside).max() > 8
    stored.info["icc_profile"] = rgb_profile(primaries, gamma=gamma)
    assert np.array_equal(np.asarray(to_rgb(stored)), np.asarray(image))


def test_cmyk_and_grey_profiles(cosine: Cosine, encoder: Encoder) -> None:
    cyan, magenta, yellow, black = PHOTO.convert("CMYK").split()
    stored = Image.merge("CMYK", (yellow, cyan, magenta, black))
    for format_name in ("JPEG", "TIFF"):
        assert cosine(opened(encoded(stored, format_name, icc_profile=cmyk_profile("MYCK")))[0]) > ALIKE
        assert cosine(opened(encoded(stored, format_name))[0]) < UNLIKE
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (4, 1)))
    straight = np.asarray(opened(encoded(ramp, "PNG", icc_profile=grey_profile(1.0)))[0])[0, :, 0].astype(int)
    assert abs(straight[55] - 128) <= 2  # a fifth of the light is the middle of sRGB
    with_alpha = np.asarray(opened(encoded(ramp.convert("LA"), "PNG", icc_profile=grey_profile(1.0)))[0])
    assert np.array_equal(with_alpha[0, :, 0], straight)


def test_a_profile_of_srgb_changes_nothing_and_a_broken_one_neither() -> None:
    plain = np.asarray(opened(encoded(PHOTO, "PNG"))[0])
    whole = rgb_profile(SWAPPED)
    broken = [b"x", whole[:140], whole[:-200], whole.replace(b"RGB XYZ ", b"GRAYXYZ "), whole.replace(b"mntr", b"link")]
    for profile in (rgb_profile(SRGB), cmyk_profile(), *broken):
        image, _ = opened(encoded(PHOTO, "PNG", icc_profile=profile))
        assert np.array_equal(np.asarray(image), plain)


def test_what_is_decoded_is_plain_srgb_and_tells_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (46.0, 31.0, 12.0), 3: "E", 4: (6.0, 37.0, 59.0)})
    for format_name in ("PNG", "TIFF", "WEBP"):
        stored = encoded(PHOTO, format_name, exif=exif.tobytes(), icc_profile=rgb_profile(SWAPPED))
        image, info = opened(stored)
        assert info.metadata.latitude is not None
        assert image.info == {}
        assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image))  # neither turned nor coloured again
        again = Image.open(io.BytesIO(encoded(image, format_name)))
        assert 0x8825 not in again.getexif()
        assert again.info.get("icc_profile") is None


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


# --- what the extras bring ------------------------------------------------------------------------------------------


def test_a_raw_file_shows_its_preview_or_is_developed(cosine: Cosine) -> None:
    pytest.importorskip("rawpy")
    upside_down = LARGE.transpose(Turn.ROTATE_180)
    for data in (dng(upside_down, preview=LARGE), dng(LARGE), dng(LARGE, preview=upside_down.resize((300, 200)))):
        image, info = opened(data, "photo.DNG")
        assert (info.width, info.height, info.format) == (1200, 796, "DNG")
        assert info.metadata.camera == "Test Camera"
        assert cosine(image) > ALIKE
    preview = dng(upside_down, preview=LARGE.resize((840, 560)))
    assert cosine(opened(preview, "x.dng", min_side=560)[0]) > ALIKE
    assert cosine(opened(preview, "x.dng", min_side=561)[0]) < UNLIKE  # the preview would be too small
    half, _ = opened(dng(LARGE.resize((2400, 1600))), "x.dng")
    assert half.size == (1200, 800)
    assert cosine(half) > ALIKE


def test_a_preview_that_lies_upright_is_not_turned_again(cosine: Cosine) -> None:
    pytest.importorskip("rawpy")
    data = dng(LARGE.transpose(Turn.ROTATE_90), preview=LARGE, orientation=6)
    assert cosine(opened(data, "x.dng")[0]) > ALIKE


def test_a_preview_with_more_pixels_than_the_picture_is_not_decoded(
    cosine: Cosine,
) -> None:
    """The limit is held against the picture: what was hidden behind a small one would get past it."""
    pytest.importorskip("rawpy")
    data = dng(PHOTO.resize((96, 64)), preview=LARGE)
    image, info = opened(data, "x.dng", max_pixels=96 * 64)
    assert image.size == (info.width, info.height) == (96, 64)
    same = dng(LARGE.transpose(Turn.ROTATE_180), preview=LARGE)
    assert cosine(opened(same, "x.dng", max_pixels=1200 * 796)[0]) > ALIKE, "one of the same size is"


def test_damaged_raw_files_are_unreadable_or_read(encoder: Encoder) -> None:
    pytest.importorskip("rawpy")
    whole = dng(PHOTO.resize((64, 48)), preview=PHOTO.resize((64, 48)))
    with pytest.raises(ImageTooLarge, match="64 × 48 pixels"):
        opened(whole, "x.dng", max_pixels=1_000)
    rng = np.random.default_rng(0)
    for trial in range(60):
        data = bytearray(whole)
        if trial % 2:
            del data[int(rng.integers(0, len(data))) :]
        for place in rng.integers(0, len(data), 8) if data else ():
            data[place] ^= int(rng.integers(1, 256))
        try:
            assert decode(io.BytesIO(bytes(data)), "x.dng", max_pixels=10_000_000)[0].mode == "RGB"
        except (UnreadableImage, ImageTooLarge) as error:
            assert str(error).startswith("x.dng ")


@pytest.mark.parametrize(("module", "extra", "name"), [("pillow_heif", "heif", "x.heic"), ("rawpy", "raw", "x.dng")])
def test_without_the_extra_the_sentence_names_it(
    module: str, extra: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = heic(PHOTO) if extra == "heif" else dng(PHOTO)
    original = builtins.__import__

    def refuse(wanted: str, *args: object, **options: object) -> object:
        if wanted == module:
            raise ImportError(wanted)
        return original(wanted, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(OSError, match=rf'pip install "mmsearch\[{extra}\]"') as raised:
        decode(io.BytesIO(data), name)
    assert raised.value.errno == errno.ENOSYS  # it may pass: the file is tried again in the next run


def test_a_raw_file_beside_its_developed_picture_is_passed_over(tmp_path: Path) -> None:
    names = ["IMG_1.CR2", "IMG_1.jpg", "IMG_2.CR2", "IMG_3.NEF", "IMG_3.png.txt", "b.dng", "B.jpg", "c.arw", "c.nef"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "IMG_2.jpg").mkdir()
    found = [entry for entry in FolderSource(tmp_path).scan() if isinstance(entry, SourceEntry)]
    pictures = [Path(entry.uri).name for entry in found if entry.modality is Modality.IMAGE]
    assert pictures == ["B.jpg", "IMG_1.jpg", "IMG_2.CR2", "IMG_3.NEF", "b.dng", "c.arw", "c.nef"]
    without = FolderSource(tmp_path, FolderOptions(exclude=("*.jpg",))).scan()
    assert str(tmp_path / "IMG_1.CR2") in [entry.key for entry in without]  # or neither of the two would be found
    assert all(map(is_picture_name, ("a.heic", "a.HEIF", "a.CR2", "a.nef", "a.Arw", "a.DNG")))
