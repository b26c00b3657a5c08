"""The loop of indexing: scan → plan → load → embed → write → commit. It may be killed at any moment and run again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from indexer.embed import Embedded, Embedder
from indexer.load import Loaded, Loader
from indexer.plan import Action, Planner, scope_of, text_hash
from indexer.report import Failed, IndexReport, Progress
from indexer.scan import ScanAhead
from mmsearch.catalog.rows import KnownItem, NewItem, Root
from mmsearch.collection.collection import Collection
from mmsearch.collection.writer import Writer
from mmsearch.types import Float32, Modality, ScanFailure, Source, SourceEntry

COMMIT_ROWS = 2000
COMMIT_SECONDS = 2.0
"""A kill loses at most the embeddings of this long; a commit costs a few milliseconds."""
MASS_DELETE_MIN = 20
"""A scan that would delete more than half of a source's items, and more than this many, must be confirmed."""


class Pipeline:
    """One run over some sources into one collection, through its writer."""

    def __init__(
        self,
        collection: Collection,
        writer: Writer,
        embedder: Embedder,
        report: IndexReport,
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
        self._progress = progress
        self._stop = stop
        self._rehash = rehash
        self._allow_mass_delete = allow_mass_delete
        self._seen_roots: dict[int, Root] = {}
        self._rows = 0
        self._committed_at = time.monotonic()
        self._found = 0
        self._taken: set[str] = set()  # keys of this run, by whatever source: each is dealt with once
        # Set for each source in turn:
        self._root: Root
        self._planner: Planner
        self._waiting: dict[bytes, list[NewItem]] = {}  # copies of pictures that wait in the embedder

    def run(self, source: Source, loader: Loader) -> None:
        """Bring the collection up to date with one source."""
        self._root = self._writer.root(source.kind, source.root)
        self._writer.commit()
        catalog = self._collection.catalog
        self._seen_roots = {root.id: root for root in catalog.roots()}
        self._planner = Planner(
            catalog.known_items(self._root.id),
            catalog.known_failures(self._root.id),
            scope=scope_of(source, self._root.path),
            elsewhere=self._writer.known_item if len(self._seen_roots) > 1 else None,
            rehash=self._rehash,
        )
        scan = ScanAhead(source, self._stop)
        for entry in scan:
            self._progress.found(self._found + scan.found, complete=scan.complete)
            self._take(entry, loader)
            for loaded in loader.ready():
                self._handle(loaded)
            self._commit_if_due()
        self._found += scan.found
        self._progress.found(self._found, complete=scan.complete)
        for loaded in loader.rest():
            if not self._stop.is_set():
                self._handle(loaded)
                self._commit_if_due()
        self._store(self._embedder.flush())
        if not scan.stopped and not self._stop.is_set():
            self._delete_gone(source)
        self._commit()

    # --- one entry --------------------------------------------------------------------------------------------------

    def _take(self, entry: SourceEntry | ScanFailure, loader: Loader) -> None:
        if isinstance(entry, ScanFailure):
            self._planner.failed(entry)
            self._fail(Failed(entry.key, entry.reason, transient=True))
            return
        repeated = entry.key in self._taken
        self._taken.add(entry.key)
        action = self._planner.classify(entry)
        if repeated:
            self._progress.done(1)
        elif action is Action.KEEP:
            self._report.kept += 1
            self._progress.done(1)
        elif action is Action.SKIP:
            self._report.skipped += 1
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
        if link or self._writer.has_content(Modality.TEXT, item.content_hash):
            self._put(item)
        else:
            self._store(self._embedder.add_text(item))

    def _handle(self, loaded: Loaded | Failed) -> None:
        if isinstance(loaded, Failed):
            known = self._planner.known(loaded.key)
            if known is not None and not loaded.transient:
                self._delete([known])
            self._fail(loaded)
            self._progress.done(1)
            return
        item = loaded.item
        known = self._planner.known(item.key)
        if known is not None and known.content_hash == item.content_hash:
            self._writer.touch(known.id, size=item.size, mtime_ns=item.mtime_ns, scanned_ns=item.scanned_ns)
            self._report.kept += 1
            self._progress.done(1)
            return
        same = self._writer.items_with_content(Modality.IMAGE, item.content_hash)
        if known is None and (old := self._moved(same)) is not None:
            self._writer.move(old.id, item, self._root)
            self._planner.moved(old.key)
            self._report.moved += 1
            self._rows += 1
            self._progress.done(1)
        elif same:
            self._put(item)
        elif item.content_hash in self._waiting:
            self._waiting[item.content_hash].append(item)
        elif loaded.pixels is not None:
            self._waiting[item.content_hash] = []
            self._store(self._embedder.add_image(item, loaded.pixels))
        else:  # its vector went away between loading and now; the file is taken up by the next run
            self._fail(Failed(item.key, "it changed while it was read: index again", transient=True))

    def _moved(self, same: list[KnownItem]) -> KnownItem | None:
        """Return the first of the items of one content whose file is gone though its root is there."""
        for old in same:
            root = self._seen_roots.get(old.root_id)
            if self._planner.was_seen(old.key) or os.path.lexists(old.key) or root is None:
                continue
            anchor = Path(root.path)
            if (anchor if root.kind == "folder" else anchor.parent).is_dir():
                return old
        return None

    # --- writing ----------------------------------------------------------------------------------------------------

    def _store(self, embedded: Iterator[Embedded]) -> None:
        keys: dict[Modality, list[str]] = {modality: [] for modality in Modality}
        for item, vector in embedded:
            copies = self._waiting.pop(item.content_hash, []) if item.modality is Modality.IMAGE else []
            if vector is None:
                for broken in (item, *copies):
                    self._fail(Failed(broken.key, "the encoder gave no finite vector for it"))
                    self._progress.done(1)
                continue
            keys[item.modality].append(item.key)
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

    def _fail(self, failure: Failed) -> None:
        """Record a failure; a transient one under stamps that no file has, so that it is tried again."""
        self._report.failed.append(failure)
        size, mtime_ns = -1, -1
        if not failure.transient:
            try:
                stat = Path(failure.key).stat()
                size, mtime_ns = stat.st_size, stat.st_mtime_ns
            except OSError:
                pass  # gone meanwhile: then it is tried again when it is back
        self._writer.put_failure(failure.key, self._root, size=size, mtime_ns=mtime_ns, reason=failure.reason)

    def _delete(self, items: list[KnownItem]) -> None:
        self._writer.delete(item.id for item in items)
        self._report.deleted += len(items)
        self._rows += len(items)
        for item in items:
            self._planner.moved(item.key)

    def _delete_gone(self, source: Source) -> None:
        before = self._planner.in_scope()
        gone = self._planner.gone()
        if source.kind == "jsonl":
            gone = self._keep_what_folders_hold(gone)
        if len(gone) > MASS_DELETE_MIN and 2 * len(gone) > before and not self._allow_mass_delete:
            self._report.held_back += len(gone)
            return
        self._delete(gone)
        for key in self._planner.gone_failures():
            self._writer.clear_failure(key)

    def _keep_what_folders_hold(self, gone: list[KnownItem]) -> list[KnownItem]:
        """Hand pictures that a corpus names no more to the folder that still holds them; return the others."""
        folders = [root for root in self._seen_roots.values() if root.kind == "folder"]
        left = []
        for item in gone:
            holder = next((root for root in folders if item.key.startswith(root.path.rstrip("/") + "/")), None)
            if item.modality is Modality.IMAGE and holder is not None and Path(item.key).is_file():
                self._writer.adopt(item.id, holder)
            else:
                left.append(item)
        return left

    def _commit_if_due(self) -> None:
        if self._rows >= COMMIT_ROWS or (self._rows and time.monotonic() - self._committed_at > COMMIT_SECONDS):
            self._commit()

    def _commit(self) -> None:
        self._writer.commit()
        self._progress.committed(self._rows)
        self._rows = 0
        self._committed_at = time.monotonic()
