"""Transaction: every change of the catalog, as a named method on one open write transaction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from mmsearch.catalog import places, schema, switching
from mmsearch.catalog.binding import ENCODER, FINGERPRINT, spec_to_text
from mmsearch.catalog.rows import LEFT_OUT, AnnRow, Changes, KnownItem, NewItem, Relocated, Root, SegmentRow
from mmsearch.types import EncoderSpec, Int64, Modality, PictureMetadata

KNOWN_ITEM = (
    select(
        schema.items.c.id,
        schema.items.c.key,
        schema.items.c.modality,
        schema.items.c.root_id,
        schema.items.c.group_key,
        schema.items.c.size,
        schema.items.c.mtime_ns,
        schema.items.c.scanned_ns,
        schema.items.c.vector_id,
        schema.items.c.width,
        schema.items.c.height,
        schema.vectors.c.content_hash,
    )
    .join(
        schema.vectors,
        (schema.vectors.c.modality == schema.items.c.modality) & (schema.vectors.c.id == schema.items.c.vector_id),
    )
    .order_by(schema.items.c.id)
)
"""What a `KnownItem` is made of; narrow it with `where`."""


# Statements of the inner loop of indexing, made once: building one costs more than SQLite takes to run it.
_KNOWN_BY_KEY = KNOWN_ITEM.where(schema.items.c.key == bindparam("key"))
_KNOWN_BY_CONTENT = KNOWN_ITEM.where(
    schema.vectors.c.modality == bindparam("modality"), schema.vectors.c.content_hash == bindparam("content_hash")
)
VECTOR_OF = select(schema.vectors.c.id).where(
    schema.vectors.c.modality == bindparam("modality"), schema.vectors.c.content_hash == bindparam("content_hash")
)
_ITEM_OF_KEY = select(schema.items.c.id, schema.items.c.modality, schema.items.c.vector_id).where(
    schema.items.c.key == bindparam("key")
)
_INSERT_ITEM = insert(schema.items)
_INSERT_VECTOR = insert(schema.vectors)
_INSERT_ROW = insert(schema.unsealed_vectors)


def to_known_item(row: Any) -> KnownItem:
    """Return a row of `KNOWN_ITEM` as a value."""
    return KnownItem(
        id=row.id,
        key=row.key,
        modality=Modality(row.modality),
        root_id=row.root_id,
        group=row.group_key,
        size=row.size,
        mtime_ns=row.mtime_ns,
        scanned_ns=row.scanned_ns,
        vector_id=row.vector_id,
        content_hash=row.content_hash,
        short_side=None if row.width is None or row.height is None else min(row.width, row.height),
    )


def held_fact(root_id: int) -> str:
    """Return the name under which it is stored how many items a root had when a deletion was held back."""
    return f"held_before:{root_id}"


class Transaction:
    """What a writer may do between BEGIN IMMEDIATE and COMMIT. One thread at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next_ids: dict[Modality, int] = {}  # written once, by `finish`
        self._failures: set[str] | None = None
        self._unused: set[tuple[Modality, int]] = set()  # vectors that lost an item; another may still take them up

    def finish(self) -> None:
        """Write what was put off to the end; called once, before the commit."""
        self._retire_those_put_off()
        for modality, next_id in self._next_ids.items():
            statement = upsert(schema.counters).values(modality=modality, next_id=next_id)
            self._connection.execute(
                statement.on_conflict_do_update(index_elements=["modality"], set_={"next_id": next_id})
            )

    # --- roots ------------------------------------------------------------------------------------------------------

    def root(self, kind: str, path: str, options: str) -> Root:
        """Return the root of that path, with these options from now on, making it if there is none."""
        table = schema.roots
        row = self._connection.execute(select(table).where(table.c.path == path)).one_or_none()
        if row is not None:
            if row.options != options:
                self._connection.execute(update(table).where(table.c.id == row.id).values(options=options))
            return Root(row.id, row.kind, row.path, options)
        key = self._connection.execute(
            insert(table).values(kind=kind, path=path, added_at=time.time(), options=options)
        ).inserted_primary_key
        assert key is not None
        return Root(int(key[0]), kind, path, options)

    def absorb_root(self, root: Root, into: Root) -> None:
        """Hand all that belongs to a root over to another, and forget it."""
        for table in (schema.items, schema.failures):
            self._connection.execute(update(table).where(table.c.root_id == root.id).values(root_id=into.id))
        self._connection.execute(delete(schema.roots).where(schema.roots.c.id == root.id))

    def drop_root(self, root: Root) -> None:
        """Forget a root and its failures; one that has items stays."""
        items = schema.items
        if self._connection.execute(select(items.c.id).where(items.c.root_id == root.id).limit(1)).first() is None:
            self._connection.execute(delete(schema.failures).where(schema.failures.c.root_id == root.id))
            self._connection.execute(delete(schema.roots).where(schema.roots.c.id == root.id))

    # --- vectors ----------------------------------------------------------------------------------------------------

    def vector_of(self, modality: Modality, content_hash: bytes) -> int | None:
        """Return the id of the live vector of that content, seen from inside this transaction."""
        content = {"modality": modality, "content_hash": content_hash}
        return self._connection.execute(VECTOR_OF, content).scalar_one_or_none()

    def known_item(self, key: str) -> KnownItem | None:
        """Return what is known of the item with that key, seen from inside this transaction."""
        row = self._connection.execute(_KNOWN_BY_KEY, {"key": key}).one_or_none()
        return None if row is None else to_known_item(row)

    def items_with_content(self, modality: Modality, content_hash: bytes) -> list[KnownItem]:
        """Return the items of that content, by item id, seen from inside this transaction."""
        found = self._connection.execute(_KNOWN_BY_CONTENT, {"modality": modality, "content_hash": content_hash})
        return [to_known_item(row) for row in found]

    def add_vector(self, modality: Modality, content_hash: bytes, row: bytes) -> int:
        """Store a new vector (its little-endian float16 row) unsealed, and return its id."""
        if modality not in self._next_ids:
            counters = schema.counters
            query = select(counters.c.next_id).where(counters.c.modality == modality)
            self._next_ids[modality] = self._connection.execute(query).scalar_one_or_none() or 0
        vector_id = self._next_ids[modality]
        self._next_ids[modality] += 1
        vector = {"modality": modality, "id": vector_id}
        self._connection.execute(_INSERT_VECTOR, {**vector, "content_hash": content_hash})
        self._connection.execute(_INSERT_ROW, {**vector, "row": row})
        return vector_id

    def _retire_those_put_off(self) -> None:
        for modality, vector_id in sorted(self._unused):
            self._retire(modality, vector_id)
        self._unused.clear()

    def _retire(self, modality: Modality, vector_id: int) -> None:
        """Let a vector go that no item needs any more; its id stays taken and becomes a dead one."""
        items = schema.items
        users = select(items.c.id).where(items.c.modality == modality, items.c.vector_id == vector_id).limit(1)
        if self._connection.execute(users).first() is None:
            table = schema.vectors
            self._connection.execute(delete(table).where(table.c.modality == modality, table.c.id == vector_id))
            self._connection.execute(insert(schema.dead_vectors).values(modality=modality, id=vector_id))

    def items_of_vectors(self, modality: Modality, first: int, end: int) -> list[tuple[int, str]]:
        """Return the id and key of each item whose vector is one of `first` … `end − 1`."""
        items = schema.items.c
        where = (items.modality == modality, items.vector_id >= first, items.vector_id < end)
        return [(row.id, row.key) for row in self._connection.execute(select(items.id, items.key).where(*where))]

    def key_of(self, item_id: int) -> str | None:
        """Return the key of an item, None where there is none."""
        items = schema.items.c
        return self._connection.execute(select(items.key).where(items.id == item_id)).scalar_one_or_none()

    def retire_unused(self, modality: Modality) -> int:
        """Let vectors go that no item needs, and return how many there were."""
        vectors, items = schema.vectors.c, schema.items.c
        users = select(items.id).where(items.modality == modality, items.vector_id == vectors.id)
        unused = select(vectors.id).where(vectors.modality == modality, ~users.exists())
        found = list(self._connection.execute(unused).scalars())
        for vector_id in found:
            self._retire(modality, vector_id)
        return len(found)

    # --- items ------------------------------------------------------------------------------------------------------

    def put_item(self, item: NewItem, root_id: int, vector_id: int) -> bool:
        """Store an item under its key and forget a failure of that key; return True when the key is new."""
        table = schema.items
        values = {
            "modality": item.modality,
            "uri": item.uri,
            "group_key": item.group,
            "text": item.text,
            "vector_id": vector_id,
            "size": item.size,
            "mtime_ns": item.mtime_ns,
            "scanned_ns": item.scanned_ns,
            **_told(item),
        }
        self.clear_failure(item.key)
        old = self._connection.execute(_ITEM_OF_KEY, {"key": item.key}).one_or_none()
        if old is None:
            self._connection.execute(_INSERT_ITEM, {"key": item.key, "root_id": root_id, **values})
            return True
        self._connection.execute(update(table).where(table.c.id == old.id).values(**values))
        if old.vector_id != vector_id:
            self._unused.add((Modality(old.modality), old.vector_id))
        return False

    def move_item(self, item_id: int, item: NewItem, root_id: int) -> None:
        """Give an item another key and place, and store what its file tells; its id and vector stay."""
        self.clear_failure(item.key)
        self._connection.execute(
            update(schema.items)
            .where(schema.items.c.id == item_id)
            .values(
                key=item.key,
                uri=item.uri,
                group_key=item.group,
                root_id=root_id,
                size=item.size,
                mtime_ns=item.mtime_ns,
                scanned_ns=item.scanned_ns,
                **_told(item),
            )
        )

    def touch_item(self, item_id: int, item: NewItem) -> bool:
        """Store what an item's file tells, looked at again with the same content; return True when facts differ."""
        table = schema.items
        told = {"mtime_ns": item.mtime_ns, **_told(item)}
        before = self._connection.execute(select(*(table.c[name] for name in told)).where(table.c.id == item_id)).one()
        self._connection.execute(
            update(table).where(table.c.id == item_id).values(size=item.size, scanned_ns=item.scanned_ns, **told)
        )
        return tuple(before) != tuple(told.values())

    def count_items(self, root_id: int) -> int:
        """Return how many items a root has, seen from inside this transaction."""
        query = select(func.count()).select_from(schema.items).where(schema.items.c.root_id == root_id)
        return int(self._connection.execute(query).scalar_one())

    def adopt_item(self, item_id: int, root_id: int) -> None:
        """Hand an item over to another root that also names it."""
        self._connection.execute(update(schema.items).where(schema.items.c.id == item_id).values(root_id=root_id))

    def delete_items(self, item_ids: Iterable[int]) -> int:
        """Delete items, retire vectors that served them alone, and return how many there were."""
        table = schema.items
        deleted = 0
        for item_id in item_ids:
            row = self._connection.execute(
                select(table.c.modality, table.c.vector_id).where(table.c.id == item_id)
            ).one_or_none()
            if row is not None:
                self._connection.execute(delete(table).where(table.c.id == item_id))
                self._unused.add((Modality(row.modality), row.vector_id))
                deleted += 1
        return deleted

    def caption_ids(self, group: str, root_id: int) -> list[int]:
        """Return the ids of a root's captions for one picture."""
        table = schema.items
        query = select(table.c.id).where(
            table.c.group_key == group,  # by which it is found: SQLite would go through all of the root
            table.c.root_id + 0 == root_id,
            table.c.modality.concat("") == Modality.TEXT,
        )
        return list(self._connection.execute(query).scalars())

    # --- failures ---------------------------------------------------------------------------------------------------

    def put_failure(self, key: str, root_id: int, *, size: int, mtime_ns: int, reason: str) -> None:
        """Record that a file could not be read, and as what it was seen."""
        values = {"root_id": root_id, "size": size, "mtime_ns": mtime_ns, "reason": reason, "at": time.time()}
        if self._failures is not None:
            self._failures.add(key)
        statement = upsert(schema.failures).values(key=key, **values)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))

    def clear_failure(self, key: str) -> None:
        """Forget a failure, if there is one."""
        table = schema.failures
        if self._failures is None:
            self._failures = set(self._connection.execute(select(table.c.key)).scalars())
        if key in self._failures:
            self._failures.remove(key)
            self._connection.execute(delete(table).where(table.c.key == key))

    def forget_left_out(self, root_id: int) -> None:
        """Forget which files of a root were left out: from now on others may be."""
        table = schema.failures
        where = (table.c.root_id == root_id, table.c.reason.like(LEFT_OUT + "%"))
        self._connection.execute(delete(table).where(*where))
        self._failures = None

    # --- places -----------------------------------------------------------------------------------------------------

    def forget_failures(self, place: str) -> int:
        """Forget the failures at or below a place, and return how many there were."""
        self._failures = None
        return places.forget_failures(self._connection, place)

    def relocate(self, old: str, new: str) -> Relocated:
        """Let all that lies at or below `old` lie at or below `new`, but for roots; see `places.relocate`."""
        self._failures = None
        return places.relocate(self._connection, old, new)

    def hand_over(self, place: str, root_id: int, into_id: int) -> int:
        """Hand what lies at or below a place from one root to another, and return how many items that are."""
        return places.hand_over(self._connection, place, root_id, into_id)

    def rename_roots(self, renamed: Sequence[Root]) -> None:
        """Give roots, by their ids, the paths and options that these have."""
        table = schema.roots
        for path in ({root.id: f"\1{root.path}" for root in renamed}, {root.id: root.path for root in renamed}):
            for root in renamed:  # in two steps: paths are unique, and some may change places
                values = {"path": path[root.id], "options": root.options}
                self._connection.execute(update(table).where(table.c.id == root.id).values(**values))

    # --- commits, files and facts -----------------------------------------------------------------------------------

    def add_commit(self, changes: Changes) -> int:
        """Number this commit and note what it changed."""
        values = dataclasses.asdict(changes)
        key = self._connection.execute(insert(schema.commits).values(at=time.time(), **values)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def seal(self, segment: SegmentRow) -> None:
        """Name a segment file and drop the unsealed rows that it now holds."""
        self._connection.execute(insert(schema.segments).values(**dataclasses.asdict(segment)))
        table = schema.unsealed_vectors
        end = segment.first_id + segment.rows
        self._connection.execute(delete(table).where(table.c.modality == segment.modality, table.c.id < end))
        self._next_layout()

    def replace_segments(self, old: Sequence[SegmentRow], new: Sequence[SegmentRow], *, dead: Int64) -> None:
        """Name segment files in place of those whose rows they hold, but for those of the ids `dead` (n,)."""
        table, gone = schema.segments, schema.dead_vectors
        for segment in old:
            self._connection.execute(delete(table).where(table.c.file == segment.file))
            within = (gone.c.id >= segment.first_id) & (gone.c.id < segment.end) & (gone.c.modality == segment.modality)
            if len(dead):
                self._connection.execute(delete(gone).where(within))
        for segment in new:
            self._connection.execute(insert(table).values(**dataclasses.asdict(segment)))
        self._next_layout()

    def bind(self, spec: EncoderSpec) -> None:
        """Note which encoder the rows are of."""
        self.set_fact(FINGERPRINT, spec.fingerprint)
        self.set_fact(ENCODER, spec_to_text(spec))

    def switch_encoder(
        self,
        spec: EncoderSpec,
        segments: Sequence[SegmentRow],
        *,
        ids: Mapping[Modality, Int64],
        changed: Mapping[int, bytes],
    ) -> None:
        """Let rows of another encoder take the place of all there are; see `switching.switch`."""
        self._retire_those_put_off()
        switching.switch(self._connection, segments, ids, changed)
        self.bind(spec)
        self._next_layout()

    def set_ann(self, modality: Modality, row: AnnRow | None) -> None:
        """Name the ANN index file of a modality, or that there is none."""
        table = schema.ann_indexes
        self._connection.execute(delete(table).where(table.c.modality == modality))
        if row is not None:
            self._connection.execute(insert(table).values(**dataclasses.asdict(row)))
        self._next_layout()

    def set_fact(self, name: str, value: str) -> None:
        """Store a setting of the collection."""
        statement = upsert(schema.facts).values(name=name, value=value)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def held_before(self, root_id: int) -> int | None:
        """Return how many items a root had when a deletion was held back, seen from inside this transaction."""
        table = schema.facts
        query = select(table.c.value).where(table.c.name == held_fact(root_id))
        value: str | None = self._connection.execute(query).scalar_one_or_none()
        return int(value) if value else None

    def _next_layout(self) -> None:
        query: Any = select(func.max(schema.facts.c.value)).where(schema.facts.c.name == "layout")
        self.set_fact("layout", str(int(self._connection.execute(query).scalar_one() or 0) + 1))


def _told(item: NewItem) -> dict[str, Any]:
    """Return the columns of what a picture tells of itself."""
    if item.modality is not Modality.IMAGE:
        return {}
    told = item.metadata or PictureMetadata()
    return {
        "width": item.width,
        "height": item.height,
        "format": item.format,
        **dataclasses.asdict(told),
        "taken_ns": item.mtime_ns if told.taken_ns is None else told.taken_ns,
        "keywords": "\n".join(told.keywords) or None,
    }
