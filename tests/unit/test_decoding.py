"""Decoding happens in other processes: what a hostile file does there ends nothing here."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from indexer import index
from mmsearch.decoding.decoder import Decoder
from mmsearch.errors import ImageTooLarge, UnreadableImage
from mmsearch.images import open_image
from tests.hostile import CRASHES, HANGS, FragileEncoder
from tests.support import ToyEncoder, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(6):
        picture(number, (40, 30)).save(place / f"good-{number}.png")
    return place


def test_a_picture_comes_back_as_it_is_prepared_here(folder: Path) -> None:
    toy = ToyEncoder()
    path = folder / "good-1.png"
    for encoder in (toy, FragileEncoder()):  # prepared here, and there
        decoder = Decoder(encoder)
        made = decoder.decode(str(path))
        decoder.close()
        assert np.array_equal(made.pixels, toy.prepare_image(open_image(path)))
        assert (made.info.width, made.info.height, made.info.format) == (40, 30, "PNG")
        assert made.decoding > 0


def test_errors_come_back_as_what_they_are(folder: Path, tmp_path: Path) -> None:
    decoder = Decoder(ToyEncoder(), max_pixels=1000)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UnreadableImage, match=r"text\.png cannot be read as a picture: it is in none"):
        decoder.decode(str(tmp_path / "text.png"))
    with pytest.raises(ImageTooLarge, match="40 × 30 pixels"):
        decoder.decode(str(folder / "good-1.png"))
    with pytest.raises(FileNotFoundError):
        decoder.decode(str(tmp_path / "none.png"))
    picture(3, (20, 20)).save(tmp_path / "small \udcff.png")  # not UTF-8
    assert decoder.decode(str(tmp_path / "small \udcff.png")).info.width == 20
    decoder.close()


def test_a_crash_and_a_hang_name_their_file_and_the_next_is_decoded(folder: Path) -> None:
    picture(1, CRASHES).save(folder / "crash.png")
    picture(1, HANGS).save(folder / "hang.png")
    decoder = Decoder(FragileEncoder(), cpu_seconds=0.5)
    with pytest.raises(UnreadableImage, match=r"crash\.png .* crashes its decoder \(status -11\)"):
        decoder.decode(str(folder / "crash.png"))
    assert decoder.decode(str(folder / "good-1.png")).info.width == 40
    started = time.monotonic()
    with pytest.raises(UnreadableImage, match=r"hang\.png .* took too long"):
        decoder.decode(str(folder / "hang.png"))
    assert time.monotonic() - started < 60
    assert decoder.decode(str(folder / "good-2.png")).info.width == 40
    decoder.close()


def test_a_run_goes_on_after_a_crash_and_does_not_try_again(folder: Path, place: Path) -> None:
    for number in range(3):
        picture(number, CRASHES).save(folder / f"crash-{number}.png")
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    report = index([folder], collection=place, encoder=FragileEncoder())
    assert (report.added, len(report.failed)) == (6, 3)
    assert all("crashes its decoder" in failure.reason for failure in report.failed)
    again = index([folder], collection=place, encoder=FragileEncoder())
    assert (again.kept, again.skipped, again.failed) == (6, 3, [])


def test_a_class_that_cannot_be_imported_there_prepares_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    from tests import hostile

    module = types.ModuleType("no_such_module")
    setattr(module, "_Hidden", hostile.Hidden)  # noqa: B010 - a made-up module has no such attribute
    monkeypatch.setitem(sys.modules, "no_such_module", module)  # it is known here alone
    decoder = Decoder(hostile.UnsendableEncoder())
    made = decoder.decode(str(folder / "good-3.png"))
    decoder.close()
    assert np.array_equal(made.pixels, ToyEncoder().prepare_image(open_image(folder / "good-3.png")))


def test_the_process_ends_with_its_owner(folder: Path) -> None:
    decoder = Decoder(ToyEncoder())
    decoder.decode(str(folder / "good-1.png"))
    process = decoder._process
    assert process is not None
    assert process.poll() is None
    decoder.close()
    assert process.returncode == 0
