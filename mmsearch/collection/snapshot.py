"""Snapshot: one committed state of a collection, ready to be searched for as long as it is kept."""

from __future__ import annotations

import logging
import threading

from mmsearch.catalog.rows import AnnRow, CatalogState
from mmsearch.collection.atomic import file_sha256
from mmsearch.collection.layout import Layout
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Modality
from mmsearch.vectors.ann import MAPPED_BYTES, AnnIndex
from mmsearch.vectors.backend import find_faiss
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.store import Block, VectorStore, open_segment

_log = logging.getLogger(__name__)


class Snapshot:
    """The vectors at one commit. Files are opened when a modality is first searched. Safe to use from threads."""

    def __init__(self, layout: Layout, dim: int, state: CatalogState) -> None:
        self._layout = layout
        self._dim = dim
        self.state = state
        self._indexes: dict[Modality, VectorIndex] = {}
        self._lock = threading.Lock()

    @property
    def commit(self) -> int:
        """The number of the commit that this shows."""
        return self.state.commit

    def index(self, modality: Modality) -> VectorIndex:
        """Return the search over a modality; raise FileNotFoundError when a file has been collected since."""
        with self._lock:
            if modality not in self._indexes:
                self._indexes[modality] = self._open(modality)
            return self._indexes[modality]

    def store(self, modality: Modality) -> VectorStore:
        """Return the stored rows of a modality; raise FileNotFoundError when a file has been collected since."""
        state = self.state.modalities[modality]
        blocks = [
            Block(segment.first_id, open_segment(self._layout.path(segment.file), segment.rows, self._dim))
            for segment in state.segments
        ]
        return VectorStore(self._dim, [*blocks, Block(state.unsealed_first, state.unsealed)])

    def _open(self, modality: Modality) -> VectorIndex:
        state = self.state.modalities[modality]
        store = self.store(modality)
        if state.ann is None or find_faiss() is None:
            return VectorIndex(store, dead=state.dead)
        try:
            ann = self._load(state.ann)
        except CollectionCorrupt as error:
            _log.warning("%s Until then search is exact.", error)
            return VectorIndex(store, dead=state.dead)
        return VectorIndex(
            store,
            dead=state.dead,
            ann=ann,
            covered=state.ann.covered,
            nprobe=state.ann.nprobe,
            candidates=state.ann.candidates,
        )

    def _load(self, row: AnnRow) -> AnnIndex:
        """Return the index of a file that is what the catalog says; raise CollectionCorrupt, FileNotFoundError.

        A file that is read whole is hashed as well; of a large one whose lists stay on the disk, the size must do.
        """
        path = self._layout.path(row.file)
        size = path.stat().st_size
        is_mapped = size >= MAPPED_BYTES and "x4" not in row.factory
        if size != row.bytes or (not is_mapped and file_sha256(path) != row.sha256):
            raise CollectionCorrupt(f"The index file {path} is not what the catalog says: run 'mmsearch build'.")
        return AnnIndex.load(path, dim=self._dim, vectors=row.vectors)
