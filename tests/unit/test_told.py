"""Captions in the metadata of picture files become items, and follow what becomes of their pictures."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
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


_TOLD = "taken_ns, title, description, width, height, format"


def forget_told(place: Path) -> None:
    """Make a collection like one whose pictures were indexed before it was kept what they tell."""
    with closing(sqlite3.connect(place / "catalog.sqlite3")) as catalog, catalog:
        catalog.execute("DELETE FROM items WHERE modality = 'text'")
        catalog.execute("INSERT INTO dead_vectors SELECT modality, id FROM vectors WHERE modality = 'text'")
        catalog.execute("DELETE FROM vectors WHERE modality = 'text'")
        catalog.execute(
            "UPDATE items SET taken_ns = mtime_ns, title = NULL, description = NULL, width = NULL, height = NULL,"
            " format = NULL"
        )


def told(place: Path) -> dict[str, tuple[object, ...]]:
    """Return what is stored of each picture by its file name."""
    with closing(sqlite3.connect(place / "catalog.sqlite3")) as catalog:
        rows = catalog.execute(f"SELECT uri, {_TOLD} FROM items WHERE modality = 'image'").fetchall()
    return {Path(uri).name: tuple(values) for uri, *values in rows}


def test_a_collection_of_before_is_filled_with_rehash(folder: Path, place: Path) -> None:
    index([folder], collection=place, encoder=ToyEncoder())
    before = told(place)
    forget_told(place)
    assert index([folder], collection=place, encoder=ToyEncoder()).added == 0
    assert told(place) != before
    report = index([folder], collection=place, encoder=ToyEncoder(), rehash=True)
    assert (report.kept, report.added, report.changed, report.embedded[Modality.IMAGE]) == (2, 2, 0, 0)
    assert told(place) == before
    assert captions(place) == {"a.jpg": ("a dog in the snow", "Winter"), "b.jpg": ()}
    commit = report.commit
    report = index([folder], collection=place, encoder=ToyEncoder(), rehash=True)
    assert (report.kept, report.added, report.commit) == (2, 0, commit), "a second time there is nothing to do"


def test_what_is_learnt_of_a_picture_is_a_commit_of_its_own(folder: Path, place: Path) -> None:
    (folder / "a.jpg").unlink()
    commit = index([folder], collection=place, encoder=ToyEncoder()).commit
    forget_told(place)
    report = index([folder], collection=place, encoder=ToyEncoder(), rehash=True)
    assert (report.kept, report.commit) == (1, commit + 1), "whoever reads the collection takes it for a new one"


def test_a_picture_that_moves_is_filled_as_well(folder: Path, place: Path) -> None:
    index([folder], collection=place, encoder=ToyEncoder())
    before = told(place)
    forget_told(place)
    (folder / "a.jpg").rename(folder / "c.jpg")
    assert index([folder], collection=place, encoder=ToyEncoder()).moved == 1
    assert told(place)["c.jpg"] == before["a.jpg"]
    assert captions(place) == {"b.jpg": (), "c.jpg": ("a dog in the snow", "Winter")}


def test_the_time_of_a_file_that_tells_none_follows_it(folder: Path, place: Path) -> None:
    index([folder], collection=place, encoder=ToyEncoder())
    os.utime(folder / "b.jpg", (5000, 5000))
    assert index([folder], collection=place, encoder=ToyEncoder()).kept == 2
    assert told(place)["b.jpg"][0] == 5000 * 10**9
    (folder / "b.jpg").rename(folder / "d.jpg")
    os.utime(folder / "d.jpg", (6000, 6000))
    assert index([folder], collection=place, encoder=ToyEncoder()).moved == 1
    assert told(place)["d.jpg"][0] == 6000 * 10**9


def test_they_move_to_another_source(folder: Path, tmp_path: Path, place: Path) -> None:
    for other in (tmp_path / "early", tmp_path / "zebra"):
        other.mkdir()
        places = sorted([folder, other])
        index(places, collection=place, encoder=ToyEncoder())
        (folder / "a.jpg").rename(other / "a.jpg")
        report = index(places, collection=place, encoder=ToyEncoder())
        assert (report.moved, sum(report.embedded.values()), report.deleted) == (1, 0, 2)
        assert captions(place) == {"a.jpg": ("a dog in the snow", "Winter"), "b.jpg": ()}
        (other / "a.jpg").rename(folder / "a.jpg")
        report = index(places, collection=place, encoder=ToyEncoder())
        assert (report.moved, sum(report.embedded.values()), report.deleted) == (1, 0, 2)
