"""A collection moves to another encoder while files have changed, are gone, or cannot be read."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.types import Float32, Modality, UInt8
from tests.moving import items, move, new_toy
from tests.support import ToyEncoder, age, encoded, make_folder, picture, run, uris

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def test_copies_share_the_vector_of_any_of_them(indexed: Path, photos: Path) -> None:
    shutil.copy2(photos / "p0003.png", photos / "copy.png")
    shutil.copy2(photos / "p0003.png", photos / "a copy.png")
    run(indexed, ToyEncoder(), photos)
    (photos / "p0003.png").unlink()
    picture(800).save(photos / "a copy.png")
    encoder, before = new_toy(), items(indexed)
    report = move(indexed, encoder)
    assert (report.switched, report.failed, report.deleted, encoder.images) == (True, [], 0, 12)
    assert items(indexed) == before
    with SearchEngine(Collection.open(indexed), new_toy()) as engine:
        hits = [hit for hit in engine.search(image=picture(3), k=15) if hit.similarity > 0.999]
    assert {Path(hit.item.uri).name for hit in hits} == {"p0003.png", "copy.png", "a copy.png"}
    report_after = run(indexed, new_toy(), photos)
    assert (report_after.deleted, report_after.changed, report_after.embedded[IMAGE]) == (3, 1, 1)


def test_single_files_that_are_gone_or_damaged_go_in_the_same_commit(indexed: Path, photos: Path) -> None:
    (photos / "p0008.png").unlink()
    (photos / "p0009.png").write_bytes((photos / "p0009.png").read_bytes()[:60])
    age(photos)
    report = move(indexed)
    assert (report.switched, report.deleted, report.away) == (True, 2, {})
    assert [Path(failure.key).name for failure in report.failed] == ["p0008.png", "p0009.png"]
    assert set(uris(indexed)) == {f"p{number:04d}.png" for number in range(12) if number not in (8, 9)}
    after = run(indexed, new_toy(), photos)
    assert (after.skipped, after.added, after.deleted, after.failed) == (1, 0, 0, [])


def assert_found(place: Path, expected: dict[int, set[str]]) -> None:
    """Each picture, by its seed, finds exactly the files with these names as its likes."""
    with SearchEngine(Collection.open(place), new_toy()) as engine:
        for number, names in expected.items():
            hits = [hit for hit in engine.search(image=picture(number), k=20) if hit.similarity > 0.999]
            assert {Path(hit.item.uri).name for hit in hits} == names


def write_long_ago(path: Path, number: int) -> None:
    """Write a picture over another, with stamps of its own that are not of today."""
    picture(number).save(path)
    os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))


def test_a_changed_file_is_embedded_as_it_is_now(indexed: Path, photos: Path) -> None:
    write_long_ago(photos / "p0002.png", 900)
    before = uris(indexed)
    assert move(indexed).switched
    assert uris(indexed) == before
    assert_found(indexed, {900: {"p0002.png"}, 2: set()})
    write_long_ago(photos / "a what it was.png", 2)  # whoever has that content now must not get the vector of another
    after = run(indexed, new_toy(), photos)
    assert (after.added, after.embedded[IMAGE]) == (1, 1), "the changed file is looked at again, not embedded again"
    assert_found(indexed, {900: {"p0002.png"}, 2: {"a what it was.png"}})
    again = run(indexed, new_toy(), photos)
    assert (again.kept, sum(again.embedded.values())) == (21, 0)


def test_files_that_changed_places_and_files_that_became_one(indexed: Path, photos: Path) -> None:
    for name, number in (("p0004.png", 5), ("p0005.png", 4), ("p0006.png", 7)):
        write_long_ago(photos / name, number)
    before = uris(indexed)
    assert move(indexed).switched
    assert uris(indexed) == before
    expected = {4: {"p0005.png"}, 5: {"p0004.png"}, 6: set(), 7: {"p0006.png", "p0007.png"}}
    assert_found(indexed, expected)
    assert run(indexed, new_toy(), photos).embedded == {IMAGE: 0, TEXT: 0}
    assert_found(indexed, expected)


def test_copies_that_changed_in_two_ways_get_their_own_vectors_at_the_next_scan(indexed: Path, photos: Path) -> None:
    """Also one whose size and time tell nothing of it."""
    shutil.copy2(photos / "p0003.png", photos / "copy.png")
    run(indexed, ToyEncoder(), photos)
    size = (photos / "copy.png").stat().st_size
    fitting = (number for number in range(30, 500) if len(encoded(picture(number), "PNG")) <= size)
    first, second = next(fitting), next(fitting)
    for name, number in (("copy.png", first), ("p0003.png", second)):
        stat = (photos / name).stat()
        (photos / name).write_bytes(encoded(picture(number), "PNG").ljust(size, b"\0"))
        os.utime(photos / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert move(indexed).switched
    assert run(indexed, new_toy(), photos).embedded[IMAGE] == 1
    assert_found(indexed, {first: {"copy.png"}, second: {"p0003.png"}, 3: set()})


def test_a_copy_that_is_away_is_not_given_the_vector_of_one_that_changed(tmp_path: Path, place: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    make_folder(here, 1)
    make_folder(there, 1)
    age(tmp_path)
    run(place, ToyEncoder(), here, there)
    picture(50).save(here / "p0000.png")
    there.rename(tmp_path / "unmounted")
    report = move(place)
    assert (report.switched, report.away) == (False, {str(there): 1})
    (tmp_path / "unmounted").rename(there)
    assert move(place).switched
    with SearchEngine(Collection.open(place), new_toy()) as engine:
        assert engine.search(image=picture(0), k=1)[0].similarity > 0.999


def test_an_unmounted_source_is_waited_for(indexed: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "disk"
    make_folder(other, 5, first=60)
    (other / "p0060.txt").write_text("a caption on the disk")
    age(other)
    run(indexed, ToyEncoder(), other)
    before = items(indexed)
    other.rename(tmp_path / "unmounted")
    first, second = new_toy(), new_toy()
    report = move(indexed, first)
    assert (report.switched, report.away, report.failed, report.held_back) == (False, {str(other): 5}, [], 0)
    assert (first.images, first.texts) == (12, 6), "its captions are in the catalog"
    with Collection.open(indexed) as opened:
        assert opened.spec.uri == "toy:1"
    (tmp_path / "unmounted").rename(other)
    report = move(indexed, second)
    assert (report.switched, second.images, second.texts) == (True, 5, 0)
    assert items(indexed) == before


def test_an_unmounted_source_can_be_left_out(indexed: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "disk"
    make_folder(other, 5, first=60)
    run(indexed, ToyEncoder(), other)
    other.rename(tmp_path / "unmounted")
    report = move(indexed, allow_mass_delete=True)
    assert (report.switched, report.away, report.deleted) == (True, {str(other): 5}, 5)
    (tmp_path / "unmounted").rename(other)
    assert run(indexed, new_toy()).added == 5


def test_what_may_pass_costs_no_item(indexed: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit, and with it whatever else another run may read: a disk that fails, an extra that is not installed."""
    picture(70, (300, 200)).save(photos / "large.png")
    age(photos)
    run(indexed, ToyEncoder(), photos)
    report = move(indexed, max_pixels=10_000)
    assert (report.switched, report.away) == (False, {str(photos): 1})
    assert "over the limit" in report.failed[0].reason
    assert move(indexed).switched
    assert len(uris(indexed)) == 13


def test_an_encoder_that_gives_no_vector_costs_no_item(indexed: Path, photos: Path) -> None:
    class Broken(ToyEncoder):
        def encode_images(self, pixels: UInt8) -> Float32:
            return np.full((len(pixels), self.spec.dim), np.nan, dtype=np.float32)

    report = move(indexed, Broken("toy:4"))
    assert (report.switched, report.away, len(report.failed)) == (False, {str(photos): 12}, 12)


def test_more_than_half_of_a_source_waits_to_be_confirmed(indexed: Path, photos: Path, tmp_path: Path) -> None:
    make_folder(photos, 20, first=100)
    age(photos)
    run(indexed, ToyEncoder(), photos)
    for path in photos.glob("p*.png"):  # the empty folder of a disk that is not mounted
        path.unlink()
    report = move(indexed)
    assert (report.switched, report.held_back, report.away) == (False, 32, {})
    report = move(indexed, allow_mass_delete=True)
    assert (report.switched, report.deleted) == (True, 32)


def test_a_folder_or_a_pipe_in_the_place_of_a_picture(indexed: Path, photos: Path) -> None:
    (photos / "p0010.png").unlink()
    (photos / "p0010.png").mkdir()
    (photos / "p0011.png").unlink()
    os.mkfifo(photos / "p0011.png")
    report = move(indexed)
    assert (report.switched, report.away) == (False, {str(photos): 1})
    assert "not a regular file" in report.failed[-1].reason
    (photos / "p0011.png").unlink()
    assert move(indexed).deleted == 2


def test_members_of_archives_and_corpora(tmp_path: Path, place: Path) -> None:
    folder = tmp_path / "parts"
    paths = make_folder(folder, 4)
    for path in paths:
        path.with_suffix(".txt").write_text(f"caption of {path.stem}")
    archive = tmp_path / "shard.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    loose = make_folder(tmp_path / "loose", 3, first=20)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"image": f"loose/{path.name}", "captions": [path.stem]}) + "\n" for path in loose)
    )
    age(tmp_path)
    run(place, ToyEncoder(), archive, corpus)
    before = items(place)
    assert len(before) == 14
    corpus.rename(tmp_path / "away.jsonl")
    assert move(place).switched, "its pictures are there"
    assert items(place) == before
    archive.rename(tmp_path / "shard.away")
    report = move(place, ToyEncoder("toy:3"))
    assert (report.switched, report.away) == (False, {str(archive): 4})
    (tmp_path / "loose").rename(tmp_path / "elsewhere")
    report = move(place, ToyEncoder("toy:4"))
    assert report.away == {str(archive): 4, str(corpus): 3}
