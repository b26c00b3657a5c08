"""From a file to upright RGB: orientation, transparency, deep samples, limits, broken files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.images import FORMATS, ImageInfo, decode, is_picture_name, largest_side, open_image, probe, to_rgb
from tests.support import encoded, picture

# A picture whose corners differ, so that every turn and mirror image of it is another picture.
UPRIGHT = Image.new("RGB", (64, 48), (10, 10, 10))
UPRIGHT.paste((250, 0, 0), (0, 0, 32, 24))
UPRIGHT.paste((0, 250, 0), (32, 0, 64, 24))
UPRIGHT.paste((0, 0, 250), (0, 24, 32, 48))

# What a camera stores for each EXIF orientation: the inverse of what a viewer has to do.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def opened(data: bytes, **options: int) -> Image.Image:
    return decode(io.BytesIO(data), "test", **options)[0]


def assert_alike(image: Image.Image, other: Image.Image, tolerance: float = 6.0) -> None:
    assert image.size == other.size
    assert image.mode == "RGB"
    difference = np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean()
    assert difference < tolerance


@pytest.mark.parametrize(
    ("sides", "enough"), [((260,), 260), ((260, 325), 325), ((325, 260), 325), ((260, None), None), ((None,), None)]
)
def test_the_largest_side_is_enough_for_all(sides: tuple[int | None, ...], enough: int | None) -> None:
    assert largest_side(*sides) == enough


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, format_name: str) -> None:
    stored = UPRIGHT if STORED[orientation] is None else UPRIGHT.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, format_name, exif=exif)
    image, info = decode(io.BytesIO(data), "test")
    assert_alike(image, UPRIGHT)
    assert info == ImageInfo(64, 48, format_name)
    assert probe(io.BytesIO(data), "test") == info


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = to_rgb(UPRIGHT.convert(mode) if mode != "LAB" else Image.new("LAB", (64, 48)))
    assert (image.mode, image.size) == ("RGB", (64, 48))
    if mode in ("RGBA", "CMYK", "RGBX", "HSV", "YCbCr"):
        assert_alike(image, UPRIGHT)


def test_transparency_is_laid_on_white_and_hides_its_colours() -> None:
    layer = UPRIGHT.convert("RGBA")
    layer.putalpha(0)
    for data in (encoded(layer, "PNG"), encoded(layer, "WEBP", lossless=True)):
        assert np.asarray(opened(data)).min() == 255
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert np.asarray(opened(encoded(palette, "PNG", transparency=3))).min() == 255
    key = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert np.asarray(opened(key)).min() == 255


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    for format_name in ("PNG", "TIFF"):
        grey = np.asarray(opened(encoded(Image.fromarray(ramp), format_name)))[0, :, 0]
        np.testing.assert_allclose(grey, np.arange(256), atol=1)


def test_float_pictures_are_brought_into_range() -> None:
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (4, 1))
    for scale in (1.0, 255.0, 4000.0):
        grey = np.asarray(opened(encoded(Image.fromarray(ramp * scale), "TIFF")))[0, :, 0]
        np.testing.assert_allclose(grey, np.arange(256), atol=1)
    holes = ramp.copy()
    holes[0, 0] = np.nan
    assert opened(encoded(Image.fromarray(holes), "TIFF")).size == (256, 4)


def test_large_jpeg_is_decoded_at_a_reduced_scale_but_its_size_is_known() -> None:
    large = UPRIGHT.resize((2048, 1536), Image.Resampling.NEAREST)
    image, info = decode(io.BytesIO(encoded(large, "JPEG", quality=90)), "test", min_side=260)
    assert (info.width, info.height) == (2048, 1536)
    assert min(image.size) >= 260
    assert image.width < 1024
    assert_alike(image.resize((64, 48), Image.Resampling.BOX), UPRIGHT)


def test_pixel_limit_names_the_option() -> None:
    data = encoded(picture(1, (100, 100)), "PNG")
    with pytest.raises(ImageTooLarge, match=r"100 × 100 pixels, over the limit of 9,999: raise it with --max-pixels"):
        opened(data, max_pixels=9_999)
    assert opened(data, max_pixels=10_000).size == (100, 100)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM"])
def test_damaged_files_are_unreadable_or_read_never_worse(format_name: str) -> None:
    whole = encoded(picture(3, (120, 90)), format_name)
    rng = np.random.default_rng(0)
    for trial in range(40):
        data = bytearray(whole)
        if trial % 2:
            del data[int(rng.integers(0, len(data))) :]
        for place in rng.integers(0, max(len(data), 1), 8):
            if data:
                data[min(place, len(data) - 1)] ^= int(rng.integers(1, 256))
        try:
            assert opened(bytes(data), max_pixels=10_000_000).mode == "RGB"
        except (UnreadableImage, ImageTooLarge) as error:
            assert str(error).startswith("test ")


def test_only_named_formats_are_opened() -> None:
    assert "EPS" not in FORMATS
    with pytest.raises(UnreadableImage, match="none of the known formats"):
        opened(encoded(UPRIGHT, "EPS"))
    with pytest.raises(UnreadableImage, match="none of the known formats"):
        opened(b"")


def test_a_failing_disk_is_not_a_broken_picture(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, os.strerror(5))

    with pytest.raises(OSError, match="Input/output"):
        decode(Failing(b"x"), "test")
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "missing.png")


def test_names_of_pictures() -> None:
    assert all(map(is_picture_name, ("a.jpg", "A.JPEG", "b.tar.png", "ü.webp", "x.AVIF")))
    assert not any(map(is_picture_name, ("jpg", ".jpg", "a.txt", "a.jpg.txt", "a.", "a")))
