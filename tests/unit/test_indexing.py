"""What indexing does to a collection: every kind of change."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from indexer import Progress
from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import EncoderMismatch
from mmsearch.types import Modality
from tests.support import ToyEncoder, age, make_folder, picture, plain, run, uris


def test_first_run_adds_and_second_keeps_without_reading(
    photos: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(photos)
    first = run(place, toy, photos)
    assert (first.added, first.kept, first.commit) == (6, 0, 1)
    assert toy.images == 6
    monkeypatch.setattr("indexer.load.content_hash", lambda _file: pytest.fail("an unchanged file was read"))
    second = run(place, toy, photos)
    assert (second.added, second.kept, second.failed) == (0, 6, [])


def test_a_file_changed_within_two_seconds_of_its_scan_is_hashed_again(
    photos: Path, place: Path, toy: ToyEncoder
) -> None:
    path = photos / "p0001.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path, "BMP")
    run(place, toy, photos)
    before = path.stat()
    Image.new("RGB", (8, 8), (200, 2, 3)).save(path, "BMP")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run(place, toy, photos).changed == 1


def test_changed_content_gets_a_new_vector_and_keeps_its_item(photos: Path, place: Path, toy: ToyEncoder) -> None:
    age(photos)
    run(place, toy, photos)
    before = uris(place)
    plain("red").save(photos / "p0002.png")
    report = run(place, toy, photos)
    assert (report.changed, report.kept, report.added, report.deleted) == (1, 5, 0, 0)
    assert uris(place) == before
    with SearchEngine(Collection.open(place), toy) as engine:
        assert engine.search("red", k=1)[0].item.uri.endswith("p0002.png")
        assert engine.search(image=picture(2), k=6)[0].similarity < 0.99


def test_touched_file_is_compared_by_content(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    for path in photos.iterdir():
        os.utime(path, ns=(1, 1))
    report = run(place, toy, photos)
    assert (report.kept, report.changed) == (6, 0)
    assert toy.images == 6


def test_moved_file_keeps_id_and_vector(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    before = uris(place)
    (photos / "sub").mkdir()
    (photos / "p0003.png").rename(photos / "sub" / "new name é.png")
    report = run(place, toy, photos)
    assert (report.moved, report.added, report.deleted) == (1, 0, 0)
    assert toy.images == 6
    assert uris(place)["new name é.png"] == before["p0003.png"]


def test_copy_shares_the_vector_and_both_are_found(photos: Path, place: Path, toy: ToyEncoder) -> None:
    shutil.copy(photos / "p0000.png", photos / "copy.png")
    report = run(place, toy, photos)
    assert report.added == 7
    assert toy.images == 6
    with SearchEngine(Collection.open(place), toy) as engine:
        hits = engine.search(image=photos / "p0000.png", k=2).hits
    assert {Path(hit.item.uri).name for hit in hits} == {"copy.png", "p0000.png"}
    assert hits[0].score == hits[1].score
    (photos / "copy.png").unlink()
    assert run(place, toy, photos).deleted == 1
    with SearchEngine(Collection.open(place), toy) as engine:
        assert [Path(h.item.uri).name for h in engine.search(image=photos / "p0000.png", k=1)] == ["p0000.png"]


def test_deleted_file_is_gone_and_its_id_is_not_used_again(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    last = max(uris(place).values())
    (photos / "p0005.png").unlink()
    assert run(place, toy, photos).deleted == 1
    picture(99).save(photos / "later.png")
    run(place, toy, photos)
    assert uris(place)["later.png"] > last
    with SearchEngine(Collection.open(place), toy) as engine:
        assert len(engine.search("anything", k=50)) == 6


def test_nested_roots_are_absorbed(photos: Path, place: Path, toy: ToyEncoder) -> None:
    inner = photos / "inner"
    make_folder(inner, 2, first=20)
    run(place, toy, inner)
    run(place, toy, photos)
    with Collection.open(place) as opened:
        assert [root.path for root in opened.catalog.roots()] == [str(photos)]
    assert toy.images == 8
    (inner / "p0020.png").unlink()
    (photos / "p0000.png").unlink()
    report = run(place, toy, inner)  # only what lies below the folder that is scanned may go
    assert report.deleted == 1
    assert len(uris(place)) == 7


def test_names_that_are_left_out(photos: Path, place: Path, toy: ToyEncoder) -> None:
    for folder in (".hidden", "@eaDir", "#recycle", "__MACOSX", "lost+found"):
        make_folder(photos / folder, 1, first=30)
    picture(40).save(photos / ".dot.png")
    (photos / "notes.pdf").write_text("no picture")
    assert run(place, toy, photos).added == 6


def test_collection_inside_the_folder_is_not_indexed(photos: Path, toy: ToyEncoder) -> None:
    inside = photos / "my collection"
    assert run(inside, toy, photos).added == 6
    picture(1).save(inside / "stray.png")
    assert run(inside, toy, photos).kept == 6


def test_link_loops_end(photos: Path, place: Path, toy: ToyEncoder) -> None:
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    assert run(place, toy, photos).added == 6


def test_dry_run_changes_nothing(photos: Path, place: Path, toy: ToyEncoder) -> None:
    assert run(place, toy, photos, dry_run=True).added == 6
    assert not place.exists()
    run(place, toy, photos)
    age(photos)
    (photos / "p0000.png").unlink()
    picture(88).save(photos / "new.png")
    report = run(place, toy, photos, dry_run=True)
    assert (report.added, report.deleted, report.commit) == (1, 1, 1)
    assert len(uris(place)) == 6
    assert toy.images == 6


def test_without_sources_all_known_ones_are_looked_at(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    picture(60).save(photos / "more.png")
    assert run(place, toy).added == 1


def test_other_encoder_is_refused_with_a_command(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    with pytest.raises(EncoderMismatch, match=r"'mmsearch index .*photos --collection .*c-toy-2 --encoder toy:2'"):
        run(place, ToyEncoder("toy:2"), photos)


def test_sealed_segments_serve_what_the_catalog_held(
    tmp_path: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.collection.writer.SEAL_ROWS", 20)
    folder = tmp_path / "many"
    make_folder(folder, 50)
    run(place, toy, folder)
    with Collection.open(place) as opened:
        before = opened.info().modalities[Modality.IMAGE]
        assert (before.segments, before.unsealed) == (1, 0)
    make_folder(folder, 5, first=50)
    run(place, toy, folder)
    (folder / "p0010.png").unlink()
    (folder / "p0052.png").unlink()
    run(place, toy, folder)
    make_folder(folder, 30, first=100)
    run(place, toy, folder)
    with Collection.open(place) as opened:
        part = opened.info().modalities[Modality.IMAGE]
        assert (part.segments, part.unsealed, part.dead, part.vectors) == (2, 0, 2, 83)
    with SearchEngine(Collection.open(place), toy) as engine:
        for number in (0, 49, 51, 54, 129):
            hit = engine.search(image=picture(number), k=1)[0]
            assert hit.item.uri.endswith(f"p{number:04d}.png")
            assert hit.similarity == pytest.approx(1.0, abs=2e-3)
        assert len(engine.search("anything", k=200)) == 83


def test_large_collections_get_their_index_by_themselves(
    tmp_path: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.vectors.spec.EXACT_ELEMENTS", 100 * 192)
    folder = tmp_path / "many"
    make_folder(folder, 90)
    assert run(place, toy, folder).indexed == []
    make_folder(folder, 60, first=90)
    assert run(place, toy, folder).indexed == [Modality.IMAGE]
    assert run(place, toy, folder).indexed == []
    make_folder(folder, 10, first=150)
    assert run(place, toy, folder).indexed == []  # a short tail is scanned
    make_folder(folder, 40, first=160)
    assert run(place, toy, folder).indexed == [Modality.IMAGE]  # a long one is taken in
    with SearchEngine(Collection.open(place), toy) as engine:
        assert engine.search(image=picture(155), k=1)[0].item.uri.endswith("p0155.png")
        part = engine.info().modalities[Modality.IMAGE]
    assert (part.covered, part.index[:4]) == (200, "PCAR")
    assert part.recall_at_10 is not None
    assert part.recall_at_10 >= 0.95
    assert len(list(place.rglob("index.faiss"))) == 1


def test_progress_knows_the_total_before_the_work_is_done(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    make_folder(folder, 300)

    class Watch(Progress):
        def __init__(self) -> None:
            self.total = self.finished = self.known_at = 0

        def found(self, entries: int, *, complete: bool) -> None:
            if complete and not self.total:
                self.total, self.known_at = entries, self.finished

        def done(self, entries: int) -> None:
            self.finished += entries

    watch = Watch()
    run(place, toy, folder, progress=watch)
    assert (watch.total, watch.finished) == (300, 300)
    assert watch.known_at < 150


def test_a_clock_that_goes_backwards_loses_no_change(photos: Path, place: Path, toy: ToyEncoder) -> None:
    """A file of tomorrow is compared by content for as long as its time cannot tell whether it has changed since."""
    path = next(iter(sorted(photos.iterdir())))
    tomorrow = time.time() + 86_400
    os.utime(path, (tomorrow, tomorrow))
    run(place, toy, photos)
    picture(77).save(path)
    os.utime(path, (tomorrow, tomorrow))  # written under a clock that was set back, at the same time by its own telling
    assert run(place, toy, photos).changed == 1
    os.utime(path, (1, 1))  # and a time before that
    again = run(place, toy, photos)
    assert (again.kept, again.changed, again.added, again.deleted) == (6, 0, 0, 0)


def test_a_picture_replaced_by_a_folder_is_gone_and_what_is_in_it_found(
    photos: Path, place: Path, toy: ToyEncoder
) -> None:
    path = next(iter(sorted(photos.iterdir())))
    run(place, toy, photos)
    path.unlink()
    path.mkdir()
    picture(78).save(path / "inside.png")
    report = run(place, toy, photos)
    assert (report.added, report.deleted, report.failed) == (1, 1, [])
    assert path.name not in uris(place)
    assert "inside.png" in uris(place)
