"""What the extras bring: raw files of cameras, HEIC; and what is said without them."""

from __future__ import annotations

import builtins
import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.patterns import FolderOptions
from indexer.sources.folder import FolderSource
from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.images import decode, is_picture_name
from mmsearch.types import Encoder, Modality, SourceEntry
from tests.made_files import dng
from tests.photograph import (
    ALIKE,
    LARGE,
    PHOTO,
    UNLIKE,
    Cosine,
    Turn,
    heic,
    opened,
)


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

    def refuse(wanted: str, *args: Any, **options: Any) -> object:
        if wanted == module:
            raise ImportError(wanted)
        return original(wanted, *args, **options)

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
