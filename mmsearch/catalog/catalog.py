"""Catalog: every question that mmsearch asks of the metadata, as a named method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Row, func, literal_column, select

from mmsearch.catalog import schema
from mmsearch.catalog.binding import Binding, check_bound, read_binding
from mmsearch.catalog.changes import KNOWN_ITEM, VECTOR_OF, Transaction, held_fact, to_known_item
from mmsearch.catalog.database import Database
from mmsearch.catalog.filters import below, clauses
from mmsearch.catalog.rows import (
    LEFT_OUT,
    AnnRow,
    CatalogState,
    Counts,
    KnownFailure,
    KnownItem,
    ModalityState,
    NewItem,
    Root,
    SegmentRow,
    StoredItem,
    rows_from_bytes,
)
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import EncoderSpec, Filter, Int64, Item, Modality, PictureMetadata

_T = TypeVar("_T")
_IN_LIST = 500  # ids in one IN (…), well under SQLite's limit of variables


class Catalog:
    """The metadata of one collection. Every method is safe to call from several threads."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the catalog at `path`, upgrading an older schema; without `create` it must be there already."""
        if not create and not path.is_file():
            raise CollectionCorrupt(f"The catalog {path} is missing: restore it from a backup or index again.")
        self._database = Database(path)
        self._database.upgrade()

    @property
    def writable(self) -> bool:
        """False when the folder of the catalog is read-only."""
        return self._database.writable

    @property
    def database(self) -> Database:
        """What lies below, for the other modules of this package."""
        return self._database

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def checkpoint(self) -> None:
        """Move what the write-ahead log holds into the database file."""
        self._database.checkpoint()

    def vacuum(self) -> None:
        """Write the database anew without what was deleted."""
        self._database.vacuum()

    def reindex(self) -> None:
        """Build SQLite's own indexes anew from the tables."""
        self._database.reindex()

    def integrity_problems(self) -> list[str]:
        """Return what SQLite's integrity and foreign key checks complain of."""
        return self._database.integrity_problems()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yield the one way to change the catalog: all of it is committed at the end, or none of it."""
        with self._database.write() as connection:
            transaction = Transaction(connection)
            yield transaction
            transaction.finish()

    # --- the state a reader searches --------------------------------------------------------------------------------

    def token(self) -> tuple[int, int]:
        """Return (commit, layout): it changes when items or their files on disk do."""
        with self._database.read() as connection:
            return _token(connection)

    def binding(self) -> Binding:
        """Return whose the catalog is."""
        with self._database.read() as connection:
            return read_binding(connection)

    def state(self, spec: EncoderSpec) -> CatalogState:
        """Return everything a reader needs, from one transaction; raise EncoderMismatch when its rows are of another.

        Ids mean the same vectors before and after a collection has moved to another encoder, but rows of the two must
        never meet.
        """
        with self._database.read() as connection:
            check_bound(connection, spec, self._database.path.parent)
            modalities = {modality: modality_state(connection, modality, spec.dim) for modality in Modality}
            return CatalogState(_token(connection), modalities)

    # --- items ------------------------------------------------------------------------------------------------------

    def items_of_vectors(
        self, modality: Modality, vector_ids: Iterable[int], wanted: Filter | None = None
    ) -> dict[int, list[Item]]:
        """Return the items of each vector, by item id; pictures with their captions. A vanished vector has no entry.

        With a filter, only items that it lets through: copies share a vector and may lie in different folders.
        """
        found: dict[int, list[Item]] = {}
        table = schema.items
        with self._database.read() as connection:
            rows: list[Row[Any]] = []
            for some in _chunks(vector_ids):
                query = select(table).where(table.c.modality == modality, table.c.vector_id.in_(some))
                if wanted is not None:
                    query = query.where(*clauses(wanted))
                rows += connection.execute(query.order_by(table.c.id))
            groups = {row.group_key for row in rows} if modality is Modality.IMAGE else set()
            captions = captions_of(connection, groups)
            for row in rows:
                found.setdefault(row.vector_id, []).append(to_item(row, captions.get(row.group_key, ())))
        return found

    def vectors_matching(self, modality: Modality, wanted: Filter) -> Int64:
        """Return the vector ids (n,) of items that a filter lets through; in no order, those of copies repeated."""
        table = schema.items
        # With few rows known of each SQLite thinks a modality rarer than a folder; the "+" keeps it off that index.
        of = literal_column("+items.modality") if wanted.under else table.c.modality
        query = select(func.group_concat(table.c.vector_id)).where(of == modality, *clauses(wanted))
        with self._database.read() as connection:
            # One text instead of a row each: a tenth of the time for a million.
            text = connection.execute(query).scalar_one()
        return np.fromstring(text, dtype=np.int64, sep=",") if text else np.empty(0, dtype=np.int64)

    def vectors_by_key(self, modality: Modality, keys: Iterable[str]) -> dict[str, int]:
        """Return the vector ids of items by key, of those that are there."""
        table = schema.items
        found: dict[str, int] = {}
        with self._database.read() as connection:
            for some in _chunks(keys):
                query = select(table.c.key, table.c.vector_id).where(
                    table.c.modality == modality, table.c.key.in_(some)
                )
                found.update({row.key: row.vector_id for row in connection.execute(query)})
        return found

    def vectors_by_content(self, modality: Modality, hashes: Iterable[bytes]) -> dict[bytes, int]:
        """Return the ids of live vectors by the SHA-256 of what they are of, of those that are there."""
        table = schema.vectors
        found: dict[bytes, int] = {}
        with self._database.read() as connection:
            for some in _chunks(hashes):
                where = (table.c.modality == modality, table.c.content_hash.in_(some))
                rows = connection.execute(select(table.c.content_hash, table.c.id).where(*where))
                found.update({row.content_hash: row.id for row in rows})
        return found

    def contents_of_items(self, item_ids: Iterable[int]) -> dict[int, tuple[int, bytes]]:
        """Return (vector id, SHA-256 of what it is of) of items by id, of those that are there."""
        items, vectors = schema.items, schema.vectors
        found: dict[int, tuple[int, bytes]] = {}
        with self._database.read() as connection:
            for some in _chunks(item_ids):
                query = select(items.c.id, vectors.c.id.label("vector_id"), vectors.c.content_hash).where(
                    items.c.id.in_(some), vectors.c.modality == items.c.modality, vectors.c.id == items.c.vector_id
                )
                found.update({row.id: (row.vector_id, row.content_hash) for row in connection.execute(query)})
        return found

    def captioned(self, limit: int | None = None) -> list[tuple[str, tuple[str, ...]]]:
        """Return the first pictures, by item id, that have captions: their keys and these."""
        images, texts = schema.items.alias(), schema.items.alias()
        query = (
            select(images.c.key)
            .where(images.c.modality == Modality.IMAGE)
            .where(
                select(texts.c.id).where(texts.c.group_key == images.c.key, texts.c.modality == Modality.TEXT).exists()
            )
            .order_by(images.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            keys = list(connection.execute(query).scalars())
            captions = captions_of(connection, set(keys))
        return [(key, captions[key]) for key in keys]

    def known_items(self, root_id: int, under: str | None = None) -> Iterator[KnownItem]:
        """Yield what is known of a root's items, by item id; with `under`, of pictures there and their captions."""
        query = KNOWN_ITEM.where(schema.items.c.root_id == root_id)
        if under is not None:  # found by place: SQLite would go through all of the root
            query = KNOWN_ITEM.where(schema.items.c.root_id + 0 == root_id, below(schema.items.c.group_key, under))
        with self._database.read() as connection:
            for row in connection.execute(query):
                yield to_known_item(row)

    def stored_items(self, root_id: int, size: int) -> Iterator[list[StoredItem]]:
        """Yield a root's items with all that is stored of them, at most `size` at a time, by item id."""
        items, vectors = schema.items, schema.vectors
        last = 0
        while True:
            query = (
                select(items, vectors.c.content_hash)
                .join(vectors, (vectors.c.modality == items.c.modality) & (vectors.c.id == items.c.vector_id))
                .where(items.c.root_id == root_id, items.c.id > last)
                .order_by(items.c.id)
                .limit(size)
            )
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            last = rows[-1].id
            yield [to_stored_item(row) for row in rows]

    def known_failures(self, root_id: int) -> dict[str, KnownFailure]:
        """Return a root's unreadable files by key."""
        table = schema.failures
        with self._database.read() as connection:
            rows = connection.execute(select(table).where(table.c.root_id == root_id).order_by(table.c.key))
            return {row.key: KnownFailure(row.key, row.size, row.mtime_ns, row.reason) for row in rows}

    def has_content(self, modality: Modality, content_hash: bytes) -> bool:
        """Return True when a live vector of that content is committed."""
        content = {"modality": modality, "content_hash": content_hash}
        with self._database.read() as connection:
            return connection.execute(VECTOR_OF, content).first() is not None

    def roots(self) -> tuple[Root, ...]:
        """Return the sources that were indexed, by path."""
        with self._database.read() as connection:
            rows = connection.execute(select(schema.roots).order_by(schema.roots.c.path))
            return tuple(Root(row.id, row.kind, row.path, row.options) for row in rows)

    # --- reports ----------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Return how much there is."""
        table = schema.items
        with self._database.read() as connection:
            rows = connection.execute(select(table.c.modality, func.count()).group_by(table.c.modality)).all()
            unreadable = schema.failures.c.reason.not_like(LEFT_OUT + "%")
            failures = connection.execute(
                select(func.count()).select_from(schema.failures).where(unreadable)
            ).scalar_one()
            commits, last = connection.execute(select(func.count(), func.max(schema.commits.c.at))).one()
            items = dict.fromkeys(Modality, 0) | {Modality(row[0]): int(row[1]) for row in rows}
        return Counts(items=items, failures=int(failures), commits=int(commits), last_commit_at=last)

    def fact(self, name: str) -> str | None:
        """Return a stored setting of the collection."""
        with self._database.read() as connection:
            return connection.execute(_fact(name)).scalar_one_or_none()

    def held_before(self, root_id: int) -> int | None:
        """Return how many items a root had when a deletion was held back, None when nothing is."""
        value = self.fact(held_fact(root_id))
        return int(value) if value else None


def _token(connection: Connection) -> tuple[int, int]:
    commit = connection.execute(select(func.max(schema.commits.c.number))).scalar_one()
    layout = connection.execute(_fact("layout")).scalar_one_or_none()
    return int(commit or 0), int(layout or 0)


def _fact(name: str) -> Any:
    return select(schema.facts.c.value).where(schema.facts.c.name == name)


def modality_state(connection: Connection, modality: Modality, dim: int) -> ModalityState:
    """Return the state of a modality, from an open transaction."""
    segments, ann, dead = schema.segments, schema.ann_indexes, schema.dead_vectors
    next_id = connection.execute(
        select(schema.counters.c.next_id).where(schema.counters.c.modality == modality)
    ).scalar_one_or_none()
    segment_rows = connection.execute(
        select(segments).where(segments.c.modality == modality).order_by(segments.c.first_id)
    ).mappings()
    dead_ids = connection.execute(select(dead.c.id).where(dead.c.modality == modality).order_by(dead.c.id)).scalars()
    ann_row = connection.execute(select(ann).where(ann.c.modality == modality)).mappings().one_or_none()
    first, rows = _unsealed(connection, modality, dim)
    return ModalityState(
        modality=modality,
        next_id=int(next_id or 0),
        segments=tuple(SegmentRow(**{**row, "modality": modality}) for row in segment_rows),
        unsealed_first=first,
        unsealed=rows,
        dead=np.fromiter(dead_ids, dtype=np.int64),
        ann=None if ann_row is None else AnnRow(**{**ann_row, "modality": modality}),
    )


def _unsealed(connection: Connection, modality: Modality, dim: int) -> tuple[int, Any]:
    table = schema.unsealed_vectors
    query = select(table.c.id, table.c.row).where(table.c.modality == modality).order_by(table.c.id)
    found = connection.execute(query).all()
    if not found:
        return 0, np.empty((0, dim), dtype=np.float16)
    first, last = int(found[0].id), int(found[-1].id)
    try:
        rows = rows_from_bytes([row.row for row in found], dim)
    except ValueError as error:
        raise CollectionCorrupt(f"The catalog is damaged ({error}): restore it from a backup.") from error
    if last - first + 1 != len(found):
        raise CollectionCorrupt("The catalog is damaged (unsealed vectors are missing): restore it from a backup.")
    return first, rows


def captions_of(connection: Connection, groups: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the captions of pictures, by their group."""
    table = schema.items
    captions: dict[str, tuple[str, ...]] = {}
    for some in _chunks(sorted(groups)):
        query = select(table.c.group_key, table.c.text).where(
            table.c.modality.concat("") == Modality.TEXT,  # else SQLite looks through all captions, not these groups'
            table.c.group_key.in_(some),
        )
        for group, text in connection.execute(query.order_by(table.c.id)):
            captions[group] = (*captions.get(group, ()), text)
    return captions


def to_stored_item(row: Row[Any]) -> StoredItem:
    """Return a row of `items` and the `content_hash` of its vector as a value."""
    item = NewItem(
        key=row.key,
        modality=Modality(row.modality),
        uri=row.uri,
        group=row.group_key,
        content_hash=row.content_hash,
        size=row.size,
        mtime_ns=row.mtime_ns,
        scanned_ns=row.scanned_ns,
        text=row.text,
        width=row.width,
        height=row.height,
        format=row.format,
        metadata=_metadata(row) if row.modality == Modality.IMAGE else None,
    )
    return StoredItem(item, row.vector_id, row.root_id)


def _metadata(row: Row[Any]) -> PictureMetadata:
    return PictureMetadata(
        taken_ns=row.taken_ns,
        taken_offset=row.taken_offset,
        camera=row.camera,
        lens=row.lens,
        latitude=row.latitude,
        longitude=row.longitude,
        title=row.title,
        description=row.description,
        keywords=_keywords(row),
    )


def _keywords(row: Row[Any]) -> tuple[str, ...]:
    return tuple(row.keywords.split("\n")) if row.keywords else ()


def to_item(row: Row[Any], captions: tuple[str, ...]) -> Item:
    """Return a row of `items` as a value."""
    return Item(
        id=row.id,
        modality=Modality(row.modality),
        uri=row.uri,
        group=row.group_key,
        text=row.text,
        width=row.width,
        height=row.height,
        format=row.format,
        captions=captions,
        taken_ns=row.taken_ns,
        camera=row.camera,
        lens=row.lens,
        title=row.title,
        description=row.description,
        keywords=_keywords(row),
    )


def _chunks(values: Iterable[_T]) -> Iterator[list[_T]]:
    everything = list(values)
    for start in range(0, len(everything), _IN_LIST):
        yield everything[start : start + _IN_LIST]
