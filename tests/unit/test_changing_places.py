"""Files that change places with one another, roots within roots, folders that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.sources import FolderSource
from mmsearch.collection.collection import Collection
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionCorrupt, CollectionError, SourceError
from mmsearch.types import Modality, ScanFailure, SourceEntry
from tests.support import ToyEncoder, age, make_folder, picture, run, uris


def assert_found(place: Path, *pictures: tuple[int, Path]) -> None:
    with SearchEngine(Collection.open(place), ToyEncoder()) as engine:
        for number, path in pictures:
            hit = engine.search(image=picture(number), k=1)[0]
            assert (hit.item.uri, round(hit.similarity, 2)) == (str(path), 1.0)


def test_two_files_swap_names(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    a, b, spare = photos / "p0000.png", photos / "p0001.png", photos / "spare"
    a.rename(spare)
    b.rename(a)
    spare.rename(b)
    report = run(place, toy, photos)
    assert (report.changed, report.failed) == (2, [])
    assert toy.images == 6
    assert_found(place, (0, b), (1, a))


def test_every_file_takes_the_name_of_the_next(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder, 150)
    run(place, toy, folder)
    for path, target in reversed(list(zip(paths, [*paths[1:], folder / "p0150.png"], strict=True))):
        path.rename(target)
    picture(900).save(paths[0])
    report = run(place, toy, folder)
    assert report.failed == []
    assert toy.images == 151
    assert_found(place, (900, paths[0]), (0, paths[1]), (77, paths[78]), (149, folder / "p0150.png"))


def test_a_vector_that_went_before_its_copy_came_is_made_again(
    photos: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every item is committed at once, so that the vector a later file counts on has gone when it is stored."""
    run(place, toy, photos)
    monkeypatch.setattr("indexer.pipeline.COMMIT_ROWS", 1)
    plain = picture(50)
    shutil.copy(photos / "p0000.png", photos / "p0005.png")
    plain.save(photos / "p0000.png")
    report = run(place, toy, photos)
    assert (report.changed, report.failed) == (2, [])
    assert_found(place, (50, photos / "p0000.png"), (0, photos / "p0005.png"))


def test_renaming_a_folder_with_captions_is_no_mass_deletion(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "pics" / "trip"
    for path in make_folder(folder, 15):
        path.with_suffix(".txt").write_text(f"one of {path.name}\ntwo of {path.name}")
    run(place, toy, tmp_path / "pics")
    folder.rename(tmp_path / "pics" / "holiday")
    report = run(place, toy, tmp_path / "pics")
    assert (report.moved, report.held_back, report.deleted, report.added) == (15, 0, 30, 30)
    assert (toy.images, toy.texts) == (15, 30)


def test_the_guard_counts_what_was_there_before(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "many"
    paths = make_folder(folder, 100)
    run(place, toy, folder)
    for path in paths[:79]:
        path.rename(path.with_name("moved-" + path.name))
    for path in paths[79:]:
        path.unlink()
    report = run(place, toy, folder)
    assert (report.moved, report.deleted, report.held_back) == (79, 21, 0)


def test_pictures_that_all_became_unreadable_are_held_back(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    folder = tmp_path / "cloud"
    paths = make_folder(folder, 50)
    run(place, toy, folder)
    for path in paths:
        path.write_bytes(b"")
    report = run(place, toy, folder)
    assert (report.deleted, report.held_back, len(report.failed)) == (0, 50, 50)
    assert len(uris(place)) == 50
    assert run(place, toy, folder, allow_mass_delete=True).deleted == 50


def test_names_with_hashes_and_colons_are_not_below_one_another(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    top = tmp_path / "pics"
    for number, name in enumerate(("trip", "trip#2", "trip:4")):
        make_folder(top / name, 1, first=number)
    picture(9).save(top / "trip#3.png")
    run(place, toy, top)
    report = run(place, toy, top / "trip")
    assert (report.kept, report.deleted) == (1, 0)


def test_a_file_that_was_still_being_written_is_tried_again(photos: Path, place: Path, toy: ToyEncoder) -> None:
    path = photos / "late.png"
    picture(60).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\0" * (len(whole) - 100))
    stat = path.stat()
    assert len(run(place, toy, photos).failed) == 1
    path.write_bytes(whole)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(place, toy, photos).added == 1


def test_another_pixel_limit_tries_again(photos: Path, place: Path, toy: ToyEncoder) -> None:
    age(photos)
    assert len(run(place, toy, photos, max_pixels=100).failed) == 6
    assert run(place, toy, photos).added == 6
    with Collection.open(place) as opened:
        assert opened.info().failures == 0


def test_failures_heal(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    real = photos / "p0000.png"
    real.rename(photos.parent / "away.png")
    real.symlink_to(photos.parent / "away.png")
    (photos / "p0000.txt").write_text("a caption that must stay")
    (photos.parent / "away.png").rename(photos.parent / "unmounted.png")
    report = run(place, toy, photos)
    assert (report.added, report.deleted, len(report.failed)) == (1, 0, 1)
    (photos.parent / "unmounted.png").rename(photos.parent / "away.png")
    run(place, toy, photos)
    with Collection.open(place) as opened:
        assert opened.info().failures == 0


def test_a_picture_that_a_corpus_still_names_is_gone_when_it_is_gone(
    photos: Path, place: Path, toy: ToyEncoder
) -> None:
    corpus = photos.parent / "notes" / "c.jsonl"
    corpus.parent.mkdir()
    corpus.write_text(json.dumps({"image": "../photos/p0000.png", "captions": ["one"]}) + "\n")
    run(place, toy, corpus, photos)
    with SearchEngine(Collection.open(place), toy) as engine:
        hits = engine.search(image=photos / "p0000.png", k=2).hits
        assert hits[0].item.captions == ("one",)
        assert hits[1].similarity < 0.99
    (photos / "p0000.png").unlink()
    report = run(place, toy, corpus, photos)
    assert report.deleted == 1
    assert len(uris(place)) == 5


def test_corpora_with_one_caption_a_line(photos: Path, place: Path, toy: ToyEncoder) -> None:
    corpus = photos / "c.jsonl"
    records = [
        {"image": "p0000.png", "caption": "one"},
        {"image": "p0000.png", "caption": "two"},
        {"image": "p0000.png", "caption": "one"},
        {"id": 1, "text": "z"},
        {"id": "1", "text": "y"},
        {"id": True, "text": "x"},
    ]
    corpus.write_text("\n".join(map(json.dumps, records)))
    report = run(place, toy, corpus)
    assert report.added == 1 + 2 + 1
    assert [Path(failed.key).name for failed in report.failed] == ["c.jsonl:5", "c.jsonl:6"]


def test_a_left_out_folder_named_by_itself_stays(photos: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(photos / ".private", 2, first=20)
    run(place, toy, photos)
    assert run(place, toy, photos / ".private").added == 2
    report = run(place, toy)
    assert (report.kept, report.deleted) == (8, 0)


def test_a_picture_indexed_by_itself_can_go(photos: Path, place: Path, toy: ToyEncoder) -> None:
    path = photos / "p0000.png"
    caption = path.with_suffix(".txt")
    caption.write_text("a caption")
    run(place, toy, path)
    caption.unlink()
    assert run(place, toy, path).deleted == 1
    path.unlink()
    report = run(place, toy)
    assert (report.deleted, report.failed) == (1, [])
    with Collection.open(place) as opened:
        assert opened.catalog.roots() == ()


def test_a_link_to_itself_is_named(photos: Path, place: Path, toy: ToyEncoder) -> None:
    (photos / "loop").symlink_to("loop")
    report = run(place, toy, photos)
    assert (report.added, len(report.failed)) == (6, 1)


def test_pipes_instead_of_captions_are_named(photos: Path, place: Path, toy: ToyEncoder) -> None:
    os.mkfifo(photos / "p0000.txt")
    report = run(place, toy, photos)
    assert report.added == 6
    assert "not a regular file" in report.failed[0].reason
    os.mkfifo(photos / "c.jsonl")
    with pytest.raises(SourceError, match="neither a folder"):
        run(place, toy, photos / "c.jsonl")


def test_times_past_all_calendars(photos: Path, place: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def stat(self: Path, **options: bool) -> os.stat_result:
        found = real(self, **options)
        if self.suffix != ".png":
            return found
        return os.stat_result(tuple(found), {"st_mtime_ns": 10**19})

    monkeypatch.setattr(Path, "stat", stat)
    assert run(place, toy, photos).added == 6


@pytest.mark.parametrize("path", ["", "~nobody-of-that-name/x"])
def test_paths_that_are_none(path: str, place: Path, toy: ToyEncoder) -> None:
    with pytest.raises(SourceError):
        run(place, toy, path)  # type: ignore[arg-type]


def test_folders_of_the_user_are_never_taken_for_ours(tmp_path: Path, photos: Path, toy: ToyEncoder) -> None:
    for number, names in enumerate(
        (["tmp/thesis.txt"], ["vectors/logo.svg"], ["ann/x"], ["notes.txt"], ["tmp/a.part"])
    ):
        place = tmp_path / f"mine{number}"
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text("precious")
        with pytest.raises(CollectionError, match="holds other files"):
            run(place, toy, photos)
        assert all((place / name).read_text() == "precious" for name in names)
    ours = tmp_path / "ours"
    run(ours, toy, photos)
    for name in ("tmp/thesis.txt", "vectors/image/logo.npy", "ann/readme"):
        (ours / name).parent.mkdir(parents=True, exist_ok=True)
        (ours / name).write_text("precious")
    run(ours, toy, photos)
    assert (ours / "tmp/thesis.txt").exists()
    assert (ours / "vectors/image/logo.npy").exists()


def test_a_lost_manifest_does_not_let_another_encoder_in(photos: Path, place: Path, toy: ToyEncoder) -> None:
    run(place, toy, photos)
    (place / "mmsearch.json").unlink()
    with pytest.raises(CollectionCorrupt, match="another encoder"):
        run(place, ToyEncoder("toy:2"), photos)
    assert run(place, toy, photos).kept == 6


def test_stopping_does_not_wait_for_a_scan_that_hangs(photos: Path, place: Path, toy: ToyEncoder) -> None:
    stop, release = threading.Event(), threading.Event()

    class Hanging(FolderSource):
        def scan(self) -> Iterator[SourceEntry | ScanFailure]:
            yield from super().scan()
            threading.Timer(0.3, stop.set).start()
            release.wait(30)

    started = time.monotonic()
    report = run(place, toy, Hanging(photos), stop=stop)  # type: ignore[arg-type]
    assert report.interrupted
    assert time.monotonic() - started < 15
    release.set()


def test_a_dry_run_over_a_folder_and_its_corpus_tells_what_the_run_does(
    photos: Path, place: Path, toy: ToyEncoder
) -> None:
    age(photos)
    corpus = photos / "c.jsonl"
    corpus.write_text(json.dumps({"image": "p0000.png", "captions": ["one", "two"]}))
    dry = run(place, toy, photos, corpus, dry_run=True)
    real = run(place, toy, photos, corpus)
    assert dry.added == real.added == 8
    again = run(place, toy, photos, corpus, dry_run=True)
    assert (again.added, again.changed, again.deleted, again.kept) == (0, 0, 0, 8)


def test_an_encoder_that_gives_no_units_fails_files_and_not_the_run(photos: Path, place: Path) -> None:
    class Long(ToyEncoder):
        def encode_images(self, pixels):  # type: ignore[no-untyped-def]
            rows = super().encode_images(pixels)
            rows[0] *= 1.5
            return rows

    report = run(place, Long(), photos)
    assert (report.added, len(report.failed)) == (5, 1)
    with Collection.open(place) as opened:
        assert opened.info().modalities[Modality.IMAGE].items == 5


def test_a_renamed_root_takes_its_items_along(photos: Path, place: Path, toy: ToyEncoder) -> None:
    (photos / "p0000.txt").write_text("one\ntwo")
    run(place, toy, photos)
    ids = uris(place)
    photos.rename(photos.with_name("album"))
    report = run(place, toy, photos.with_name("album"))
    assert (report.moved, report.added, report.deleted) == (6, 2, 2)
    assert uris(place) == ids
    assert (toy.images, toy.texts) == (6, 2)
    report = run(place, toy)
    assert (report.kept, report.missing_sources) == (8, [])


def test_a_disk_that_comes_back_is_added_again_without_embedding(
    photos: Path, place: Path, toy: ToyEncoder, tmp_path: Path
) -> None:
    run(place, toy, photos)
    shutil.copytree(photos, tmp_path / "copy")
    photos.rename(tmp_path / "unmounted")
    assert run(place, toy, tmp_path / "copy").moved == 6
    (tmp_path / "unmounted").rename(photos)
    assert run(place, toy, photos, tmp_path / "copy").added == 6
    assert toy.images == 6
    assert_found(place, (0, tmp_path / "copy" / "p0000.png"))


@pytest.mark.parametrize("sources", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("old", ["a", "b"])
def test_moves_between_sources_of_one_run(
    tmp_path: Path, place: Path, toy: ToyEncoder, sources: tuple[str, str], old: str
) -> None:
    new = "b" if old == "a" else "a"
    places = [tmp_path / name for name in sources]
    paths = make_folder(tmp_path / old, 40)
    make_folder(tmp_path / new, 1, first=100)
    for path in paths:
        path.with_suffix(".txt").write_text(f"caption of {path.stem}")
    run(place, toy, *places)
    before, embedded, texts = uris(place), toy.images, toy.texts
    for path in paths[:30]:
        path.rename(tmp_path / new / path.name)
        path.with_suffix(".txt").rename(tmp_path / new / f"{path.stem}.txt")
    report = run(place, toy, *places)
    assert (report.moved, report.held_back, report.added, report.deleted) == (30, 0, 30, 30), "captions come and go"
    assert uris(place) == before
    assert (toy.images, toy.texts) == (embedded, texts)
    again = run(place, toy, *places)
    assert (again.moved, again.added, again.deleted, again.held_back) == (0, 0, 0, 0)


def test_the_guard_is_one_for_each_source(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    lost = make_folder(tmp_path / "a", 40)
    few = make_folder(tmp_path / "b", 40, first=100)
    places = (tmp_path / "a", tmp_path / "b")
    run(place, toy, *places)
    for path in (*lost[:30], *few[:5]):
        path.unlink()
    report = run(place, toy, *places)
    assert (report.held_back, report.deleted) == (30, 5)
    assert run(place, toy, *places, allow_mass_delete=True).deleted == 30


def test_a_file_that_a_later_source_names_changes_hands(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    make_folder(tmp_path / "p", 2)
    first, later = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    line = '{"image": "p/p0000.png", "captions": ["one"]}\n'
    other = '{"image": "p/p0001.png", "captions": ["two"]}\n'
    first.write_text(line)
    later.write_text(other)
    run(place, toy, first, later)
    before = uris(place)
    first.write_text('{"text": "alone"}\n')
    later.write_text(other + line)
    report = run(place, toy, first, later)
    assert (report.embedded[Modality.IMAGE], uris(place)) == (0, before)
    run(place, toy, first)
    assert uris(place) == before, "it belongs to the source that names it"


def test_a_part_and_the_whole_in_one_run(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    paths = make_folder(tmp_path / "photos" / "a", 50)
    run(place, toy, tmp_path / "photos")
    paths[0].unlink()
    report = run(place, toy, tmp_path / "photos" / "a", tmp_path / "photos")
    assert (report.deleted, report.held_back) == (1, 0)
    for path in paths[1:40]:
        path.unlink()
    report = run(place, toy, tmp_path / "photos" / "a", tmp_path / "photos")
    assert (report.deleted, report.held_back) == (0, 39)


def test_a_source_that_a_later_one_takes_over(tmp_path: Path, place: Path, toy: ToyEncoder) -> None:
    paths = make_folder(tmp_path / "photos" / "a", 50)
    run(place, toy, tmp_path / "photos" / "a")
    for path in paths[:40]:
        path.unlink()
    report = run(place, toy, tmp_path / "photos" / "a", tmp_path / "photos")
    assert (report.deleted, report.held_back) == (0, 40)
    report = run(place, toy, tmp_path / "photos")
    assert (report.deleted, report.held_back) == (0, 40)
    assert run(place, toy, tmp_path / "photos", allow_mass_delete=True).deleted == 40


def test_a_picture_of_a_corpus_falls_to_the_folder_that_takes_another_over(
    tmp_path: Path, place: Path, toy: ToyEncoder
) -> None:
    make_folder(tmp_path / "photos" / "p", 1)
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"image": "photos/p/p0000.png", "captions": ["one"]}\n')
    run(place, toy, corpus)
    corpus.write_text('{"text": "alone"}\n')
    report = run(place, toy, corpus, tmp_path / "photos" / "p", tmp_path / "photos")
    assert (len(uris(place)), report.embedded[Modality.IMAGE]) == (1, 0)
    assert run(place, toy, tmp_path / "photos").kept == 1
