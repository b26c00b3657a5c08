"""Twelve pictures, four of them with captions, and a collection of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmsearch.decoding.decoder import DirectDecoder
from tests.moving import SmallBatches
from tests.support import ToyEncoder, age, make_folder, run


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode in this process: starting others takes most of the time of these tests."""
    monkeypatch.setattr("indexer.load.make_decoder", DirectDecoder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of twelve pictures, of which four have captions, some of them the same."""
    folder = tmp_path / "photos"
    make_folder(folder, 12)
    for number in range(4):
        (folder / f"p{number:04d}.txt").write_text(f"picture number {number}\nsomething red\n")
    age(folder)
    return folder


@pytest.fixture
def indexed(photos: Path, place: Path) -> Path:
    """Return a collection of them, made with the toy encoder."""
    run(place, ToyEncoder(), photos)
    return place


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ToyEncoder]:
    """Return a maker of new encoders that are handed little at a time, whose rows are written soon."""
    monkeypatch.setattr("indexer.renewal.BATCH_ROWS", 2)
    monkeypatch.setattr("indexer.load.LOOK_AHEAD", 1)
    return lambda uri: SmallBatches(uri, side=6)
