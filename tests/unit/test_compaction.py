"""Segments are merged and compacted; nothing of what was deleted stays on the disk, and readers notice nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import MERGE_FROM, compact, merge_segments
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.collection.snapshot import Snapshot
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Float32, Modality
from tests.support import ToyEncoder, random_units

ROWS = 400
DIM = ToyEncoder().spec.dim


@pytest.fixture
def rows() -> Float32:
    return random_units(ROWS, DIM, seed=7)


@pytest.fixture
def stored(place: Path, rows: Float32, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """Return a collection of twenty segments, its first and every seventh picture deleted, a tail unsealed."""
    monkeypatch.setattr("mmsearch.collection.writer.SEAL_ROWS", 20)
    collection = Collection.create(place, ToyEncoder().spec)
    with collection.writer() as writer:
        root = writer.root("folder", "/pictures")
        for number, row in enumerate(rows):
            path = f"/pictures/{number:04d}-secret.png"
            content = number.to_bytes(32, "big")
            writer.put(NewItem(path, Modality.IMAGE, path, path, content, 1, 2, 3, None, 8, 8, "PNG"), root, row)
            if number % 20 == 19 and number < ROWS - 20:
                writer.commit()
        monkeypatch.setattr("mmsearch.collection.writer.SEAL_ROWS", 1000)
        writer.commit()
        known = {int(item.key[10:14]): item.id for item in collection.catalog.known_items(root.id)}
        writer.delete(known[number] for number in (*range(20), *range(20, ROWS, 7)))
    return collection


def found(collection: Collection, rows: Float32) -> list[list[int]]:
    return collection.index(Modality.IMAGE)[1].search(rows, 12).ids.tolist()


def state(collection: Collection) -> tuple[int, int, int, int]:
    part = collection.info().modalities[Modality.IMAGE]
    return part.vectors, part.dead, part.segments, part.unsealed


def test_many_small_segments_become_one(stored: Collection, rows: Float32) -> None:
    before = found(stored, rows)
    assert state(stored) == (325, 75, 19, 20)
    with stored.writer() as writer:
        assert merge_segments(stored, writer) == 18
        assert merge_segments(stored, writer) == 0
        writer.collect_garbage()
    assert state(stored) == (325, 75, 1, 20)
    assert len(list(stored.layout.data_files())) == 1
    assert verify(stored).problems == ()
    assert found(stored, rows) == before


def test_few_or_large_segments_are_left(stored: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.collection.compaction.SEGMENT_ROWS", 20 * (MERGE_FROM - 1))
    with stored.writer() as writer:
        assert merge_segments(stored, writer) == 0
    monkeypatch.setattr("mmsearch.collection.compaction.SEGMENT_ROWS", 20 * MERGE_FROM)
    with stored.writer() as writer:
        assert merge_segments(stored, writer) == 2 * (MERGE_FROM - 1)
    segments = stored.catalog.state(stored.spec).modalities[Modality.IMAGE].segments
    assert [segment.rows for segment in segments] == [160, 160, 20, 20, 20]


@pytest.mark.parametrize("kind", ["flat", "ivfpq", "ivfsq8"])
def test_what_was_deleted_is_gone_from_the_disk(stored: Collection, rows: Float32, kind: str) -> None:
    with stored.writer() as writer:
        maintain(stored, writer, kind=kind, recall=0.99)
    before = found(stored, rows)
    dead_row = rows[27].astype("<f2").tobytes()
    names = b"0027-secret.png"
    assert any(dead_row in path.read_bytes() for path in files(stored))
    old: Snapshot = stored.snapshot()
    old_index = old.index(Modality.IMAGE)
    with stored.writer() as writer:
        done = compact(stored, writer)
        assert done.rows == 75
        assert done.files == 1
    assert state(stored) == (325, 0, 1, 0)
    stored.catalog.checkpoint()
    assert not any(dead_row in path.read_bytes() or names in path.read_bytes() for path in files(stored))
    assert verify(stored).problems == ()
    assert found(stored, rows) == before  # the old index still holds dead ids, none of which comes back
    assert old_index.search(rows, 12).ids.tolist() == before  # and who opened it before reads on
    with stored.writer() as writer:
        maintain(stored, writer, rebuild=True)
    assert found(stored, rows) == before
    with stored.writer() as writer:
        assert compact(stored, writer).rows == 0
    mask = np.zeros(ROWS, dtype=np.bool_)
    mask[[25, 27, 28, 200]] = True  # 27 is dead
    ids = stored.index(Modality.IMAGE)[1].search(rows[:3], 10, allowed=mask).ids
    assert {int(i) for i in ids.flat if i >= 0} == {25, 28, 200}


def files(collection: Collection) -> list[Path]:
    return [path for path in collection.layout.root.rglob("*") if path.is_file() and path.suffix != ".faiss"]


def test_writing_goes_on_after_compaction(stored: Collection, rows: Float32) -> None:
    with stored.writer() as writer:
        compact(stored, writer)
        (root,) = stored.catalog.roots()
        path = "/pictures/new.png"
        new = random_units(1, DIM, seed=99)[0]
        writer.put(NewItem(path, Modality.IMAGE, path, path, b"n" * 32, 1, 2, 3), root, new)
    (hit,) = SearchEngine(stored, ToyEncoder()).search(vector=new, k=1)
    assert hit.item.uri == path
    assert found(stored, new[None])[0][0] == ROWS  # ids are never used again


def test_a_collection_of_deleted_things_compacts_to_nothing(stored: Collection) -> None:
    with stored.writer() as writer:
        (root,) = stored.catalog.roots()
        writer.delete(item.id for item in stored.catalog.known_items(root.id))
        writer.commit()
        assert compact(stored, writer).rows == ROWS
    assert state(stored) == (0, 0, 0, 0)
    assert verify(stored).problems == ()
    assert list(stored.layout.data_files()) == []


@pytest.mark.parametrize("kind", ["ivfpq", "ivfsq8"])
def test_the_last_ids_may_go(stored: Collection, rows: Float32, kind: str) -> None:
    """The index still holds ids behind the last one that is left; a search must not come across them."""
    with stored.writer() as writer:
        maintain(stored, writer, kind=kind, recall=0.5)
        (root,) = stored.catalog.roots()
        last = [item.id for item in stored.catalog.known_items(root.id) if item.vector_id >= ROWS - 15]
        writer.delete(last)
        writer.commit()
        before = found(stored, rows)
        assert compact(stored, writer).rows > 75
    assert found(stored, rows) == before
    with SearchEngine(stored, ToyEncoder()) as engine:
        assert len(engine.search(vector=rows[-1], k=500)) == state(stored)[0]


def test_a_purge_builds_an_index_without_what_is_no_more(stored: Collection) -> None:
    with stored.writer() as writer:
        maintain(stored, writer, kind="ivfpq", recall=0.5)
        (root,) = stored.catalog.roots()
        writer.delete([next(iter(stored.catalog.known_items(root.id))).id])
        writer.commit()
        compact(stored, writer)  # and killed before the rest
    with stored.writer() as writer:
        compact(stored, writer)
        assert maintain(stored, writer) == []
        assert maintain(stored, writer, purge=True) == [Modality.IMAGE]
        assert maintain(stored, writer, purge=True) == []


def test_damage_is_not_given_a_new_hash(stored: Collection) -> None:
    segment = stored.catalog.state(stored.spec).modalities[Modality.IMAGE].segments[3]
    path = stored.layout.path(segment.file)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    whole = path.with_suffix(".whole")
    path.rename(whole)
    path.write_bytes(data)
    assert len(verify(stored).problems) == 1
    with stored.writer() as writer:
        assert merge_segments(stored, writer) == 0
        with pytest.raises(CollectionCorrupt, match="run 'mmsearch repair' before"):
            compact(stored, writer)
    assert any(segment.file in problem for problem in verify(stored).problems)
    whole.replace(path)
    assert verify(stored).problems == ()
