"""A collection moves to another encoder: nothing is lost, nothing is embedded twice, and there is no third state."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from indexer import ReembedReport, reembed
from indexer.report import Progress
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import compact
from mmsearch.collection.incoming import Incoming
from mmsearch.collection.layout import Layout
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.collection.portable import export_collection, import_collection
from mmsearch.collection.repair import repair_manifest
from mmsearch.decoding.decoder import DirectDecoder
from mmsearch.encoders import DEFAULT_ENCODER
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionLocked, EncoderMismatch, UnknownEncoder
from mmsearch.types import Encoder, Modality
from tests.support import ToyEncoder, age, encoded, make_folder, picture, run, uris

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def new_toy() -> ToyEncoder:
    """Return an encoder of other vectors, of another width."""
    return ToyEncoder("toy:2", side=6)


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


def move(place: Path, encoder: Encoder | None = None, **options: object) -> ReembedReport:
    """Move a collection, verify it, and return the report."""
    report = reembed(place, encoder=encoder or new_toy(), **options)  # type: ignore[arg-type]
    with Collection.open(place) as opened:
        assert verify(opened).problems == ()
    if report.switched:
        assert not (place / "reembed").exists()
        assert json.loads((place / "mmsearch.json").read_text())["encoder"]["fingerprint"] == opened.spec.fingerprint
    return report


def items(place: Path) -> dict[str, tuple[int, str, int]]:
    """Return the id, the hash and the vector id of every item, by its key."""
    with Collection.open(place) as opened:
        return {
            item.key: (item.id, item.content_hash.hex(), item.vector_id)
            for root in opened.catalog.roots()
            for item in opened.catalog.known_items(root.id)
        }


def answers(place: Path, encoder: Encoder, photos: Path) -> list[tuple[str, str | None, float]]:
    """Return what some searches find, in words that do not depend on ids."""
    found = []
    with SearchEngine(Collection.open(place), encoder) as engine:
        for target in ("image", "text"):
            for result in (
                engine.search("something red", target=target, k=50),
                engine.search(image=picture(3), target=target, k=50),
                engine.search(image=photos / "p0007.png", target=target, k=50),
            ):
                found += sorted((hit.item.uri, hit.item.text, round(hit.similarity, 5)) for hit in result)
    return found


class Stopper(Progress):
    """Stops a run when so many vectors of pictures were computed."""

    def __init__(self, after: int = 1) -> None:
        self.stop = threading.Event()
        self._left = after

    def embedded(self, keys: object, modality: Modality) -> None:
        self._left -= len(keys) if modality is IMAGE else 0  # type: ignore[arg-type]
        if self._left <= 0:
            self.stop.set()


class SmallBatches(ToyEncoder):
    """Takes three pictures at a time."""

    @property
    def image_batch(self) -> int:
        return 3


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ToyEncoder]:
    """Return a maker of new encoders that are handed little at a time, whose rows are written soon."""
    monkeypatch.setattr("indexer.renewal.BATCH_ROWS", 2)
    monkeypatch.setattr("indexer.load.LOOK_AHEAD", 1)
    return lambda uri: SmallBatches(uri, side=6)


def interrupted(place: Path, encoder: ToyEncoder) -> ReembedReport:
    stopper = Stopper()
    report = move(place, encoder, progress=stopper, stop=stopper.stop)
    assert (report.interrupted, report.switched) == (True, False)
    assert 0 < report.embedded[IMAGE] < 12
    return report


# --- all goes well --------------------------------------------------------------------------------------------------


def test_everything_is_kept_and_found_as_in_a_fresh_collection(indexed: Path, photos: Path, tmp_path: Path) -> None:
    before = items(indexed)
    report = move(indexed)
    assert (report.before, report.encoder, report.switched) == ("toy:1", "toy:2", True)
    assert (report.embedded, report.deleted, report.failed) == ({IMAGE: 12, TEXT: 5}, 0, [])
    assert items(indexed) == before
    with Collection.open(indexed) as opened:
        assert (opened.spec, opened.snapshot().store(IMAGE).dim) == (new_toy().spec, 108)
    run(tmp_path / "fresh", new_toy(), photos)
    assert answers(indexed, new_toy(), photos) == answers(tmp_path / "fresh", new_toy(), photos)
    after = run(indexed, new_toy(), photos)
    assert (after.kept, after.added, after.changed, sum(after.embedded.values())) == (20, 0, 0, 0)


def test_large_collections_have_several_segments_dead_ids_and_an_index(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.collection.writer.SEAL_ROWS", 40)
    monkeypatch.setattr("mmsearch.collection.switching.SEGMENT_ROWS", 30)
    monkeypatch.setattr("indexer.renewal.BATCH_ROWS", 7)
    folder = tmp_path / "many"
    paths = make_folder(folder, 90)
    age(folder)
    run(place, ToyEncoder(), folder, index_kind="ivfpq")
    for path in paths[10:20]:
        path.unlink()
    run(place, ToyEncoder(), folder)
    report = move(place)
    assert (report.embedded[IMAGE], report.indexed) == (80, [IMAGE])
    with Collection.open(place) as opened:
        part = opened.info().modalities[IMAGE]
        assert (part.vectors, part.dead, part.segments, part.unsealed) == (80, 0, 3, 0)
        named = {segment.file for segment in opened.catalog.state(opened.spec).modalities[IMAGE].segments}
        assert {file for file in opened.layout.data_files() if file.endswith("npy")} == named
    with SearchEngine(Collection.open(place), new_toy()) as engine:
        assert engine.search(image=picture(25), k=1)[0].item.uri.endswith("p0025.png")
    make_folder(folder, 50, first=200)
    assert run(place, new_toy(), folder).added == 50
    with Collection.open(place) as opened, opened.writer() as writer:
        compact(opened, writer)


def test_an_index_that_does_not_fit_the_new_width_gives_way(indexed: Path, photos: Path) -> None:
    make_folder(photos, 60, first=100)
    run(indexed, ToyEncoder(), photos, index_kind="IVF2,PQ64x4fs")
    report = move(indexed)
    assert report.switched
    with Collection.open(indexed) as opened:
        assert opened.index_kind == "auto"


def test_an_empty_collection_moves_too(place: Path) -> None:
    Collection.create(place, ToyEncoder().spec).close()
    assert move(place).switched


def test_what_is_bound_to_it_already_is_left_alone(indexed: Path) -> None:
    toy = ToyEncoder()
    report = move(indexed, toy)
    assert (report.switched, report.embedded, toy.images) == (False, {IMAGE: 0, TEXT: 0}, 0)


def test_the_default_encoder_is_the_target_unless_one_is_named(indexed: Path) -> None:
    report = mmsearch.reembed(indexed)
    assert (report.encoder, report.switched) == (DEFAULT_ENCODER, True)
    with mmsearch.open(indexed) as engine:
        assert engine.search("red", k=1)[0].item.uri.endswith(".png")


def test_dry_run_counts_and_writes_nothing(indexed: Path, small: Callable[[str], ToyEncoder]) -> None:
    before = sorted(path for path in indexed.rglob("*"))
    report = move(indexed, dry_run=True)
    assert (report.embedded, report.switched, report.dry_run) == ({IMAGE: 12, TEXT: 5}, False, True)
    assert [path for path in before if not path.exists()] == []
    assert not (indexed / "reembed").exists()
    done = interrupted(indexed, small("toy:2")).embedded
    report = move(indexed, dry_run=True)
    assert report.taken_over == done
    assert report.embedded[IMAGE] == 12 - done[IMAGE]


# --- stopped, killed, and gone on with ------------------------------------------------------------------------------


def test_it_goes_on_where_it_was_stopped(indexed: Path, photos: Path, small: Callable[[str], ToyEncoder]) -> None:
    before, found = items(indexed), answers(indexed, ToyEncoder(), photos)
    first, second = small("toy:2"), small("toy:2")
    interrupted(indexed, first)
    assert (items(indexed), answers(indexed, ToyEncoder(), photos)) == (before, found)
    report = move(indexed, second)
    assert report.switched
    assert (first.images + second.images, first.texts + second.texts) == (12, 5)
    assert report.taken_over == {IMAGE: first.images, TEXT: first.texts}
    assert items(indexed) == before


def test_an_ordinary_run_in_between(indexed: Path, photos: Path, small: Callable[[str], ToyEncoder]) -> None:
    first, second = small("toy:2"), small("toy:2")
    interrupted(indexed, first)
    assert (indexed / "reembed").is_dir()
    (photos / "p0000.png").unlink()
    picture(700).save(photos / "p0001.png")
    make_folder(photos, 3, first=300)
    (photos / "p0005.txt").write_text("a new caption")
    report = run(indexed, ToyEncoder(), photos)
    assert (report.added, report.changed, report.deleted) == (4, 1, 3)
    assert (indexed / "reembed").is_dir(), "it is of use still"
    before = items(indexed)
    assert move(indexed, second).switched
    assert second.images == 14 - (first.images - 2), "pictures 0 and 1 were among the first"
    assert items(indexed) == before
    assert sum(run(indexed, new_toy(), photos).embedded.values()) == 0


def test_another_target_begins_anew(indexed: Path, small: Callable[[str], ToyEncoder]) -> None:
    interrupted(indexed, small("toy:2"))
    third = small("toy:3")
    report = move(indexed, third)
    assert (report.switched, report.taken_over, third.images) == (True, {IMAGE: 0, TEXT: 0}, 12)


def test_damaged_rows_are_embedded_again(indexed: Path, small: Callable[[str], ToyEncoder]) -> None:
    interrupted(indexed, small("toy:2"))
    for number, path in enumerate(sorted((indexed / "reembed").rglob("*.npy"))):
        data = bytearray(path.read_bytes())
        data[-40 if number % 2 else 200] ^= 1
        path.write_bytes(data)
    encoder = small("toy:2")
    report = move(indexed, encoder)
    assert (report.switched, encoder.images, encoder.texts) == (True, 12, 5)


def test_killed_between_the_commit_and_the_manifest(indexed: Path, photos: Path) -> None:
    old = (indexed / "mmsearch.json").read_bytes()
    leftover = Layout(indexed).new_incoming(new_toy().spec.fingerprint, IMAGE, 0, "0" * 64)
    move(indexed)
    (indexed / "mmsearch.json").write_bytes(old)
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"left")
    found = answers(indexed, new_toy(), photos)
    with Collection.open(indexed) as opened:
        assert opened.spec == new_toy().spec
        assert export_collection(opened, indexed.with_name("c.tar")).items == 20
        with opened.writer():
            pass
    assert json.loads((indexed / "mmsearch.json").read_text())["encoder"]["uri"] == "toy:2"
    assert not (indexed / "reembed").exists()
    import_collection(indexed.with_name("c.tar"), indexed.with_name("copy"))
    assert answers(indexed.with_name("copy"), new_toy(), photos) == found


def test_killed_behind_the_commit_the_index_is_still_built(
    indexed: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(photos, 60, first=100)
    run(indexed, ToyEncoder(), photos, index_kind="ivfpq")
    with monkeypatch.context() as patch:
        patch.setattr("indexer.reembedding.maintain", _kill)
        with pytest.raises(KeyboardInterrupt):
            reembed(indexed, encoder=new_toy())
    report = move(indexed)
    assert (report.switched, report.indexed) == (False, [IMAGE])
    assert not (indexed / "reembed").exists()


def _kill(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_lost_manifest_is_made_of_the_catalog(indexed: Path) -> None:
    move(indexed)
    manifest = (indexed / "mmsearch.json").read_bytes()
    (indexed / "mmsearch.json").unlink()
    assert repair_manifest(indexed, ToyEncoder("toy:9").spec)
    assert (indexed / "mmsearch.json").read_bytes() == manifest


def test_a_full_disk_at_the_commit_leaves_the_old_state(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = items(indexed)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mmsearch.catalog.switching.switch", refuse)
        with pytest.raises(OSError, match="No space"):
            reembed(indexed, encoder=new_toy())
    with Collection.open(indexed) as opened:
        assert (opened.spec.uri, verify(opened).problems) == ("toy:1", ())
    assert items(indexed) == before
    again = new_toy()
    assert move(indexed, again).switched
    assert again.images == 0


# --- files that changed, went, or cannot be read --------------------------------------------------------------------


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
        def encode_images(self, pixels: np.ndarray) -> np.ndarray:  # type: ignore[override]
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


# --- others -----------------------------------------------------------------------------------------------------------


def test_readers_go_on_until_they_see_it(indexed: Path, photos: Path, small: Callable[[str], ToyEncoder]) -> None:
    with SearchEngine(Collection.open(indexed), ToyEncoder()) as engine:
        found = [hit.item.uri for hit in engine.search(image=picture(3), k=5)]
        _, held = engine.collection.index(IMAGE)
        interrupted(indexed, small("toy:2"))
        assert [hit.item.uri for hit in engine.search(image=picture(3), k=5)] == found
        assert move(indexed).switched
        row = ToyEncoder().encode_images(ToyEncoder().prepare_image(picture(3))[None])
        assert held.search(row, 1).scores[0, 0] > 0.99, "a snapshot that is held is searched on"
        for ask in (lambda: engine.search("red"), engine.info, lambda: engine.search(image=picture(3))):
            with pytest.raises(EncoderMismatch, match="moved from the encoder toy:1 to toy:2 meanwhile: open it again"):
                ask()
        with pytest.raises(EncoderMismatch, match="open it again"):
            verify(engine.collection)
        with pytest.raises(EncoderMismatch, match="open it again"), engine.collection.writer():
            pass
        export_collection(engine.collection, indexed.with_name("c.tar"))
    import_collection(indexed.with_name("c.tar"), indexed.with_name("copy"))
    with Collection.open(indexed.with_name("copy")) as opened:
        assert opened.spec == new_toy().spec, "an export is of what is there now"
    with SearchEngine(Collection.open(indexed), new_toy()) as engine:
        assert [hit.item.uri for hit in engine.search(image=picture(3), k=1)] == found[:1]


def test_one_writer_at_a_time(indexed: Path, photos: Path) -> None:
    with Collection.open(indexed) as opened, opened.writer(), pytest.raises(CollectionLocked):
        reembed(indexed, encoder=new_toy())
    refused = []

    class Second(Progress):
        def embedded(self, keys: object, modality: Modality) -> None:
            with pytest.raises(CollectionLocked):
                run(indexed, ToyEncoder(), photos)
            refused.append(modality)

    assert move(indexed, progress=Second()).switched
    assert refused


def test_what_goes_without_its_encoder(photos: Path, place: Path) -> None:
    """`toy:1` cannot be loaded here by its name, as an encoder that ships no longer."""
    make_folder(photos, 60, first=100)
    run(place, ToyEncoder(), photos, index_kind="ivfpq")
    hint = r"is bound to toy:1, which cannot be loaded here \(.*\): move it to .* with 'mmsearch index --reembed"
    with mmsearch.open(place) as engine:
        assert engine.info().encoder.uri == "toy:1"
        assert len(list(engine.items())) == 72
        assert verify(engine.collection).problems == ()
        assert export_collection(engine.collection, place.with_name("c.tar")).items == 80
        stored = engine.collection.snapshot().store(IMAGE).take(np.array([3]))[0].astype(np.float32)
        assert engine.search(vector=stored, k=1)[0].item.uri.endswith("p0003.png")
        assert engine.build() == [IMAGE], "only the recall of text queries is not measured"
        for ask in (lambda: engine.search("red"), lambda: engine.search(image=picture(3))):
            with pytest.raises(UnknownEncoder, match=hint):
                ask()
    with pytest.raises(UnknownEncoder, match=hint):
        mmsearch.index(collection=place)
    with pytest.raises(EncoderMismatch, match=r"or move this one with 'mmsearch index --reembed --encoder toy:2"):
        mmsearch.index(collection=place, encoder=new_toy())
    with pytest.raises(EncoderMismatch, match=r"or move it to this one with 'mmsearch index --reembed"):
        SearchEngine(Collection.open(place), new_toy())
    with Collection.open(place) as opened, opened.writer() as writer:
        assert maintain(opened, writer) == []


def test_rows_that_gather_are_found_again(tmp_path: Path) -> None:
    incoming = Incoming(Layout(tmp_path), new_toy().spec)
    assert len(incoming.ids(IMAGE)) == 0
    assert list(incoming.parts(IMAGE, np.empty(0, dtype=np.int64), 5)) == []
