"""Forget pictures, folders below a source, or whole sources; files on the disk are never touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmsearch.catalog import places
from mmsearch.catalog.rows import Root
from mmsearch.collection.collection import Collection
from mmsearch.collection.scope import FILES, MASS_DELETE_MIN, holder, is_below
from mmsearch.collection.writer import Writer
from mmsearch.config import plain_path
from mmsearch.errors import SourceError


@dataclass(frozen=True, slots=True)
class ComesBack:
    """A place that was forgotten, lies on the disk, and belongs to a source that is still there."""

    place: str
    root: Root


@dataclass(frozen=True, slots=True)
class RemovalReport:
    """What was forgotten; `held_back` items would have been but are too many to do so unasked, and nothing was."""

    items: int = 0
    failures: int = 0
    roots: tuple[str, ...] = ()
    held_back: int = 0
    comes_back: tuple[ComesBack, ...] = ()


def remove(collection: Collection, paths: Sequence[str], *, allow_mass_delete: bool = False) -> RemovalReport:
    """Forget what lies at or below paths, with captions, failures and sources, all of it or nothing.

    `allow_mass_delete` confirms that more than half of the collection, and over 20 items, may go. Pictures of a corpus
    that a folder holds too are handed to that folder. Raise SourceError for a path that the collection does not know.
    """
    asked = [str(plain_path(path)) for path in paths]
    with collection.writer() as writer:
        roots = collection.catalog.roots()
        going = [root for root in roots if any(is_below(root.path, place) for place in asked)]
        staying = [root for root in roots if root not in going]
        doomed, adopted, failures = _found(collection, asked, going, staying)
        total = sum(collection.catalog.counts().items.values())
        if len(doomed) > MASS_DELETE_MIN and 2 * len(doomed) > total and not allow_mass_delete:
            return RemovalReport(held_back=len(doomed))
        comes_back = _come_back(collection, asked, staying)
        for item_id, root in adopted.items():
            writer.adopt(item_id, root)
        writer.delete(doomed)
        _forget(writer, asked, going)
    return RemovalReport(len(doomed), failures, tuple(root.path for root in going), 0, comes_back)


def _found(
    collection: Collection, asked: Sequence[str], going: Sequence[Root], staying: Sequence[Root]
) -> tuple[list[int], dict[int, Root], int]:
    """Return the ids of items to forget, those to hand to a folder, and how many failures there are."""
    doomed: set[int] = set()
    adopted: dict[int, Root] = {}
    failures = 0
    with collection.catalog.database.read() as connection:
        for place in asked:
            ids = places.item_ids(connection, place)
            failed = places.count_failures(connection, place)
            if not ids and not failed and not any(is_below(root.path, place) for root in going):
                raise SourceError(f"Nothing at {place} is in the collection: 'mmsearch list' shows what is.")
            doomed.update(ids)
            failures += failed
        for root in going:
            for item_id, key, is_picture in places.items_of_root(connection, root.id):
                folder = holder(key, staying) if is_picture and root.kind not in FILES else None
                if folder is None:
                    doomed.add(item_id)
                elif item_id not in doomed:
                    adopted[item_id] = folder
    return sorted(doomed), adopted, failures


def _come_back(collection: Collection, asked: Sequence[str], staying: Sequence[Root]) -> tuple[ComesBack, ...]:
    """Return what the next run of the indexer will find again, each place with the first source that holds it."""
    found = []
    for place in asked:
        if Path(place).exists():
            with collection.catalog.database.read() as connection:
                losing = places.roots_at(connection, place)
            corpora = [root for root in staying if root.kind not in FILES and root.id in losing]
            root = holder(place, staying) or next(iter(corpora), None)
            found += [] if root is None else [ComesBack(place, root)]
    return tuple(found)


def _forget(writer: Writer, asked: Sequence[str], going: Sequence[Root]) -> None:
    for place in asked:
        writer.forget_failures(place)
    for root in going:
        writer.hold_back(root, None)  # the number of a root may be given out again
        writer.drop_root(root)
