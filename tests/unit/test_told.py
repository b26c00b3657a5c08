"""Captions in the metadata of picture files become items, and follow what becomes of their pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from indexer import index
from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.types import Modality
from tests.support import ToyEncoder, picture

_DESCRIPTION, _XP_TITLE = 0x010E, 0x9C9B


def save(path: Path, number: int, description: str | None = None, title: str | None = None) -> None:
    """Write a picture that tells of itself."""
    exif = Image.Exif()
    if description is not None:
        exif[_DESCRIPTION] = description
    if title is not None:
        exif[_XP_TITLE] = title.encode("utf-16-le")
    picture(number).save(path, exif=exif)
    os.utime(path, (1000 + number, 1000 + number))


def captions(place: Path) -> dict[str, tuple[str, ...]]:
    """Return the captions of each picture by its file name."""
    with SearchEngine(Collection.open(place), ToyEncoder()) as engine:
        hits = engine.search(image=picture(0), k=10)
        return {Path(hit.item.uri).name: hit.item.captions for hit in hits}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    made.mkdir()
    save(made / "a.jpg", 1, "a dog in the snow", "Winter")
    save(made / "b.jpg", 2)
    return made


def test_they_are_found_and_kept(folder: Path, place: Path) -> None:
    first = index([folder], collection=place, encoder=ToyEncoder())
    assert (first.added, first.failed) == (4, [])
    assert captions(place) == {"a.jpg": ("a dog in the snow", "Winter"), "b.jpg": ()}
    with SearchEngine(Collection.open(place), ToyEncoder()) as engine:
        hit = engine.search("a dog in the snow", target="text", k=1)[0]
        assert (hit.item.uri, hit.item.modality) == (str(folder / "a.jpg"), Modality.TEXT)
    again = index([folder], collection=place, encoder=ToyEncoder())
    assert (again.added, again.changed, again.deleted, again.kept) == (0, 0, 0, 2)
    assert captions(place)["a.jpg"] == ("a dog in the snow", "Winter")


def test_a_changed_picture_changes_them(folder: Path, place: Path) -> None:
    index([folder], collection=place, encoder=ToyEncoder())
    save(folder / "a.jpg", 3, "a cat")
    save(folder / "b.jpg", 4, "a bird", "Birds")
    index([folder], collection=place, encoder=ToyEncoder())
    assert captions(place) == {"a.jpg": ("a cat",), "b.jpg": ("a bird", "Birds")}


def test_they_move_and_go_with_their_picture(folder: Path, place: Path) -> None:
    index([folder], collection=place, encoder=ToyEncoder())
    (folder / "a.jpg").rename(folder / "c.jpg")
    moved = index([folder], collection=place, encoder=ToyEncoder())
    assert (moved.moved, moved.embedded[Modality.IMAGE], moved.embedded[Modality.TEXT]) == (1, 0, 0)
    assert captions(place) == {"b.jpg": (), "c.jpg": ("a dog in the snow", "Winter")}
    (folder / "c.jpg").unlink()
    gone = index([folder], collection=place, encoder=ToyEncoder())
    assert gone.deleted == 3
    assert captions(place) == {"b.jpg": ()}
    with Collection.open(place) as collection:
        assert collection.info().modalities[Modality.TEXT].items == 0


def test_a_folder_that_cannot_be_looked_at_keeps_them(folder: Path, place: Path) -> None:
    index([folder], collection=place, encoder=ToyEncoder())
    folder.rename(folder.with_name("away"))
    again = index([], collection=place, encoder=ToyEncoder())
    assert (again.missing_sources, again.deleted) == ([str(folder)], 0)
    assert captions(place)["a.jpg"] == ("a dog in the snow", "Winter")
