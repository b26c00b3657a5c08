"""Planner: compares what a scan finds with what the catalog knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto

from indexer.patterns import FolderOptions
from indexer.told import is_told
from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.rows import KnownItem, Root
from mmsearch.collection.scope import FILES, MASS_DELETE_MIN, is_below, is_scanned_below
from mmsearch.corpora.records import text_hash
from mmsearch.types import Modality, ScanFailure, Source, SourceEntry

RACY_NS = 2_000_000_000
"""A file written within two seconds of its scan may change again within the resolution of its clock."""


class Action(Enum):
    """What is to be done with an entry."""

    KEEP = auto()  # there and unchanged
    SKIP = auto()  # could not be read before and has not changed
    LEAVE_OUT = auto()  # too small
    LOAD = auto()  # new, changed, or to be compared by content
    LINK = auto()  # the same caption, now of another picture
    REPEATED = auto()  # dealt with already, in this run


def covering_root(roots: Sequence[Root], source: Source) -> Root | None:
    """Return the known root that a source is or lies below, None when it is to be a root of its own."""
    for root in roots:
        if root.path == source.root:
            return root
    for root in roots:
        if root.kind == "folder" and source.kind in FILES and is_scanned_below(source.root, root.path):
            return root
    return None


def min_size(source: Source) -> int:
    """Return the least shorter side, in pixels, of the pictures that are wanted of a source."""
    return FolderOptions.from_text(source.options).min_size if source.kind == "folder" else 0


class Planner:
    """The plan of one source: feed it every entry of the scan, then ask what has gone."""

    def __init__(
        self,
        catalog: Catalog | None,
        root: Root | None,
        source: Source,
        *,
        taken: set[str],
        elsewhere: Callable[[str], KnownItem | None],
        count: Callable[[Root], int],
        rehash: bool,
    ) -> None:
        """Plan for `source`, which is `root` or a part of it; neither catalog nor root when nothing is known yet.

        `taken` holds the keys that earlier sources of this run have dealt with, and takes those of this one in.
        `elsewhere` tells what other roots know of a key: a file is one item, whatever roots name it.
        `count` tells how many items a root has: deletions in a part of it are measured against all of them.
        """
        self._place = source.root
        self._scope = None if root is None or root.path == source.root else source.root
        self._min_size = min_size(source)
        known = catalog.known_items(root.id, self._scope) if catalog and root else ()
        self._known = {item.key: item for item in known}
        self.known_before = len(self._known) if root is None or self._scope is None else count(root)
        self._failures = catalog.known_failures(root.id) if catalog and root else {}
        self._elsewhere = elsewhere
        self._rehash = rehash
        self._taken = taken
        self._seen: set[str] = set()
        self._failing: set[str] = set()
        self._unreadable: list[str] = []
        self._moved: set[str] = set()
        self.held_before = catalog.held_before(root.id) if catalog and root else None

    def known(self, key: str) -> KnownItem | None:
        """Return what the catalog knows of a key, by this root or another."""
        return self._known.get(key) or self._elsewhere(key)

    def classify(self, entry: SourceEntry) -> Action:
        """Return what to do with an entry, and remember that it is there."""
        self._seen.add(entry.key)
        if entry.key in self._taken:
            return Action.REPEATED
        self._taken.add(entry.key)
        item = self.known(entry.key)
        if item is None:
            failure = self._failures.get(entry.key)
            same = failure is not None and (failure.size, failure.mtime_ns) == (entry.size, entry.mtime_ns)
            if failure is not None and same and not self._rehash:
                self._failing.add(entry.key)
                return Action.LEAVE_OUT if failure.is_left_out else Action.SKIP
            return Action.LOAD
        if entry.modality is Modality.TEXT:
            if item.content_hash != text_hash(entry.text or ""):
                return Action.LOAD
            return Action.KEEP if item.group == entry.group else Action.LINK
        stamped = (item.size, item.mtime_ns) == (entry.size, entry.mtime_ns)
        racy = item.mtime_ns > item.scanned_ns - RACY_NS
        if not stamped or racy or self._rehash:
            return Action.LOAD
        if item.short_side is not None and item.short_side < self._min_size:
            self.load_failed(entry.key, keep_item=False)
            return Action.LEAVE_OUT
        return Action.KEEP

    def scan_failed(self, failure: ScanFailure) -> None:
        """Remember that something was there and could not be looked at, or that it is not there any more."""
        self._failing.add(failure.key)
        if not failure.missing:
            self._seen.add(failure.key)
        if failure.subtree:
            self._unreadable.append(failure.key)

    def load_failed(self, key: str, *, keep_item: bool) -> None:
        """Remember that a file could not be read; unless its item is kept, it counts as gone."""
        self._failing.add(key)
        if not keep_item:
            self._seen.discard(key)

    def was_seen(self, key: str) -> bool:
        """Return True when the scan has come across the key."""
        return key in self._seen

    def moved(self, key: str) -> None:
        """Forget an old key: its item lives on under another."""
        self._known.pop(key, None)
        self._moved.add(key)

    def close(self) -> None:
        """Let go of what is not needed any more when every entry has been dealt with; `gone` and `holds` still are."""
        self._known = {item.key: item for item in self.gone()}

    def holds(self, item: KnownItem) -> bool:
        """Return True when the scan has come across an item, whatever root it is of."""
        return _found_as(item.key, item.group) in self._seen

    @property
    def has_seen_all(self) -> bool:
        """True when the scan was of the whole root, and no folder in it could not be read."""
        return self._scope is None and not self._unreadable

    def gone(self) -> list[KnownItem]:
        """Return the items that the scan did not find, though it could look where they were."""
        return [item for item in self._known.values() if self._is_gone(item.key, item.group)]

    def is_mass_deletion(self, gone: list[KnownItem]) -> bool:
        """Return True when so many are gone that a person must confirm it; captions of moved pictures do not count."""
        lost = sum(item.group not in self._moved for item in gone)
        return lost > MASS_DELETE_MIN and 2 * lost > self.counted_before

    @property
    def counted_before(self) -> int:
        """How many items a deletion is measured against: those of the whole root.

        While items are held back, those that there were then: what is added meanwhile must not make them few.
        """
        return self.known_before if self.held_before is None else min(self.known_before, self.held_before)

    def healed(self) -> list[str]:
        """Return the keys of old failures that are no more: read, gone, or unchanged and known after all."""
        return [key for key in self._failures if key not in self._failing and self._could_look(key, key)]

    def _in_scope(self, place: str) -> bool:
        return self._scope is None or is_below(place, self._scope)

    def _could_look(self, key: str, place: str) -> bool:
        """Return True when the scan covered a key (of the picture at `place`) and could read what holds it."""
        if self._place in self._unreadable:
            return False
        hidden = any(is_below(key, other) or key.startswith(other + "#") for other in self._unreadable)
        return self._in_scope(place) and not hidden

    def _is_gone(self, key: str, place: str) -> bool:
        return _found_as(key, place) not in self._seen and self._could_look(key, place)


def _found_as(key: str, group: str) -> str:
    """Return the key under which a scan comes across an item: that of the picture for a caption that it tells."""
    return group if is_told(key, group) else key
