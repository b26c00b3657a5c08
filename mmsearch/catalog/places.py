"""What lies at or below a place: questions and changes of a whole folder, archive or corpus at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, func, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from mmsearch.catalog import schema
from mmsearch.catalog.filters import is_file_name
from mmsearch.catalog.rows import Relocated
from mmsearch.errors import CollectionError
from mmsearch.types import Modality

_AWAY = "\1"  # stands for the old place while things move: no absolute path begins so
_NO_CORPUS = ("folder", "file")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or file, and what else belongs to it besides what lies below it.

    `has_parts`: `path#…` are its members, captions or records; a folder of that name is a neighbour. `has_lines`:
    `path:7` is a failure of its seventh line.
    """

    path: str
    has_parts: bool
    has_lines: bool


def place_of(connection: Connection, path: str) -> Place:
    """Return what a place is: told by the source that it is, else by whether anything lies below it, and its name."""
    roots, items = schema.roots.c, schema.items.c
    kind = connection.execute(select(roots.kind).where(roots.path == path)).scalar()
    if kind is not None:
        return Place(path, kind != "folder", kind not in _NO_CORPUS)
    corpora = connection.execute(select(roots.path).where(roots.kind.not_in(_NO_CORPUS))).scalars()
    if any(path.startswith(corpus + "#") for corpus in corpora):
        return Place(path, has_parts=True, has_lines=False)
    prefix = path.rstrip("/")
    inside = select(items.id).where(items.key >= prefix + "/", items.key < prefix + "0").limit(1)
    is_file = is_file_name(path) and connection.execute(inside).first() is None
    return Place(path, has_parts=is_file, has_lines=False)


def item_ids(connection: Connection, place: str) -> list[int]:
    """Return the ids of the items at or below a place, and of the captions of pictures there."""
    query = select(schema.items.c.id).where(_items_at(place_of(connection, place)))
    return list(connection.execute(query).scalars())


def items_of_root(connection: Connection, root_id: int) -> list[tuple[int, str, bool]]:
    """Return the id and key of each item of a root, and whether it is a picture."""
    items = schema.items.c
    rows = connection.execute(select(items.id, items.key, items.modality).where(items.root_id == root_id))
    return [(row.id, row.key, row.modality == Modality.IMAGE) for row in rows]


def roots_at(connection: Connection, place: str) -> set[int]:
    """Return the ids of the roots that have items at or below a place, or captions of pictures there."""
    query = select(schema.items.c.root_id).where(_items_at(place_of(connection, place))).distinct()
    return set(connection.execute(query).scalars())


def count_failures(connection: Connection, place: str) -> int:
    """Return how many failures lie at or below a place."""
    failed = _failed(place_of(connection, place))
    return int(connection.execute(select(func.count()).select_from(schema.failures).where(failed)).scalar_one())


def forget_failures(connection: Connection, place: str) -> int:
    """Forget the failures at or below a place, and return how many there were."""
    return _forget_failures(connection, place_of(connection, place))


def _forget_failures(connection: Connection, place: Place) -> int:
    return int(connection.execute(delete(schema.failures).where(_failed(place))).rowcount)


def hand_over(connection: Connection, place: str, root_id: int, into_id: int) -> int:
    """Hand what lies at or below a place from one root to another, and return how many items that are."""
    items, failures = schema.items, schema.failures
    there = place_of(connection, place)
    where = (items.c.root_id == root_id, _items_at(there))
    moved = connection.execute(update(items).where(*where).values(root_id=into_id))
    connection.execute(update(failures).where(failures.c.root_id == root_id, _failed(there)).values(root_id=into_id))
    return int(moved.rowcount)


def relocate(connection: Connection, old: str, new: str) -> Relocated:
    """Let all that lies at or below `old` lie at or below `new`: keys, uris and groups, but not the roots.

    Captions of a corpus are named by their corpus and then by their picture, so both may be renamed. Raise
    CollectionError when a new key is taken.
    """
    roots, items, failures = schema.roots, schema.items, schema.failures
    corpora = connection.execute(select(roots.c.path).where(roots.c.kind.not_in(_NO_CORPUS))).scalars().all()
    leaving = place_of(connection, old)
    away, coming = replace(leaving, path=_AWAY), replace(leaving, path=new)
    try:
        # In two steps, for one of the two places may lie below the other.
        count = _rename(connection, items.c.key, leaving, _AWAY)
        failed = _rename(connection, failures.c.key, leaving, _AWAY)
        _forget_failures(connection, coming)  # of what lay there before: the next scan tells them anew
        _rename(connection, items.c.key, away, new)
        _rename(connection, failures.c.key, away, new)
        for column in (items.c.uri, items.c.group_key):
            _rename(connection, column, leaving, _AWAY)
            _rename(connection, column, away, new)
        for corpus in corpora:
            prefix = relocated(corpus, old, new) + "#"
            behind = _rename(connection, items.c.key, leaving, _AWAY, behind=prefix)
            count += 0 if _lies_at(corpus, old) else behind  # those were counted with their corpus
            _rename(connection, items.c.key, away, new, behind=prefix)
    except IntegrityError as error:
        raise CollectionError(
            f"The collection already holds something of the same name below {new}: remove that first with"
            f" 'mmsearch remove', or index {new} instead."
        ) from error
    return Relocated(count, failed)


def relocated(path: str, old: str, new: str) -> str:
    """Return where a folder or file is once what lay at or below `old` lies at or below `new`."""
    return (new.rstrip("/") + path.removeprefix(old.rstrip("/")) or "/") if _lies_at(path, old) else path


def _lies_at(path: str, folder: str) -> bool:
    prefix = folder.rstrip("/")
    return path == prefix or path.startswith(prefix + "/")


def _rename(connection: Connection, column: Any, place: Place, new: str, *, behind: str = "") -> int:
    """Put one prefix in place of another in every row, and return how many rows that changed."""
    before, after = behind + place.path.rstrip("/"), behind + new.rstrip("/")
    there = replace(place, path=before)
    where = _failed(there) if column.table is schema.failures else _at(column, there)
    renamed = literal(after).concat(func.substr(column, len(before) + 1))
    done = connection.execute(update(column.table).where(where).values({column.name: renamed}))
    return int(done.rowcount)


def _items_at(place: Place) -> Any:
    """Return the clause for items at or below a place, and captions of pictures there."""
    return or_(_at(schema.items.c.key, place), _at(schema.items.c.group_key, place))


def _at(column: Any, place: Place) -> Any:
    """Return the clause for what is a place, lies in that folder, or is a part of that file."""
    return or_(*((column >= first) & (column < end) for first, end in ranges(place)))


def _failed(place: Place) -> Any:
    """Return the clause for failures at or below a place, also those of the lines of a corpus."""
    key = schema.failures.c.key
    return or_(*((key >= first) & (key < end) for first, end in failure_ranges(place)))


def ranges(place: Place) -> tuple[tuple[str, str], ...]:
    """Return, in their order, the ranges [first, end) of keys: a place itself, its parts, and what lies below it."""
    prefix = place.path.rstrip("/")
    parts = ((prefix + "#", prefix + "$"),) if place.has_parts else ()
    return ((prefix, prefix + "\0"), *parts, (prefix + "/", prefix + "0"))


def failure_ranges(place: Place) -> tuple[tuple[str, str], ...]:
    """Return `ranges` and, behind them, that of the lines of a corpus."""
    prefix = place.path.rstrip("/")
    return (*ranges(place), *(((prefix + ":0", prefix + "::"),) if place.has_lines else ()))
