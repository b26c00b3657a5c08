"""The loop of indexing: scan → plan → load → embed → write → commit. It may be killed at any moment and run again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexer.embed import Embedded, Embedder
from indexer.load import Loaded, Loader
from indexer.plan import RACY_NS, Action, Planner, covering_root, min_size
from indexer.report import Failed, IndexReport, Progress
from indexer.scan import ScanAhead
from indexer.stages import Stage, StageTimes
from indexer.told import told_captions, told_key
from mmsearch.catalog.rows import LEFT_OUT, KnownItem, NewItem, Root
from mmsearch.collection.collection import Collection
from mmsearch.collection.scope import FILES, holder, is_scanned_below
from mmsearch.collection.writer import Writer
from mmsearch.corpora.places import split_place
from mmsearch.corpora.records import text_hash
from mmsearch.types import Float32, Modality, ScanFailure, Source, SourceEntry

COMMIT_ROWS = 2000
COMMIT_SECONDS = 2.0
"""A kill loses at most the embeddings of this long; a commit costs a few milliseconds."""


NO_VECTOR = "the encoder gave no finite vector of unit length for it"


@dataclass(frozen=True, slots=True)
class _Scanned:
    """A source that was looked through to its end."""

    source: Source
    root: Root
    planner: Planner


class Pipeline:
    """One run over some sources into one collection, through its writer: `run` for each, then `finish`."""

    def __init__(
        self,
        collection: Collection,
        writer: Writer,
        embedder: Embedder,
        report: IndexReport,
        times: StageTimes,
        *,
        progress: Progress,
        stop: threading.Event,
        rehash: bool,
        allow_mass_delete: bool,
    ) -> None:
        """`stop` ends the run at the next batch; what is done by then is committed."""
        self._collection = collection
        self._writer = writer
        self._embedder = embedder
        self._report = report
        self._times = times
        self._progress = progress
        self._stop = stop
        self._rehash = rehash
        self._allow_mass_delete = allow_mass_delete
        self._roots: dict[int, Root] = {}
        self._rows = 0
        self._committed_at = time.monotonic()
        self._found = 0
        self._taken: set[str] = set()  # keys of this run, by whatever source: each is dealt with once
        self._scanned: list[_Scanned] = []
        self._waiting: dict[bytes, list[NewItem]] = {}  # copies of pictures that wait in the embedder
        self._named = ""  # the path of the source; this and the next are set for each in turn
        self._root: Root
        self._planner: Planner
        self._min_size = 0

    def run(self, source: Source, loader: Loader) -> None:
        """Bring the collection up to date with what one source has; what is gone from it is left to `finish`."""
        self._commit()  # what the source before had, but not yet that of the last: deletions join it
        self._named, self._root = source.root, self._root_of(source)
        catalog = self._collection.catalog
        self._roots = {root.id: root for root in catalog.roots()}
        is_part = self._root.path != source.root
        self._planner = Planner(
            catalog,
            self._root,
            source,
            taken=self._taken,
            elsewhere=self._writer.known_item if len(self._roots) > 1 or is_part else lambda _key: None,
            count=self._writer.count_items,
            rehash=self._rehash,
        )
        self._min_size = min_size(source)
        scan = ScanAhead(source, self._stop)
        for entry in scan:
            self._progress.found(self._found + scan.found, complete=scan.complete)
            self._take(entry, loader)
            for loaded in loader.ready():
                self._handle(loaded, loader)
            self._commit_if_due()
        self._found += scan.found
        self._progress.found(self._found, complete=scan.complete)
        for loaded in loader.rest():
            if not self._stop.is_set():
                self._handle(loaded, loader)
                self._commit_if_due()
        self._store(self._embedder.flush())
        if not scan.stopped and not self._stop.is_set():
            for key in self._planner.healed():
                self._writer.clear_failure(key)
            self._planner.close()
            self._scanned.append(_Scanned(source, self._root, self._planner))

    def finish(self) -> None:
        """Delete what is gone, once every source was looked through: what is gone from one may have moved to another.

        A run that was told to stop deletes nothing.
        """
        if self._stop.is_set():
            self._commit()
            return
        self._roots = {root.id: root for root in self._collection.catalog.roots()}
        self._scanned = [one for one in self._scanned if one.root.id in self._roots]  # not those absorbed by another
        held: set[int] = set()
        for scanned in self._scanned:
            self._delete_gone(scanned, held)
        for root in self._roots.values():
            if not Path(root.path).exists():
                self._writer.drop_root(root)
        self._commit()

    def _root_of(self, source: Source) -> Root:
        """Return the root that a source is or lies below, made if need be; roots below a new folder are absorbed."""
        known = self._collection.catalog.roots()
        root = covering_root(known, source)
        if root is None or (root.path == source.root and root.options != source.options):
            root = self._writer.root(source.kind, source.root, source.options)
            self._writer.forget_left_out(root)  # what was too small then may not be now
            for other in known:
                is_part = other.kind in FILES and other.path != root.path and is_scanned_below(other.path, root.path)
                if source.kind == "folder" and is_part:
                    self._absorb(other, root)
            self._writer.commit()
        return root

    def _absorb(self, root: Root, into: Root) -> None:
        held = self._writer.held_before(root)
        if held is not None:
            self._writer.hold_back(root, None)
            before = self._writer.held_before(into)
            self._writer.hold_back(into, held if before is None else min(held, before))
        self._writer.absorb(root, into)

    # --- one entry --------------------------------------------------------------------------------------------------

    def _take(self, entry: SourceEntry | ScanFailure, loader: Loader) -> None:
        if isinstance(entry, ScanFailure):
            self._planner.scan_failed(entry)
            if entry.subtree and entry.key in (self._root.path, self._named):
                is_corpus = self._root.kind not in FILES
                away = self._report.missing_sources if is_corpus else self._report.unreadable_sources
                away.append(entry.key)
            self._fail(Failed(entry.key, entry.reason))
            return
        action = self._planner.classify(entry)
        if action is Action.KEEP:
            known = self._planner.known(entry.key)
            if known is not None and self._root.kind == "folder" and known.root_id != self._root.id:
                self._writer.adopt(known.id, self._root)  # from now on the folder tells whether it is there
            self._report.kept += 1
            self._progress.done(1)
        elif action is Action.SKIP:
            self._report.skipped += 1
            self._progress.done(1)
        elif action is Action.LEAVE_OUT:
            if self._planner.known(entry.key) is not None:  # it is too small for the size that is wanted now
                self._record_left_out(entry.key, entry.size, entry.mtime_ns)
            self._report.left_out += 1
            self._progress.done(1)
        elif action is Action.REPEATED:
            self._progress.done(1)
        elif entry.modality is Modality.IMAGE:
            loader.submit(entry)
        else:
            self._handle_text(entry, link=action is Action.LINK)

    def _handle_text(self, entry: SourceEntry, *, link: bool) -> None:
        item = NewItem(
            key=entry.key,
            modality=Modality.TEXT,
            uri=entry.uri,
            group=entry.group,
            content_hash=text_hash(entry.text or ""),
            size=entry.size,
            mtime_ns=entry.mtime_ns,
            scanned_ns=time.time_ns(),
            text=entry.text,
        )
        self._put_text(item, known=link)

    def _put_text(self, item: NewItem, *, known: bool = False) -> None:
        if known or self._writer.has_content(Modality.TEXT, item.content_hash):
            self._put(item)
        else:
            self._store(self._embedder.add_text(item))

    def _put_told(self, picture: NewItem) -> None:
        """Store the captions that a picture tells of itself, and let go of those that it told before."""
        if self._root.kind not in FILES:
            return  # a corpus has captions of its own
        captions = told_captions(picture)
        for caption in captions:
            known = self._writer.known_item(caption.key)
            if known is None or known.content_hash != caption.content_hash:
                self._found += 1
                self._put_text(caption)
        number = len(captions) + 1
        while (old := self._writer.known_item(told_key(picture.key, number))) is not None:
            self._writer.delete([old.id])
            number += 1

    def _handle(self, loaded: Loaded | Failed, loader: Loader) -> None:
        if isinstance(loaded, Failed):
            self._planner.load_failed(loaded.key, keep_item=loaded.keep_item)
            self._fail(loaded)
            self._progress.done(1)
            return
        item = loaded.item
        if min(item.width or 0, item.height or 0) < self._min_size:
            self._planner.load_failed(item.key, keep_item=False)
            may_change = item.mtime_ns > item.scanned_ns - RACY_NS
            self._record_left_out(item.key, -1 if may_change else item.size, item.mtime_ns)
            self._report.left_out += 1
            self._progress.done(1)
            return
        known = self._planner.known(item.key)
        if known is not None and known.content_hash == item.content_hash:
            self._put_told(item)
            self._writer.touch(known.id, item)
            self._report.kept += 1
            self._rows += 1
            self._progress.done(1)
            return
        self._put_told(item)
        same = self._writer.items_with_content(Modality.IMAGE, item.content_hash)
        if known is None and (old := self._moved(same)) is not None:
            self._writer.move(old.id, item, self._root)
            for planner in (self._planner, *(scanned.planner for scanned in self._scanned)):
                planner.moved(old.key)
            if old.root_id != self._root.id:  # no scan of this root will miss the captions that stood beside it
                self._report.deleted += self._writer.delete_captions(old.key, old.root_id)
            self._report.moved += 1
            self._rows += 1
            self._progress.done(1)
        elif same or self._writer.has_content(Modality.IMAGE, item.content_hash):
            self._put(item)
        elif item.content_hash in self._waiting:
            self._waiting[item.content_hash].append(item)
        elif loaded.pixels is not None:
            self._waiting[item.content_hash] = []
            self._store(self._embedder.add_image(item, loaded.pixels))
        else:  # files changed places: the vector that was there when it was loaded has gone since
            loader.submit(loaded.entry, decode_always=True)

    def _moved(self, same: list[KnownItem]) -> KnownItem | None:
        """Return the first of the items of one content whose file is gone.

        Its whole root may be gone: a renamed folder, or a disk that is away. The second costs nothing: once the disk
        is back its files are added again, with the vectors that are there.
        """
        for old in same:
            if not self._planner.was_seen(old.key) and _is_missing(old.key):
                return old
        return None

    # --- writing ----------------------------------------------------------------------------------------------------

    def _store(self, embedded: Iterator[Embedded]) -> None:
        keys: dict[Modality, list[str]] = {modality: [] for modality in Modality}
        for item, vector in embedded:
            copies = self._waiting.pop(item.content_hash, []) if item.modality is Modality.IMAGE else []
            if vector is None:
                for broken in (item, *copies):
                    failure = Failed(broken.key, NO_VECTOR, broken.size, broken.mtime_ns, keep_item=False)
                    self._planner.load_failed(failure.key, keep_item=False)
                    self._fail(failure)
                    self._progress.done(1)
                continue
            keys[item.modality].append(item.key)
            with self._times.timed(Stage.WRITE, int(item.modality is Modality.IMAGE)):
                self._put(item, vector)
            for copy in copies:
                self._put(copy)
        for modality, some in keys.items():
            if some:
                self._report.embedded[modality] += len(some)
                self._progress.embedded(some, modality)

    def _put(self, item: NewItem, vector: Float32 | None = None) -> None:
        if self._writer.put(item, self._root, vector):
            self._report.added += 1
        else:
            self._report.changed += 1
        self._rows += 1
        self._progress.done(1)

    def _record_left_out(self, key: str, size: int, mtime_ns: int) -> None:
        """Record a picture that is too small, which is no failure."""
        reason = f"{LEFT_OUT}its shorter side is under {self._min_size} pixels"
        self._writer.put_failure(key, self._root, size=size, mtime_ns=mtime_ns, reason=reason)

    def _fail(self, failure: Failed) -> None:
        self._report.failed.append(failure)
        self._writer.put_failure(
            failure.key, self._root, size=failure.size, mtime_ns=failure.mtime_ns, reason=failure.reason
        )

    def _delete_gone(self, scanned: _Scanned, held: set[int]) -> None:
        """Delete what is gone from a source, or hold it back: `held` are the ids of items held back in this run."""
        planner, root = scanned.planner, scanned.root
        gone = self._still_gone(scanned)
        if scanned.source.kind not in FILES:
            gone = self._keep_what_folders_hold(gone)
        new = [item.id for item in gone if item.id not in held]
        if planner.is_mass_deletion(gone) and not self._allow_mass_delete:
            self._report.held_back += len(new)
            held.update(new)
            self._writer.hold_back(root, planner.counted_before)
            for other in self._scanned:
                if other.root.id == root.id:
                    other.planner.held_before = planner.counted_before
            return
        if planner.held_before is not None and planner.has_seen_all:
            self._writer.hold_back(root, None)
        self._writer.delete(new)
        self._report.deleted += len(new)

    def _still_gone(self, scanned: _Scanned) -> list[KnownItem]:
        """Return what a source lacks and is there still; what another source has come across is handed to that."""
        gone = []
        for item in scanned.planner.gone():
            now = self._writer.known_item(item.key)
            if now is None or (now.id, now.root_id) != (item.id, scanned.root.id):
                continue  # it was deleted with a picture that moved, or has changed hands
            others = (other for other in self._scanned if other is not scanned and other.planner.holds(item))
            if (other := next(others, None)) is not None:
                self._writer.adopt(item.id, other.root)
            else:
                gone.append(item)
        return gone

    def _keep_what_folders_hold(self, gone: list[KnownItem]) -> list[KnownItem]:
        """Hand pictures that a corpus names no more to the folder that still holds them; return the others."""
        roots = list(self._roots.values())
        left = []
        for item in gone:
            folder = holder(item.key, roots)
            is_file = split_place(item.key)[1] is None
            if item.modality is Modality.IMAGE and folder is not None and is_file and not _is_missing(item.key):
                self._writer.adopt(item.id, folder)
            else:
                left.append(item)
        return left

    def _commit_if_due(self) -> None:
        if self._rows >= COMMIT_ROWS or (self._rows and time.monotonic() - self._committed_at > COMMIT_SECONDS):
            self._commit()

    def _commit(self) -> None:
        with self._times.timed(Stage.WRITE, 0):
            self._writer.commit()
        self._progress.committed(self._rows)
        self._rows = 0
        self._committed_at = time.monotonic()


def _is_missing(path: str) -> bool:
    """Return True when there is no such file; one that cannot be looked at may well be there."""
    try:
        os.lstat(split_place(path)[0])
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
