"""Renewal: the rows of all vectors anew, pictures from their files and captions from the catalog.

Several items may share a vector, for they are copies of one picture: any of their files will do. What cannot be read is
either gone for good, as far as anybody can tell, or away for now; the two are told apart as `index` does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from indexer.embed import Embedded, Embedder
from indexer.load import Loaded, Loader
from indexer.pipeline import NO_VECTOR
from indexer.report import Failed, Progress, ReembedReport
from indexer.sources.folder import picture_entry
from mmsearch.catalog.reembedding import count_pictures, items_of
from mmsearch.catalog.rows import Root, StoredItem
from mmsearch.collection.collection import Collection
from mmsearch.collection.incoming import Incoming, NewRow
from mmsearch.collection.scope import MASS_DELETE_MIN
from mmsearch.collection.writer import Writer, stored_row
from mmsearch.corpora.places import read_members, split_place
from mmsearch.types import Int64, Modality, ScanFailure, SourceEntry

BATCH_ROWS = 4000
BATCH_SECONDS = 10.0
"""A kill loses at most the embeddings of this long."""

_GONE = "it is not there any more"


@dataclass(frozen=True, slots=True)
class _Missed:
    """An item whose file cannot be read; `is_away` says that this may pass."""

    stored: StoredItem
    failure: Failed
    is_away: bool


@dataclass(slots=True)
class _Vector:
    """A vector on its way: its items, and those of them whose files are still to be tried.

    `changed` is a file that has another content by now; it serves when none has the old one.
    """

    items: list[StoredItem]
    left: list[StoredItem] = field(default_factory=list)
    missed: list[_Missed] = field(default_factory=list)
    changed: Loaded | None = None


class Renewal:
    """One run. `run`, then `may_switch`, then `let_go` of what has no vector any more."""

    def __init__(
        self,
        collection: Collection,
        incoming: Incoming,
        loader: Loader,
        embedder: Embedder,
        report: ReembedReport,
        progress: Progress,
        stop: threading.Event,
        *,
        leave_out: bool,
    ) -> None:
        """`stop` ends the run at the next batch; `leave_out` lets go of what is away, and of however much is gone."""
        self._collection = collection
        self._incoming = incoming
        self._loader = loader
        self._embedder = embedder
        self._report = report
        self._progress = progress
        self._stop = stop
        self._leave_out = leave_out
        self._roots = {root.id: root for root in collection.catalog.roots()}
        self._on_the_way: dict[str, _Vector] = {}  # by the key of the item that is read or embedded
        self._lost: list[_Missed] = []
        self._rows: dict[Modality, list[NewRow]] = {modality: [] for modality in Modality}
        self._written_at = time.monotonic()

    def run(self, missing: Mapping[Modality, Int64]) -> None:
        """Embed the vectors with these ids (n,), and write their rows; some are left when the run is stopped."""
        self._progress.found(sum(map(len, missing.values())), complete=True)
        catalog = self._collection.catalog
        for items in self._until_stopped(items_of(catalog, Modality.TEXT, missing[Modality.TEXT])):
            self._on_the_way[items[0].item.key] = _Vector(items)
            self._take(self._embedder.add_text(items[0].item))
        for items in self._until_stopped(items_of(catalog, Modality.IMAGE, missing[Modality.IMAGE])):
            self._try_next(_Vector(items, _in_order(items)))
            for loaded in self._loader.ready():
                self._handle(loaded)
        for loaded in self._loader.rest():
            if not self._stop.is_set():
                self._handle(loaded)
                self._write_if_due()
        self._take(self._embedder.flush())
        self._write()

    def may_switch(self) -> bool:
        """Return False when pictures are away, or so many are gone that a person must confirm it."""
        if self._leave_out:
            return True
        lost = Counter(one.stored.root_id for one in self._lost)
        of_root = count_pictures(self._collection.catalog)
        self._report.held_back = sum(
            count for root, count in lost.items() if count > MASS_DELETE_MIN and 2 * count > of_root.get(root, 0)
        )
        return not self._report.away and not self._report.held_back

    def let_go(self, writer: Writer) -> None:
        """Delete the items that have no vector any more, and record why; it is for the caller to commit."""
        for one in self._lost:
            known = writer.known_item(one.stored.item.key)
            if known is None:
                continue
            writer.delete([known.id])
            self._report.deleted += 1
            told = one.failure
            if told.reason != _GONE:
                root = self._roots[one.stored.root_id]
                writer.put_failure(told.key, root, size=told.size, mtime_ns=told.mtime_ns, reason=told.reason)

    def _until_stopped(self, vectors: Iterator[list[StoredItem]]) -> Iterator[list[StoredItem]]:
        for items in vectors:
            if self._stop.is_set():
                return
            yield items
            self._write_if_due()

    # --- one picture ------------------------------------------------------------------------------------------------

    def _try_next(self, vector: _Vector) -> None:
        """Begin to read the next of the files that a picture may be in; when none is left, see what came of them."""
        while vector.left:
            stored = vector.left.pop(0)
            entry = _entry(stored)
            if isinstance(entry, SourceEntry):
                self._on_the_way[entry.key] = vector
                self._loader.submit(entry, decode_always=True)
                return
            vector.missed.append(self._missed(stored, Failed(entry.key, entry.reason)))
        missed, vector.missed = vector.missed, []
        self._count(missed)
        if vector.changed is not None and (self._leave_out or not any(one.is_away for one in missed)):
            vector.items = [one for one in vector.items if all(one is not other.stored for other in missed)]
            self._embed(vector, vector.changed)
        else:
            self._progress.done(1)

    def _handle(self, loaded: Loaded | Failed) -> None:
        key = loaded.key if isinstance(loaded, Failed) else loaded.item.key
        vector = self._on_the_way.pop(key)
        if isinstance(loaded, Failed):
            stored = next(one for one in vector.items if one.item.key == key)
            vector.missed.append(self._missed(stored, loaded))
            self._try_next(vector)
        elif loaded.item.content_hash == vector.items[0].item.content_hash:
            self._embed(vector, loaded)
        else:
            vector.changed = vector.changed or loaded
            self._try_next(vector)

    def _embed(self, vector: _Vector, loaded: Loaded) -> None:
        assert loaded.pixels is not None
        self._on_the_way[loaded.item.key] = vector
        self._take(self._embedder.add_image(loaded.item, loaded.pixels))

    def _missed(self, stored: StoredItem, failure: Failed) -> _Missed:
        """Return what it means that a file cannot be read.

        It is lost when it is gone from a source that is there, or is unreadable until it changes. Whatever else may
        pass: a disk that fails, a limit, an extra that is not installed here, an encoder that gives no vector.
        """
        if _is_gone(stored.item.uri):
            is_away = _is_away(self._roots[stored.root_id], stored.item.uri)
            return _Missed(stored, Failed(failure.key, _GONE), is_away)
        return _Missed(stored, failure, is_away=failure.size < 0)

    def _count(self, missed: list[_Missed]) -> None:
        """Count items that no file can stand in for."""
        for one in missed:
            if one.is_away:
                place = self._roots[one.stored.root_id].path
                self._report.away[place] = self._report.away.get(place, 0) + 1
            if not one.is_away or one.failure.reason != _GONE:
                self._report.failed.append(one.failure)
            if not one.is_away or self._leave_out:
                self._lost.append(one)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _take(self, embedded: Iterator[Embedded]) -> None:
        keys: dict[Modality, list[str]] = {modality: [] for modality in Modality}
        for item, row in embedded:
            vector = self._on_the_way.pop(item.key)
            self._progress.done(1)
            if row is None:
                broken = [(one, Failed(one.item.key, NO_VECTOR)) for one in vector.items]
                self._count([_Missed(stored, failure, is_away=True) for stored, failure in broken])
                continue
            keys[item.modality].append(item.key)
            new = NewRow(vector.items[0].vector_id, item.content_hash, stored_row(row, self._incoming.spec.dim))
            self._rows[item.modality].append(new)
        for modality, some in keys.items():
            if some:
                self._report.embedded[modality] += len(some)
                self._progress.embedded(some, modality)

    def _write_if_due(self) -> None:
        count = sum(map(len, self._rows.values()))
        if count >= BATCH_ROWS or (count and time.monotonic() - self._written_at > BATCH_SECONDS):
            self._write()

    def _write(self) -> None:
        for modality, rows in self._rows.items():
            if rows:
                self._incoming.add(modality, rows)
                self._progress.committed(len(rows))
                self._rows[modality] = []
        self._written_at = time.monotonic()


def _in_order(items: list[StoredItem]) -> list[StoredItem]:
    """Return the items of one vector in the order in which to try their files: those that have not changed first."""
    return list(items) if len(items) == 1 else sorted(items, key=lambda stored: not _is_unchanged(stored))


def _is_unchanged(stored: StoredItem) -> bool:
    entry = _entry(stored)
    return isinstance(entry, SourceEntry) and (entry.size, entry.mtime_ns) == (stored.item.size, stored.item.mtime_ns)


def _entry(stored: StoredItem) -> SourceEntry | ScanFailure:
    """Return a picture as it is on the disk now, as a scan would find it."""
    item = stored.item
    found = picture_entry(split_place(item.uri)[0])
    if isinstance(found, ScanFailure):
        return ScanFailure(item.key, found.reason)
    return SourceEntry(item.key, Modality.IMAGE, item.uri, item.group, found.size, found.mtime_ns)


def _is_gone(place: str) -> bool:
    """Return True when there is no such file, or no such member in an archive that can be read.

    A folder in its place is none; where a link leads may only be away.
    """
    path, member = split_place(place)
    try:
        os.lstat(path)
        if member is None:
            return Path(path).is_dir()
        return Path(path).is_file() and member not in read_members(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def _is_away(root: Root, place: str) -> bool:
    """Return True when what is gone may only be away: its source is not there, or the folder a corpus has it in."""
    path = split_place(place)[0]
    if root.kind == "folder":
        return not Path(root.path).is_dir()
    return not Path(path).parent.is_dir() or (root.kind != "file" and not Path(root.path).exists())
