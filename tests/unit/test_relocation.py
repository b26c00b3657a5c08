"""Relocation: after a move on the disk everything is unchanged, and nothing is embedded again."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from indexer.patterns import FolderOptions
from mmsearch.catalog.listing import listed_failures
from mmsearch.catalog.places import relocated
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.collection.relocation import RelocationReport, rebased, relocate
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import CollectionError, SourceError
from tests.support import ToyEncoder, age, make_folder, picture, run, uris


def move(place: Path, old: Path, new: Path, **options: bool) -> RelocationReport:
    with Collection.open(place) as opened:
        report = relocate(opened, str(old), str(new), **options)
        assert verify(opened).problems == ()
    return report


def roots(place: Path) -> list[str]:
    with Collection.open(place) as opened:
        return [root.path for root in opened.catalog.roots()]


def unchanged(place: Path, toy: ToyEncoder, items: int) -> None:
    """Check that a run finds all items where they are and embeds nothing."""
    before = (toy.images, toy.texts)
    report = run(place, toy)
    assert (report.kept, report.added, report.changed, report.moved, report.deleted) == (items, 0, 0, 0, 0)
    assert (toy.images, toy.texts) == before
    assert report.missing_sources == []


@pytest.fixture
def disk(tmp_path: Path, place: Path, toy: ToyEncoder) -> Path:
    """Return an indexed disk: a folder with captions and a broken file, three corpora, an archive."""
    disk = tmp_path / "disk"
    make_folder(disk / "photos", 4)
    (disk / "photos" / "p0001.txt").write_text("from beside")
    (disk / "photos" / "broken.png").write_text("x")
    (disk / "c.jsonl").write_text(
        json.dumps({"image": "photos/p0002.png", "captions": ["of a path"]})
        + "\n"
        + json.dumps({"id": "named", "image": "photos/p0003.png", "captions": ["of an id"]})
        + '\n{"text": "alone"}\nnonsense'
    )
    make_folder(tmp_path / "shard", 1, first=40)
    (tmp_path / "shard" / "p0040.txt").write_text("in the archive")
    with tarfile.open(disk / "s.tar", "w") as archive:
        for name in ("p0040.png", "p0040.txt"):
            archive.add(tmp_path / "shard" / name, name)
    (tmp_path / "far.jsonl").write_text(json.dumps({"image": "p0000.png", "captions": ["from afar"]}))
    age(disk)
    run(place, toy, disk / "photos", disk / "c.jsonl", disk / "s.tar")
    run(place, toy, tmp_path / "far.jsonl", corpus=CorpusOptions(images=str(disk / "photos")))
    return disk


def test_a_moved_disk_is_found_unchanged(disk: Path, place: Path, toy: ToyEncoder, tmp_path: Path) -> None:
    ids = uris(place)
    (tmp_path / "new").mkdir()
    shutil.move(disk, tmp_path / "new" / "disk")
    report = move(place, disk, tmp_path / "new" / "disk")
    moved = {str(tmp_path / "new" / "disk" / name) for name in ("c.jsonl", "photos", "s.tar")}
    assert set(report.roots) == {str(tmp_path / "far.jsonl"), *moved}
    assert report.failures == 2
    assert report.items == 5 + 6  # each once, also captions named by a corpus and by a picture
    unchanged(place, toy, 5 + 6)
    assert uris(place) == ids
    with Collection.open(place) as opened:
        assert opened.info().failures == 2
        assert not [
            item.key
            for root in opened.catalog.roots()
            for item in opened.catalog.known_items(root.id)
            if str(disk) + "/" in item.key + item.group
        ]
    move(place, tmp_path / "new" / "disk", disk, missing_ok=True)
    shutil.move(tmp_path / "new" / "disk", disk)
    unchanged(place, toy, 5 + 6)


def test_one_place_may_lie_below_the_other(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    """…/p0000.png and …/a/p0000.png are there before; …/a/p0000.png and …/a/a/p0000.png after."""
    photos = tmp_path / "photos"
    make_folder(photos, 2)
    make_folder(photos / "a", 2, first=10)
    for number, path in enumerate(make_folder(photos / "a", 2)):
        picture(20 + number).save(path)
    age(photos)
    run(place, toy, photos)
    photos.rename(tmp_path / "moving")
    photos.mkdir()
    (tmp_path / "moving").rename(photos / "a")
    move(place, photos, photos / "a")
    unchanged(place, toy, 6)
    assert roots(place) == [str(photos / "a")]
    (photos / "a").rename(tmp_path / "moving")
    photos.rmdir()
    (tmp_path / "moving").rename(photos)
    move(place, photos / "a", photos)
    unchanged(place, toy, 6)


def test_a_folder_that_leaves_its_source_becomes_one(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos" / "a", 3)
    make_folder(tmp_path / "photos" / "b", 2, first=10)
    age(tmp_path)
    run(place, toy, tmp_path / "photos")
    (tmp_path / "photos" / "a").rename(tmp_path / "elsewhere")
    move(place, tmp_path / "photos" / "a", tmp_path / "elsewhere")
    assert roots(place) == [str(tmp_path / "elsewhere"), str(tmp_path / "photos")]
    unchanged(place, toy, 5)


def test_a_source_that_moves_into_another_is_a_part_of_it(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 3)
    make_folder(tmp_path / "camera", 2, first=10)
    age(tmp_path)
    run(place, toy, tmp_path / "photos", tmp_path / "camera")
    (tmp_path / "camera").rename(tmp_path / "photos" / "camera")
    move(place, tmp_path / "camera", tmp_path / "photos" / "camera")
    assert roots(place) == [str(tmp_path / "photos")]
    unchanged(place, toy, 5)


def test_two_folders_may_become_one_unless_names_are_taken(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "a", 3)
    make_folder(tmp_path / "b", 2, first=10)
    make_folder(tmp_path / "third", 2, first=1)
    age(tmp_path)
    run(place, toy, tmp_path / "a", tmp_path / "b", tmp_path / "third")
    before = uris(place)
    with pytest.raises(CollectionError, match="already holds something of the same name below"):
        move(place, tmp_path / "third", tmp_path / "a")
    assert (uris(place), len(roots(place))) == (before, 3)
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / path.name)
    move(place, tmp_path / "b", tmp_path / "a")
    (tmp_path / "b").rmdir()
    assert roots(place) == [str(tmp_path / "a"), str(tmp_path / "third")]
    unchanged(place, toy, 7)


def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 1)
    run(place, toy, tmp_path / "photos")
    with pytest.raises(SourceError, match="is not there: move the files first"):
        move(place, tmp_path / "photos", tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"Nothing at .*unknown is in the collection"):
        move(place, tmp_path / "unknown", tmp_path)
    with pytest.raises(SourceError, match="is the old place and the new one"):
        move(place, tmp_path / "photos", tmp_path / "photos" / ".")
    assert move(place, tmp_path / "photos", tmp_path / "later", missing_ok=True).items == 1


def test_corpora_and_archives_may_be_renamed(disk: Path, place: Path, toy: ToyEncoder) -> None:
    for old, new in (("s.tar", "shard-0.tar"), ("c.jsonl", "captions.jsonl")):
        (disk / old).rename(disk / new)
        move(place, disk / old, disk / new)
    unchanged(place, toy, 5 + 6)


def test_a_file_may_be_renamed(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    (path,) = make_folder(tmp_path / "photos", 1)
    age(tmp_path)
    run(place, toy, tmp_path / "photos")
    path.rename(path.with_name("new.png"))
    move(place, path, path.with_name("new.png"))
    unchanged(place, toy, 1)


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("/a", "/b/c"),
        ("/a/x", "/b/c/x"),
        ("/a#m", "/a#m"),
        ("/ab", "/ab"),
        ("/x/a", "/x/a"),
    ],
)
def test_relocated(path: str, result: str) -> None:
    assert relocated(path, "/a", "/b/c") == result
    assert relocated(result, "/b/c/", "/a") == path


# --- neighbours whose names begin alike -----------------------------------------------------------------------------


def test_a_neighbour_with_a_hash_in_its_name_keeps_its_own(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos", 2)
    make_folder(tmp_path / "photos#2", 3, first=10)
    age(tmp_path)
    run(place, toy, tmp_path / "photos", tmp_path / "photos#2")
    (tmp_path / "photos").rename(tmp_path / "pics")
    report = move(place, tmp_path / "photos", tmp_path / "pics")
    assert (report.items, report.roots) == (2, (str(tmp_path / "pics"),))
    assert roots(place) == [str(tmp_path / "photos#2"), str(tmp_path / "pics")]
    unchanged(place, toy, 5)


def test_a_neighbour_with_a_colon_keeps_its_failures(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    for name in ("u", "u:2"):
        make_folder(tmp_path / name, 1, first=len(name))
        (tmp_path / name / "bad.png").write_text("x")
    run(place, toy, tmp_path / "u", tmp_path / "u:2")
    report = move(place, tmp_path / "u", tmp_path / "v", missing_ok=True)
    assert report.failures == 1
    with Collection.open(place) as opened:
        assert [one.key for one in listed_failures(opened.catalog)] == [
            f"{tmp_path}/u:2/bad.png",
            f"{tmp_path}/v/bad.png",
        ]


# --- what is left out, and what is wanted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "exclude", "kept_include", "kept_exclude", "dropped"),
    [
        (("/hol/*.png",), (), ("/*.png",), (), ()),
        (("hol/sub/*.png", "*.jpg"), (), ("/sub/*.png", "*.jpg"), (), ()),
        (("hol",), (), (), (), ()),
        (("/hol/",), ("*.gif", "hol/raw/"), (), ("*.gif", "/raw/"), ()),
        ((), ("/scans/raw", "thumbs/"), (), ("thumbs/",), ("/scans/raw",)),
        (("/h*/**/a.png",), (), ("/**/a.png",), (), ()),
        (("**/hol/a.png",), (), ("**/hol/a.png", "/a.png"), (), ()),
        (("/other/*.png", "*.png"), (), ("*.png",), (), ("/other/*.png",)),
    ],
)
def test_patterns_are_told_from_the_new_source_on(
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    kept_include: tuple[str, ...],
    kept_exclude: tuple[str, ...],
    dropped: tuple[str, ...],
) -> None:
    text = FolderOptions(include, exclude, 7).as_text()
    options, left = rebased(text, ("hol",))
    assert FolderOptions.from_text(options) == FolderOptions(kept_include, kept_exclude, 7)
    assert left == dropped


def test_a_folder_that_leaves_its_source_takes_its_patterns_along(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "photos" / "hol", 3)
    make_folder(tmp_path / "photos" / "b", 2, first=10)
    age(tmp_path)
    rules = FolderOptions(include=("/hol/*.png", "b"), exclude=("/b/x.png",))
    run(place, toy, tmp_path / "photos", folder=rules)
    (tmp_path / "photos" / "hol").rename(tmp_path / "hol2")
    report = move(place, tmp_path / "photos" / "hol", tmp_path / "hol2")
    assert report.roots == (str(tmp_path / "hol2"),)
    assert report.notes == (f"'/b/x.png' means nothing in the new source {tmp_path / 'hol2'} and was left behind",)
    unchanged(place, toy, 5)


def test_a_folder_that_is_renamed_in_its_source_keeps_its_patterns(
    tmp_path: Path, place: Path, toy: ToyEncoder
) -> None:
    make_folder(tmp_path / "photos" / "hol", 3)
    age(tmp_path)
    run(place, toy, tmp_path / "photos", folder=FolderOptions(include=("/hol/*.png",)))
    (tmp_path / "photos" / "hol").rename(tmp_path / "photos" / "hol[2]")
    report = move(place, tmp_path / "photos" / "hol", tmp_path / "photos" / "hol[2]")
    assert report.roots == (str(tmp_path / "photos"),)
    unchanged(place, toy, 3)
