"""What there is to be embedded when a collection moves to another encoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sqlalchemy import func, select

from mmsearch.catalog import schema
from mmsearch.catalog.catalog import Catalog, to_stored_item
from mmsearch.catalog.rows import HASH_BYTES, StoredItem
from mmsearch.types import Int64, Modality, UInt8

_PAGE = 500


def live_vectors(catalog: Catalog, modality: Modality) -> tuple[Int64, UInt8]:
    """Return the ids (n,) of the vectors that serve items, ascending, and the SHA-256 (n, 32) of what they are of."""
    table = schema.vectors.c
    with catalog.database.read() as connection:
        query = select(table.id, table.content_hash).where(table.modality == modality).order_by(table.id)
        rows = connection.execute(query).all()
        ids = np.fromiter((row.id for row in rows), dtype=np.int64, count=len(rows))
        hashes = np.frombuffer(b"".join(row.content_hash for row in rows), dtype=np.uint8)
        return ids, hashes.reshape(len(rows), HASH_BYTES)


def items_of(catalog: Catalog, modality: Modality, ids: Int64) -> Iterator[list[StoredItem]]:
    """Yield the items of each of the vectors `ids` (n,), in that order, those of one vector by item id."""
    items, vectors = schema.items, schema.vectors
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE].tolist()
        query = (
            select(items, vectors.c.content_hash)
            .join(vectors, (vectors.c.modality == items.c.modality) & (vectors.c.id == items.c.vector_id))
            .where(items.c.modality == modality, items.c.vector_id.in_(page))
            .order_by(items.c.id)
        )
        with catalog.database.read() as connection:
            found: dict[int, list[StoredItem]] = {vector_id: [] for vector_id in page}
            for row in connection.execute(query):
                found[row.vector_id].append(to_stored_item(row))
        yield from (of_vector for of_vector in found.values() if of_vector)


def count_pictures(catalog: Catalog) -> dict[int, int]:
    """Return how many pictures each root has, by its id."""
    items = schema.items.c
    query = select(items.root_id, func.count()).where(items.modality == Modality.IMAGE).group_by(items.root_id)
    with catalog.database.read() as connection:
        return {row[0]: int(row[1]) for row in connection.execute(query)}
