"""After a disk or folder was moved: what lay at the old place lies at the new one, and nothing is embedded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmsearch.catalog.places import relocated
from mmsearch.catalog.rows import Root
from mmsearch.collection.collection import Collection
from mmsearch.collection.scope import FILES, holder, is_below, is_scanned_below
from mmsearch.collection.writer import Writer
from mmsearch.config import plain_path
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import CollectionError, SourceError


@dataclass(frozen=True, slots=True)
class RelocationReport:
    """How many items and failures are at the new place now, and the paths of the sources that changed theirs."""

    items: int
    failures: int
    roots: tuple[str, ...]


def relocate(collection: Collection, old: str, new: str, *, missing_ok: bool = False) -> RelocationReport:
    """Rename all that lies at or below `old` (keys, captions, sources, folders of corpora) to `new`, at once.

    The new place must be there unless `missing_ok`. Raise SourceError when it is not or when nothing is known of the
    old one, CollectionError when the collection already holds something of the same names at the new one.
    """
    before, after = str(plain_path(old)), str(plain_path(new))
    if before == after:
        raise SourceError(f"{after} is the old place and the new one: name where it was and where it is now.")
    if not missing_ok and not Path(after).exists():
        raise SourceError(f"{after} is not there: move the files first, or say --missing-ok.")
    with collection.writer() as writer:
        roots = collection.catalog.roots()
        renamed = [_renamed(root, before, after) for root in roots]
        changed = [root for root, was in zip(renamed, roots, strict=True) if root != was]
        moved = writer.relocate(before, after)
        if not moved.items and not moved.failures and not changed:
            raise SourceError(f"Nothing at {before} is in the collection: 'mmsearch list --roots' shows its sources.")
        left = _put_roots(writer, renamed, changed)
        _adopt_strays(writer, left, before, after)
    return RelocationReport(moved.items, moved.failures, tuple(root.path for root in changed))


def _renamed(root: Root, old: str, new: str) -> Root:
    """Return a root as it is after the move; a corpus may also name the folder of its pictures."""
    options = root.options
    if root.kind not in FILES and options:
        told = CorpusOptions.from_text(options)
        if told.images is not None:
            options = replace(told, images=relocated(told.images, old, new)).as_text()
    return replace(root, path=relocated(root.path, old, new), options=options)


def _put_roots(writer: Writer, renamed: Sequence[Root], changed: Sequence[Root]) -> list[Root]:
    """Give the roots their new paths and return them; one that is now another, or lies in one, is absorbed by it."""
    left: list[Root] = []
    for root in sorted(renamed, key=lambda root: (len(root.path), root in changed)):
        same = next((other for other in left if other.path == root.path), None)
        into = same or (holder(root.path, left) if root.kind in FILES else None)
        if same is not None and same.kind != root.kind:
            raise CollectionError(f"{root.path} is a source of another kind already: remove it with 'mmsearch remove'.")
        was_apart = root in changed or into in changed
        if into is not None and was_apart:
            writer.absorb(root, into)
        else:
            left.append(root)
    writer.rename_roots([root for root in left if root in changed])
    return left


def _adopt_strays(writer: Writer, roots: Sequence[Root], old: str, new: str) -> None:
    """Hand what was moved out of a folder that itself has stayed to the source at its new place, made if need be."""
    for root in roots:
        if root.kind != "folder" or is_below(root.path, old) or not is_below(old, root.path):
            continue
        if not is_scanned_below(new, root.path):
            there = holder(new, roots)
            into = there or writer.root("file" if Path(new).is_file() else "folder", new, root.options)
            writer.hand_over(new, root, into)
