"""Forgetting: pictures, folders, sources go with all that belongs to them, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmsearch.catalog.listing import counted_roots, listed_failures, listed_items
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.removal import RemovalReport, remove
from mmsearch.errors import SourceError
from mmsearch.types import Modality
from tests.support import ToyEncoder, age, make_folder, picture, run, uris


def forget(place: Path, *paths: Path, yes: bool = False) -> RemovalReport:
    with Collection.open(place) as opened:
        report = remove(opened, [str(path) for path in paths], allow_mass_delete=yes)
        assert verify(opened).problems == ()
    return report


def texts(place: Path) -> set[str]:
    with Collection.open(place) as opened:
        return {listed.item.text or "" for listed in listed_items(opened.catalog, Modality.TEXT)}


@pytest.fixture
def indexed(tmp_path: Path, place: Path, toy: ToyEncoder) -> Path:
    """Return a folder: a/ with 4 pictures (one broken, one with a caption file), ab/ with 3, and a corpus elsewhere."""
    photos = tmp_path / "photos"
    make_folder(photos / "a", 4)
    (photos / "a" / "p0001.txt").write_text("from beside")
    (photos / "a" / "broken.png").write_text("x")
    make_folder(photos / "ab", 3, first=10)
    corpus = tmp_path / "corpora" / "c.jsonl"
    corpus.parent.mkdir()
    records = [
        {"image": str(photos / "a" / "p0001.png"), "captions": ["from the corpus"]},
        {"image": str(photos / "ab" / "p0010.png"), "captions": ["of the other"]},
        {"text": "alone"},
    ]
    corpus.write_text("\n".join(json.dumps(record) for record in records))
    age(tmp_path)
    run(place, toy, photos, corpus)
    return photos


def test_a_picture_goes_with_its_captions_and_comes_back(indexed: Path, place: Path, toy: ToyEncoder) -> None:
    report = forget(place, indexed / "a" / "p0001.png")
    assert (report.items, report.failures, report.roots) == (3, 0, ())
    assert texts(place) == {"of the other", "alone"}
    assert [one.root.path for one in report.comes_back] == [str(indexed)]
    assert (indexed / "a" / "p0001.png").is_file()
    assert run(place, toy).added == 3


def test_a_folder_goes_and_its_neighbour_of_like_name_stays(indexed: Path, place: Path) -> None:
    report = forget(place, indexed / "a")
    assert (report.items, report.failures) == (6, 1)
    assert set(uris(place)) == {"p0010.png", "p0011.png", "p0012.png"}
    with Collection.open(place) as opened:
        assert opened.info().failures == 0


def test_what_is_gone_from_the_disk_does_not_come_back(indexed: Path, place: Path) -> None:
    (indexed / "a" / "p0001.png").unlink()
    assert forget(place, indexed / "a" / "p0001.png").comes_back == ()


def test_a_source_goes_and_a_corpus_leaves_pictures_to_their_folder(
    indexed: Path, place: Path, toy: ToyEncoder
) -> None:
    corpus = indexed.parent / "corpora" / "c.jsonl"
    report = forget(place, corpus)
    assert (report.items, report.roots, report.comes_back) == (3, (str(corpus),), ())
    assert texts(place) == {"from beside"}
    assert len(uris(place)) == 7
    with Collection.open(place) as opened:
        assert [(root.path, items) for root, items in counted_roots(opened.catalog)] == [(str(indexed), 8)]
    images = toy.images
    assert (run(place, toy).kept, toy.images) == (8, images)
    report = forget(place, indexed)
    assert (report.items, report.failures, report.roots) == (8, 1, (str(indexed),))
    with Collection.open(place) as opened:
        assert opened.catalog.roots() == ()
        assert list(listed_failures(opened.catalog)) == []


def test_pictures_that_only_a_corpus_held_go_with_it(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 2)
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(json.dumps({"image": "photos/p0000.png", "captions": ["one"]}))
    run(place, toy, corpus)
    assert forget(place, corpus).items == 2
    assert uris(place) == {}


def test_a_new_source_does_not_inherit_what_was_held_back(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    paths = make_folder(tmp_path / "photos", 30)
    run(place, toy, tmp_path / "photos")
    for path in paths[1:]:
        path.unlink()
    assert run(place, toy).held_back == 29
    forget(place, tmp_path / "photos", yes=True)
    make_folder(tmp_path / "other", 50, first=100)
    run(place, toy, tmp_path / "other")
    with Collection.open(place) as opened:
        (root,) = opened.catalog.roots()
        assert opened.catalog.held_before(root.id) is None


def test_more_than_half_waits(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos" / "a", 22)
    make_folder(tmp_path / "photos" / "b", 21, first=50)
    run(place, toy, tmp_path / "photos")
    assert forget(place, tmp_path / "photos" / "b").items == 21, "21 of 43 are not more than half"
    report = forget(place, tmp_path / "photos" / "a")
    assert (report.held_back, report.items, len(uris(place))) == (22, 0, 22)
    assert forget(place, tmp_path / "photos" / "a", yes=True).items == 22


def test_a_path_that_is_unknown_is_one_sentence_and_nothing_goes(indexed: Path, place: Path) -> None:
    with pytest.raises(SourceError, match=r"Nothing at .*nowhere is in the collection: 'mmsearch list'"):
        forget(place, indexed / "a", indexed / "nowhere")
    assert len(uris(place)) == 7


def test_a_copy_keeps_the_vector(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 2)
    picture(0).save(tmp_path / "photos" / "copy.png")
    run(place, toy, tmp_path / "photos")
    forget(place, tmp_path / "photos" / "p0000.png")
    with Collection.open(place) as opened:
        image = opened.info().modalities[Modality.IMAGE]
        assert (image.items, image.vectors, image.dead) == (2, 2, 0)


def test_lists_are_in_order_and_whole_over_many_pages(
    tmp_path: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.catalog.listing._PAGE", 3)
    make_folder(tmp_path / "photos" / "a", 6)
    make_folder(tmp_path / "photos" / "a b", 4, first=10)
    make_folder(tmp_path / "photos" / "a" / "c", 2, first=20)
    run(place, toy, tmp_path / "photos")
    with Collection.open(place) as opened:
        everything = [one.item.uri for one in listed_items(opened.catalog, Modality.IMAGE)]
        below = [one.item.uri for one in listed_items(opened.catalog, Modality.IMAGE, under=str(tmp_path / "photos/a"))]
    assert (len(everything), everything) == (12, sorted(everything))
    assert below == [uri for uri in everything if uri.startswith(f"{tmp_path}/photos/a/")]
    assert len(below) == 8


# --- neighbours whose names begin alike -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photos", "photos.old", "photos.jpg", "photos.txt"])
def test_a_neighbour_with_a_hash_in_its_name_stays(tmp_path: Path, place: Path, toy: ToyEncoder, name: str) -> None:
    make_folder(tmp_path / name, 2)
    make_folder(tmp_path / f"{name}#2", 3, first=10)
    (tmp_path / f"{name}#2" / "broken.png").write_text("x")
    run(place, toy, tmp_path / name, tmp_path / f"{name}#2")
    with Collection.open(place) as opened:
        listed = [one.item.uri for one in listed_items(opened.catalog, Modality.IMAGE, under=str(tmp_path / name))]
        assert len(listed) == 2
        assert list(listed_failures(opened.catalog, under=str(tmp_path / name))) == []
    report = forget(place, tmp_path / name)
    assert (report.items, report.failures, report.roots) == (2, 0, (str(tmp_path / name),))
    assert set(uris(place)) == {"p0010.png", "p0011.png", "p0012.png"}
    assert run(place, toy).added == 0


def test_a_folder_of_a_source_goes_and_its_neighbour_with_a_hash_stays(
    tmp_path: Path, place: Path, toy: ToyEncoder
) -> None:
    make_folder(tmp_path / "all" / "a.jpg", 2)
    make_folder(tmp_path / "all" / "a.jpg#2", 3, first=10)
    run(place, toy, tmp_path / "all")
    assert forget(place, tmp_path / "all" / "a.jpg").items == 2


def test_parts_of_files_go_with_them(indexed: Path, place: Path) -> None:
    assert forget(place, indexed / "a" / "p0001.txt").items == 1
    assert texts(place) == {"from the corpus", "of the other", "alone"}
    assert forget(place, Path(f"{indexed.parent}/corpora/c.jsonl#alone")).items == 1
    assert texts(place) == {"from the corpus", "of the other"}


def test_a_neighbour_with_a_colon_keeps_its_failures(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    for name in ("u", "u:old", "u:2"):
        make_folder(tmp_path / name, 1, first=len(name))
        (tmp_path / name / "bad.png").write_text("x")
    run(place, toy, *(tmp_path / name for name in ("u", "u:old", "u:2")))
    assert forget(place, tmp_path / "u").failures == 1
    with Collection.open(place) as opened:
        left = [failure.key for failure in listed_failures(opened.catalog)]
    assert left == [f"{tmp_path}/u:2/bad.png", f"{tmp_path}/u:old/bad.png"]


def test_failures_of_the_lines_of_a_corpus_are_listed_with_it(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"text": "alone"}\nnonsense\n{"image": "none.png"}')
    make_folder(tmp_path / "c.jsonl:old", 1)
    (tmp_path / "c.jsonl:old" / "bad.png").write_text("x")
    run(place, toy, corpus, tmp_path / "c.jsonl:old")
    with Collection.open(place) as opened:
        listed = [failure.key for failure in listed_failures(opened.catalog, under=str(corpus))]
    assert listed == [f"{corpus}:2"]
    assert forget(place, corpus).failures >= 1
    with Collection.open(place) as opened:
        assert f"{tmp_path}/c.jsonl:old/bad.png" in [one.key for one in listed_failures(opened.catalog)]
