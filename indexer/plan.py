"""Planner: compares what a scan finds with what the catalog knows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from enum import Enum, auto

from mmsearch.catalog.rows import KnownFailure, KnownItem
from mmsearch.types import Modality, ScanFailure, Source, SourceEntry

RACY_NS = 2_000_000_000
"""A file written within two seconds of its scan may change again within the resolution of its clock."""


class Action(Enum):
    """What is to be done with an entry."""

    KEEP = auto()  # there and unchanged
    SKIP = auto()  # could not be read before and has not changed
    LOAD = auto()  # new, changed, or to be compared by content
    LINK = auto()  # the same caption, now of another picture


def text_hash(text: str) -> bytes:
    """Return the SHA-256 of a text: what makes two captions one content."""
    return hashlib.sha256(text.encode()).digest()


class Planner:
    """The plan of one source: feed it every entry of the scan, then ask what has gone."""

    def __init__(
        self,
        known: Iterator[KnownItem],
        failures: dict[str, KnownFailure],
        *,
        scope: str | None,
        elsewhere: Callable[[str], KnownItem | None] | None = None,
        rehash: bool = False,
    ) -> None:
        """`known` and `failures` are those of the root; with a `scope`, only keys at or below it may be found gone.
        `elsewhere` tells what other roots, if there are any, know of a key: a file is one item, whatever roots name it.
        """
        self._known = {item.key: item for item in known}
        self._failures = failures
        self._scope = scope
        self._elsewhere = elsewhere
        self._rehash = rehash
        self._seen: set[str] = set()
        self._unreadable: list[str] = []

    def known(self, key: str) -> KnownItem | None:
        """Return what the catalog knows of a key, by this root or another."""
        known = self._known.get(key)
        return self._elsewhere(key) if known is None and self._elsewhere is not None else known

    def classify(self, entry: SourceEntry) -> Action:
        """Return what to do with an entry, and remember that it is there."""
        self._seen.add(entry.key)
        item = self.known(entry.key)
        if item is None:
            failure = self._failures.get(entry.key)
            same = failure is not None and (failure.size, failure.mtime_ns) == (entry.size, entry.mtime_ns)
            return Action.SKIP if same and not self._rehash else Action.LOAD
        if entry.modality is Modality.TEXT:
            if item.content_hash != text_hash(entry.text or ""):
                return Action.LOAD
            return Action.KEEP if item.group == entry.group else Action.LINK
        stamped = (item.size, item.mtime_ns) == (entry.size, entry.mtime_ns)
        racy = item.mtime_ns > item.scanned_ns - RACY_NS
        return Action.KEEP if stamped and not racy and not self._rehash else Action.LOAD

    def failed(self, failure: ScanFailure) -> None:
        """Remember that something was there and could not be looked at."""
        self._seen.add(failure.key)
        if failure.subtree:
            self._unreadable.append(failure.key)

    def was_seen(self, key: str) -> bool:
        """Return True when the scan has come across the key."""
        return key in self._seen

    def moved(self, key: str) -> None:
        """Forget an old key: its item lives on under another."""
        self._known.pop(key, None)

    def gone(self) -> list[KnownItem]:
        """Return the items that the scan did not find, though it could look where they were."""
        return [item for key, item in self._known.items() if self._is_gone(key)]

    def gone_failures(self) -> list[str]:
        """Return the keys of old failures that are no more."""
        return [key for key in self._failures if self._is_gone(key)]

    def in_scope(self) -> int:
        """Return how many known items lie within the scope."""
        return sum(self._in_scope(key) for key in self._known)

    def _in_scope(self, key: str) -> bool:
        return self._scope is None or _is_under(key, self._scope)

    def _is_gone(self, key: str) -> bool:
        if key in self._seen or not self._in_scope(key):
            return False
        return not any(_is_under(key, place) for place in self._unreadable)


def scope_of(source: Source, root: str) -> str | None:
    """Return the place that a source covers of its root, None for all of it: a folder may lie below a known one."""
    return None if source.root == root else source.root


def _is_under(key: str, place: str) -> bool:
    return key == place or key.startswith((place.rstrip("/") + "/", place + "#", place + ":"))
