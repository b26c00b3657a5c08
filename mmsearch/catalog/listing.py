"""Lists of what a catalog holds, in the order of paths, a page at a time: never all of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import func, select

from mmsearch.catalog import places, schema
from mmsearch.catalog.catalog import Catalog, captions_of, to_item
from mmsearch.catalog.places import Place, place_of
from mmsearch.catalog.rows import LEFT_OUT, KnownFailure, ListedItem, Root
from mmsearch.types import Modality

_PAGE = 1000

Ranges = tuple[tuple[str, str], ...]


def listed_items(
    catalog: Catalog, modality: Modality, *, under: str | None = None, with_places: bool = False
) -> Iterator[ListedItem]:
    """Yield the items of a modality by key, of those at or below `under`; pictures with their captions."""
    table = schema.items
    for first, end in _ranges(catalog, under, places.ranges):
        last = None
        while True:
            is_wanted = table.c.modality.concat("") == modality  # else SQLite sorts the whole modality for every page
            where = [is_wanted, table.c.key >= first, table.c.key < end]
            query = select(table).where(*where).order_by(table.c.key).limit(_PAGE)
            with catalog.database.read() as connection:
                rows = connection.execute(query if last is None else query.where(table.c.key > last)).all()
                groups = {row.group_key for row in rows} if modality is Modality.IMAGE else set()
                captions = captions_of(connection, groups)
            for row in rows:
                degrees = (row.latitude, row.longitude) if with_places else (None, None)
                yield ListedItem(to_item(row, captions.get(row.group_key, ())), row.size, row.mtime_ns, *degrees)
            if len(rows) < _PAGE:
                break
            last = rows[-1].key


def listed_failures(catalog: Catalog, *, under: str | None = None) -> Iterator[KnownFailure]:
    """Yield the files that could not be read, by key, of those at or below `under`."""
    table = schema.failures
    for first, end in _ranges(catalog, under, places.failure_ranges):
        last = None
        while True:
            where = [table.c.reason.not_like(LEFT_OUT + "%"), table.c.key >= first, table.c.key < end]
            query = select(table).where(*where).order_by(table.c.key).limit(_PAGE)
            with catalog.database.read() as connection:
                rows = connection.execute(query if last is None else query.where(table.c.key > last)).all()
            for row in rows:
                yield KnownFailure(row.key, row.size, row.mtime_ns, row.reason)
            if len(rows) < _PAGE:
                break
            last = rows[-1].key


def counted_roots(catalog: Catalog) -> list[tuple[Root, int]]:
    """Return the sources by path, with how many items each has."""
    items = schema.items.c
    with catalog.database.read() as connection:
        counts = {
            row[0]: int(row[1])
            for row in connection.execute(select(items.root_id, func.count()).group_by(items.root_id))
        }
    return [(root, counts.get(root.id, 0)) for root in catalog.roots()]


def _ranges(catalog: Catalog, under: str | None, ranges: Callable[[Place], Ranges]) -> Ranges:
    """Return, in their order, the ranges [first, end) of keys at or below `under`, or that of all keys."""
    if under is None:
        return (("", chr(0x10FFFF)),)
    with catalog.database.read() as connection:
        return ranges(place_of(connection, under))
