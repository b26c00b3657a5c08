"""The move of a collection to another encoder, inside of the one transaction that makes it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, Table, delete, insert, select, update

from mmsearch.catalog import schema
from mmsearch.catalog.rows import SegmentRow
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Int64, Modality


def switch(
    connection: Connection,
    segments: Sequence[SegmentRow],
    ids: Mapping[Modality, Int64],
    changed: Mapping[int, bytes],
) -> None:
    """Let `segments`, which hold the rows of `ids`, take the place of all that holds rows now.

    `changed` are vectors of pictures whose files have another content by now, of which their new rows are: its SHA-256.
    Raise CollectionCorrupt where a vector that serves items would be left without a row.
    """
    _take_contents(connection, changed)
    for modality in Modality:
        live = _live_ids(connection, modality)
        if missing := len(np.setdiff1d(live, ids[modality])):
            raise CollectionCorrupt(
                f"{missing} {modality} vectors would be left without rows: run 'mmsearch verify', then this again."
            )
        for table in (schema.segments, schema.unsealed_vectors, schema.dead_vectors, schema.ann_indexes):
            connection.execute(delete(table).where(table.c.modality == modality))
        dead = [{"modality": modality, "id": one} for one in np.setdiff1d(ids[modality], live).tolist()]
        _insert(connection, schema.dead_vectors, dead)
    _insert(connection, schema.segments, [dataclasses.asdict(segment) for segment in segments])


def _take_contents(connection: Connection, changed: Mapping[int, bytes]) -> None:
    """Let vectors be of another content; where there is one of that content already, it takes over the items.

    The stamps of the items stay, and they are to be compared by content when they are looked at next: what of copies
    has not changed, or not in the same way, then gets a vector of its own.
    """
    items, vectors = schema.items, schema.vectors
    is_picture = vectors.c.modality == Modality.IMAGE
    for vector_id in changed:  # files may have changed places: nothing may stand in the way of another
        nothing = hashlib.sha256(f"nothing has this content, vector {vector_id} had".encode()).digest()
        connection.execute(update(vectors).where(is_picture, vectors.c.id == vector_id).values(content_hash=nothing))
    for vector_id, content_hash in sorted(changed.items()):
        query = select(vectors.c.id).where(is_picture, vectors.c.content_hash == content_hash)
        other = connection.execute(query).scalar_one_or_none()
        of_vector = (items.c.modality == Modality.IMAGE, items.c.vector_id == vector_id)
        connection.execute(update(items).where(*of_vector).values(scanned_ns=0))
        where = (is_picture, vectors.c.id == vector_id)
        if other is None:
            connection.execute(update(vectors).where(*where).values(content_hash=content_hash))
        else:
            connection.execute(update(items).where(*of_vector).values(vector_id=other))
            connection.execute(delete(vectors).where(*where))


def _live_ids(connection: Connection, modality: Modality) -> Int64:
    """Return the ids (n,) of the vectors that serve items, once those that do not are let go."""
    vectors, items = schema.vectors, schema.items.c
    users = select(items.id).where(items.modality == modality, items.vector_id == vectors.c.id)
    connection.execute(delete(vectors).where(vectors.c.modality == modality, ~users.exists()))
    found = connection.execute(select(vectors.c.id).where(vectors.c.modality == modality).order_by(vectors.c.id))
    return np.fromiter(found.scalars(), dtype=np.int64)


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        connection.execute(insert(table), rows)
