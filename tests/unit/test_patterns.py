"""Patterns and the least size: what is wanted of a folder, now and at every later run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.patterns import FolderOptions, Pattern
from mmsearch.catalog.listing import listed_failures
from mmsearch.collection.collection import Collection
from mmsearch.errors import SourceError
from tests.support import ToyEncoder, age, make_folder, picture, run, uris


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.gif", "a.gif", True),
        ("*.gif", "b/c/a.gif", True),
        ("*.gif", "a.GIF", False),
        ("thumbs", "thumbs/a.png", True),
        ("thumbs", "b/thumbs/c/a.png", True),
        ("thumbs", "thumbs2/a.png", False),
        ("thumbs/", "thumbs/a.png", True),
        ("a.png/", "a.png", False),
        ("/a.png", "a.png", True),
        ("/a.png", "b/a.png", False),
        ("b/a.png", "b/a.png", True),
        ("b/a.png", "c/b/a.png", False),
        ("b/*.png", "b/c/a.png", False),
        ("b/**/a.png", "b/a.png", True),
        ("b/**/a.png", "b/c/d/a.png", True),
        ("**/c/*", "b/c/a.png", True),
        ("b/**", "b/c/a.png", True),
        ("b/**", "b", False),
        ("?.png", "ab.png", False),
        ("[ab].png", "b.png", True),
        ("[!ab].png", "b.png", False),
        ("a+(1).png", "a+(1).png", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert Pattern(pattern).matches(tuple(path.split("/")), is_folder=False) is matches


@pytest.mark.parametrize("pattern", ["", "/", "../x", "a/../b", "!a"])
def test_patterns_that_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(SourceError, match="matches nothing"):
        FolderOptions(exclude=(pattern,)).check()


def test_options_survive_being_stored() -> None:
    options = FolderOptions(("*.png",), ("raw/", "*.gif"), 64)
    assert FolderOptions.from_text(options.as_text()) == options
    assert options.as_arguments() == [
        "--include",
        "*.png",
        "--exclude",
        "raw/",
        "--exclude",
        "*.gif",
        "--min-size",
        "64",
    ]
    assert FolderOptions().as_text() == ""
    assert FolderOptions.from_text('{"later": 1}') == FolderOptions()


def test_patterns_are_kept_and_what_they_leave_out_goes(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos / "raw", 2)
    make_folder(photos / "a" / "thumbs", 2, first=10)
    make_folder(photos / "a", 3, first=20)
    assert run(place, toy, photos).added == 7
    report = run(place, toy, photos, folder=FolderOptions(exclude=("thumbs/", "/raw")))
    assert (report.deleted, report.kept) == (4, 3)
    assert set(uris(place)) == {"p0020.png", "p0021.png", "p0022.png"}
    make_folder(photos / "raw", 5)
    make_folder(photos / "b", 1, first=30)
    assert [run(place, toy).added, run(place, toy, photos).added, run(place, toy, photos / "a").added] == [1, 0, 0]
    with pytest.raises(SourceError, match=r"raw is left out of the source .*photos: index that"):
        run(place, toy, photos / "raw")
    with pytest.raises(SourceError, match="is a part of the source"):
        run(place, toy, photos / "a", folder=FolderOptions(exclude=("x",)))
    with pytest.raises(SourceError, match="name the folder as well"):
        run(place, toy, folder=FolderOptions(exclude=("x",)))
    assert run(place, toy, photos, folder=FolderOptions()).added == 7, "nothing said any more: all of it"


def test_a_part_of_a_folder_keeps_the_patterns_of_the_whole(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos / "a" / "b", 2)
    make_folder(photos / "a" / "c", 2, first=10)
    run(place, toy, photos, folder=FolderOptions(exclude=("a/b/p0001.png", "/a/c/")))
    assert set(uris(place)) == {"p0000.png"}
    make_folder(photos / "a" / "b", 3)
    assert run(place, toy, photos / "a").added == 1
    assert set(uris(place)) == {"p0000.png", "p0002.png"}


def test_include_takes_only_what_matches(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos / "a", 3)
    picture(50).save(photos / "a" / "x.jpg")
    report = run(place, toy, photos, folder=FolderOptions(include=("*.jpg", "p0001*"), exclude=("p0001.png",)))
    assert (report.added, set(uris(place))) == (1, {"x.jpg"})


def test_the_guard_holds_for_what_a_pattern_leaves_out(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos / "a", 25)
    make_folder(photos / "b", 2, first=30)
    run(place, toy, photos)
    report = run(place, toy, photos, folder=FolderOptions(exclude=("a",)))
    assert (report.held_back, report.deleted) == (25, 0)
    assert run(place, toy, allow_mass_delete=True).deleted == 25


def test_small_pictures_are_left_out_and_not_looked_at_again(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos, 2)  # 32 × 24
    picture(7, (200, 60)).save(photos / "wide.png")
    picture(8, (100, 64)).save(photos / "large.png")
    age(photos)
    report = run(place, toy, photos, folder=FolderOptions(min_size=64))
    assert (report.added, report.left_out, report.failed, toy.images) == (1, 3, [], 1)
    with Collection.open(place) as opened:
        assert opened.info().failures == 0
        assert list(listed_failures(opened.catalog)) == []
    for path in photos.glob("p*.png"):
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)  # would be a failure now, if it were opened
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    report = run(place, toy)
    assert (report.kept, report.left_out, report.failed) == (1, 3, [])
    report = run(place, toy, photos, folder=FolderOptions(min_size=50))
    assert (report.added, report.left_out, len(report.failed)) == (1, 0, 2), "other rules: all of them are looked at"
    assert set(uris(place)) == {"wide.png", "large.png"}


def test_a_larger_least_size_lets_items_go(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    photos = tmp_path / "photos"
    make_folder(photos, 2)
    picture(8, (100, 64)).save(photos / "large.png")
    age(photos)
    run(place, toy, photos)
    report = run(place, toy, photos, folder=FolderOptions(min_size=64))
    assert (report.kept, report.left_out, report.deleted) == (1, 2, 2)
    report = run(place, toy)
    assert (report.kept, report.left_out, report.deleted, toy.images) == (1, 2, 0, 3)
