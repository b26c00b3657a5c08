"""A collection moves to another encoder: nothing is lost, nothing is embedded twice, and there is no third state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from indexer import reembed
from indexer.report import Progress
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import compact
from mmsearch.collection.incoming import Incoming
from mmsearch.collection.layout import Layout
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.collection.portable import export_collection, import_collection
from mmsearch.collection.repair import repair_manifest
from mmsearch.encoders import DEFAULT_ENCODER
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionLocked, EncoderMismatch, UnknownEncoder
from mmsearch.types import Modality
from tests.moving import answers, interrupted, items, move, new_toy
from tests.support import ToyEncoder, age, make_folder, picture, run

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


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
