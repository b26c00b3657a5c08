"""What lies at or below a place: questions and changes of a whole folder, archive or corpus at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from mmsearch.catalog import schema
from mmsearch.catalog.rows import Relocated
from mmsearch.errors import CollectionError
from mmsearch.types import Modality

_AWAY = "\1"  # stands for the old place while things move: no absolute path begins so


def item_ids(connection: Connection, place: str) -> list[int]:
    """Return the ids of the items at or below a place, and of the captions of pictures there."""
    items = schema.items.c
    query = select(items.id).where(or_(_at(items.key, place), _at(items.group_key, place)))
    return list(connection.execute(query).scalars())


def items_of_root(connection: Connection, root_id: int) -> list[tuple[int, str, bool]]:
    """Return the id and key of each item of a root, and whether it is a picture."""
    items = schema.items.c
    rows = connection.execute(select(items.id, items.key, items.modality).where(items.root_id == root_id))
    return [(row.id, row.key, row.modality == Modality.IMAGE) for row in rows]


def roots_at(connection: Connection, place: str) -> set[int]:
    """Return the ids of the roots that have items at or below a place, or captions of pictures there."""
    items = schema.items.c
    query = select(items.root_id).where(or_(_at(items.key, place), _at(items.group_key, place))).distinct()
    return set(connection.execute(query).scalars())


def count_failures(connection: Connection, place: str) -> int:
    """Return how many failures lie at or below a place."""
    table = schema.failures
    return int(connection.execute(select(func.count()).select_from(table).where(_failed(place))).scalar_one())


def forget_failures(connection: Connection, place: str) -> int:
    """Forget the failures at or below a place, and return how many there were."""
    return int(connection.execute(delete(schema.failures).where(_failed(place))).rowcount)


def hand_over(connection: Connection, place: str, root_id: int, into_id: int) -> int:
    """Hand what lies at or below a place from one root to another, and return how many items that are."""
    items, failures = schema.items, schema.failures
    there = or_(_at(items.c.key, place), _at(items.c.group_key, place))
    moved = connection.execute(update(items).where(items.c.root_id == root_id, there).values(root_id=into_id))
    where = (failures.c.root_id == root_id, _at(failures.c.key, place))
    connection.execute(update(failures).where(*where).values(root_id=into_id))
    return int(moved.rowcount)


def relocate(connection: Connection, old: str, new: str) -> Relocated:
    """Let all that lies at or below `old` lie at or below `new`: keys, uris and groups, but not the roots.

    Captions of a corpus are named by their corpus and then by their picture, so both may be renamed. Raise
    CollectionError when a new key is taken.
    """
    roots, items, failures = schema.roots, schema.items, schema.failures
    corpora = connection.execute(select(roots.c.path).where(roots.c.kind.not_in(["folder", "file"]))).scalars().all()
    try:
        # In two steps, for one of the two places may lie below the other.
        count = _rename(connection, items.c.key, old, _AWAY)
        failed = _rename(connection, failures.c.key, old, _AWAY)
        forget_failures(connection, new)  # of what lay there before: the next scan tells them anew
        _rename(connection, items.c.key, _AWAY, new)
        _rename(connection, failures.c.key, _AWAY, new)
        for column in (items.c.uri, items.c.group_key):
            _rename(connection, column, old, _AWAY)
            _rename(connection, column, _AWAY, new)
        for corpus in corpora:
            prefix = relocated(corpus, old, new) + "#"
            count += _rename(connection, items.c.key, old, _AWAY, behind=prefix)
            _rename(connection, items.c.key, _AWAY, new, behind=prefix)
    except IntegrityError as error:
        raise CollectionError(
            f"The collection already holds something of the same name below {new}: remove that first with"
            f" 'mmsearch remove', or index {new} instead."
        ) from error
    return Relocated(count, failed)


def relocated(path: str, old: str, new: str) -> str:
    """Return where a path is once what lay at or below `old` lies at or below `new`."""
    prefix = old.rstrip("/")
    rest = path.removeprefix(prefix)
    is_there = path.startswith(prefix) and (not rest or rest[0] in "/#")
    return (new.rstrip("/") + rest or "/") if is_there else path


def _rename(connection: Connection, column: Any, old: str, new: str, *, behind: str = "") -> int:
    """Put one prefix in place of another in every row, and return how many rows that changed."""
    before, after = behind + old.rstrip("/"), behind + new.rstrip("/")
    where = _failed(before) if column.table is schema.failures else _at(column, before)
    renamed = literal(after).concat(func.substr(column, len(before) + 1))
    done = connection.execute(update(column.table).where(where).values({column.name: renamed}))
    return int(done.rowcount)


def _at(column: Any, place: str) -> Any:
    """Return the clause for what is a place, lies in that folder, or is a member or caption of that file."""
    prefix = place.rstrip("/")
    ranges = [(column >= prefix + mark) & (column < prefix + end) for mark, end in (("/", "0"), ("#", "$"))]
    return or_(column == prefix, *ranges)


def _failed(place: str) -> Any:
    """Return the clause for failures at or below a place, also those of the lines of a corpus."""
    key = schema.failures.c.key
    prefix = place.rstrip("/") + ":"
    return or_(_at(key, place), (key >= prefix) & (key < prefix[:-1] + ";"))
