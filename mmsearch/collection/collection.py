"""Collection: open or create one, look at it, search its snapshots, write to it."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mmsearch.catalog.binding import UUID
from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.rows import Root
from mmsearch.collection.atomic import make_folder
from mmsearch.collection.filesystem import existing, refuse_network
from mmsearch.collection.layout import Layout
from mmsearch.collection.manifest import read_manifest, write_manifest
from mmsearch.collection.snapshot import Snapshot
from mmsearch.collection.writer import Writer
from mmsearch.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionLocked,
    CollectionReadOnly,
)
from mmsearch.types import EncoderSpec, Modality
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.spec import IndexKind, choose_spec, parse_kind

_LOCK_SECONDS = 0.5
_SNAPSHOT_TRIES = 5

RECALL_TARGET = 0.95
"""The recall@10 that an index is tuned to, unless the collection says otherwise."""


@dataclass(frozen=True, slots=True)
class ModalityInfo:
    """The vectors of one modality, in numbers; what belongs to an ANN index is None while search is exact.

    `recall_at_10` was measured on stored vectors, `recall_across` on queries of the other modality, as `across` tells.
    """

    items: int
    vectors: int
    unsealed: int
    dead: int
    segments: int
    index: str
    index_reason: str
    nprobe: int | None
    recall_at_10: float | None
    recall_across: float | None
    across: str
    candidates: int | None
    target: float | None
    covered: int


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What `mmsearch info` tells. Sizes are bytes on disk; `last_commit_at` is in seconds since 1970."""

    path: str
    uuid: str
    encoder: EncoderSpec
    commit: int
    commits: int
    last_commit_at: float | None
    failures: int
    roots: tuple[Root, ...]
    modalities: dict[Modality, ModalityInfo]
    catalog_bytes: int
    vector_bytes: int
    index_bytes: int


class Collection:
    """A directory with a catalog and vector files. Reading is safe from any thread; writing goes through `writer()`."""

    def __init__(self, layout: Layout, catalog: Catalog, spec: EncoderSpec, identity: str) -> None:
        """Use `Collection.open` or `Collection.create`."""
        self.layout = layout
        self.catalog = catalog
        self.spec = spec
        self.uuid = identity
        self._has_old_manifest = False
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Collection:
        """Return the collection at `path`; raise CollectionNotFound, CollectionCorrupt or UnsupportedFormat."""
        layout = Layout(path)
        identity, told = read_manifest(layout)
        catalog = Catalog(layout.catalog)
        bound = catalog.binding()
        spec = told if bound.fingerprint == told.fingerprint else bound.spec
        if bound.uuid != identity or spec is None:
            catalog.close()
            raise CollectionCorrupt(f"The catalog {layout.catalog} belongs to another collection: put its own back.")
        opened = cls(layout, catalog, spec, identity)
        opened._has_old_manifest = spec is not told
        return opened

    @classmethod
    def create(cls, path: Path, spec: EncoderSpec) -> Collection:
        """Make an empty collection bound to an encoder; raise CollectionError where other files lie in the way."""
        layout = Layout(path)
        if strangers := layout.strangers():
            if layout.catalog.is_file():
                raise CollectionCorrupt(f"{layout.manifest} is missing: 'mmsearch repair' makes it again.")
            raise CollectionError(
                f"{path} holds other files ({', '.join(strangers[:3])}): name a new or empty folder for the collection."
            )
        refuse_network(path)
        if not os.access(existing(path), os.W_OK | os.X_OK):
            raise CollectionReadOnly(
                f"No collection can be made at {path}, for {existing(path)} is read-only: name another place with"
                " --collection PATH or MMSEARCH_HOME."
            )
        make_folder(path)
        with locked(layout):
            if not layout.manifest.is_file():
                catalog = Catalog(layout.catalog, create=True)
                told = catalog.binding()
                identity, bound = told.uuid or str(uuid.uuid4()), told.fingerprint
                if bound is None:
                    with catalog.transaction() as transaction:
                        transaction.set_fact(UUID, identity)
                        transaction.bind(spec)
                catalog.close()
                if bound not in (None, spec.fingerprint):
                    raise CollectionCorrupt(
                        f"{layout.manifest} is missing and the catalog beside it belongs to another encoder: restore"
                        " it from a backup, or name a new folder for the collection."
                    )
                write_manifest(layout, identity, spec)
        return cls.open(path)

    def rebind(self, uri: str) -> None:
        """Remember that the same encoder is now to be loaded by another URI: its weights were moved."""
        with locked(self.layout):
            self.move_to(replace(self.spec, uri=uri))

    def move_to(self, spec: EncoderSpec) -> None:
        """Let the manifest tell of the encoder that the catalog is bound to; under the lock of the writer."""
        write_manifest(self.layout, self.uuid, spec, replace=True)
        self.spec = spec
        self._has_old_manifest = False

    def close(self) -> None:
        """Let go of the catalog and of every mapped file that no search is using."""
        self._snapshot = None
        self.catalog.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def snapshot(self) -> Snapshot:
        """Return the newest committed state; the same object while nothing was committed since."""
        with self._lock:
            if self._snapshot is None or self._snapshot.state.token != self.catalog.token():
                self._snapshot = Snapshot(self.layout, self.spec.dim, self.catalog.state(self.spec))
            return self._snapshot

    def index(self, modality: Modality) -> tuple[int, VectorIndex]:
        """Return (commit, search over a modality) of the newest state; raise CollectionCorrupt for a missing segment.

        A file may be collected between reading the catalog and opening it: then there is a newer state to read. Without
        its ANN file a modality is searched exactly.
        """
        token = None
        for _ in range(_SNAPSHOT_TRIES):
            snapshot = self.snapshot()
            try:
                return snapshot.commit, snapshot.index(modality)
            except FileNotFoundError as error:
                if snapshot.state.token == token:
                    with _named_as_missing(error):
                        return snapshot.commit, snapshot.index(modality, without_ann=True)
                token = snapshot.state.token
        raise CollectionLocked(f"The collection {self.layout.root} changes too fast to be read: try again.")

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Yield the one writer; what it has not committed at the end is committed, or dropped by an exception.

        Raise CollectionLocked when another process is writing, EncoderMismatch when one has moved the collection to
        another encoder since it was opened, CollectionReadOnly, or NetworkFileSystem.
        """
        refuse_network(self.layout.root)
        if not self.catalog.writable:
            raise CollectionReadOnly(
                f"The collection {self.layout.root} is read-only, so it can be searched, not changed: give yourself"
                " permission to write there, or copy it."
            )
        with locked(self.layout):
            try:
                with Writer(self.layout, self.catalog, self.spec) as writer:
                    if self._has_old_manifest:
                        self.move_to(self.spec)
                    yield writer
            finally:
                self.catalog.checkpoint()

    @property
    def index_kind(self) -> IndexKind:
        """Which index the collection was asked to have."""
        return parse_kind(self.catalog.fact("index_kind") or "auto")

    @property
    def recall_target(self) -> float:
        """The recall@10 that indexes are tuned to."""
        return float(self.catalog.fact("recall_target") or RECALL_TARGET)

    def info(self) -> CollectionInfo:
        """Return the numbers of the newest state."""
        counts = self.catalog.counts()
        state = self.catalog.state(self.spec)
        modalities = {}
        for modality, vectors in state.modalities.items():
            ann = vectors.ann
            spec = choose_spec(vectors.live, self.spec.dim, self.index_kind)
            pending = "" if spec.exact else "exact until the index is built; "
            modalities[modality] = ModalityInfo(
                items=counts.items[modality],
                vectors=vectors.live,
                unsealed=len(vectors.unsealed),
                dead=len(vectors.dead),
                segments=len(vectors.segments),
                index=ann.factory if ann else "Flat",
                index_reason=ann.reason if ann else pending + spec.reason,
                nprobe=ann.nprobe if ann else None,
                recall_at_10=ann.recall_at_10 if ann else None,
                recall_across=ann.recall_across if ann else None,
                across=ann.across if ann else "",
                candidates=ann.candidates if ann else None,
                target=ann.target if ann else None,
                covered=ann.covered if ann else 0,
            )
        return CollectionInfo(
            path=str(self.layout.root),
            uuid=self.uuid,
            encoder=self.spec,
            commit=state.commit,
            commits=counts.commits,
            last_commit_at=counts.last_commit_at,
            failures=counts.failures,
            roots=self.catalog.roots(),
            modalities=modalities,
            catalog_bytes=sum(p.stat().st_size for p in self.layout.root.glob(self.layout.catalog.name + "*")),
            vector_bytes=sum(s.bytes for m in state.modalities.values() for s in m.segments),
            index_bytes=sum(m.ann.bytes for m in state.modalities.values() if m.ann),
        )


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    import filelock  # brings asyncio and ssl along, which a reader has no use for

    try:
        with filelock.FileLock(layout.lock, timeout=_LOCK_SECONDS):
            yield
    except filelock.Timeout as error:
        raise CollectionLocked(
            f"Another process is writing to {layout.root}: wait until it is done, then run this again."
        ) from error


@contextmanager
def _named_as_missing(error: FileNotFoundError) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CollectionCorrupt(
            f"The file {error.filename or error} of the collection is missing: run 'mmsearch repair', or restore it"
            " from a backup."
        ) from error
