"""Pictures with a colour profile come out in sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mmsearch.images import to_rgb
from mmsearch.types import Encoder
from tests.made_files import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, grey_profile, linear, rgb_profile
from tests.photograph import (
    ALIKE,
    PHOTO,
    UNLIKE,
    Cosine,
    heic,
    opened,
)
from tests.support import encoded

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
