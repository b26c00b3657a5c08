"""Snapshot: one committed state of a collection, ready to be searched for as long as it is kept."""

from __future__ import annotations

import logging
import threading

from mmsearch.catalog.rows import AnnRow, CatalogState, SegmentRow
from mmsearch.collection.atomic import file_sha256
from mmsearch.collection.layout import Layout
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Modality
from mmsearch.vectors.ann import AnnIndex, is_mapped
from mmsearch.vectors.backend import find_faiss
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.store import Block, VectorStore, open_segment, read_segment_ids

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

    def index(self, modality: Modality, *, without_ann: bool = False) -> VectorIndex:
        """Return the search over a modality; raise FileNotFoundError when a file has been collected since.

        With `without_ann` an ANN file that is missing is done without.
        """
        with self._lock:
            if modality not in self._indexes:
                self._indexes[modality] = self._open(modality, without_ann=without_ann)
            return self._indexes[modality]

    def store(self, modality: Modality) -> VectorStore:
        """Return the stored rows of a modality; raise FileNotFoundError when a file has been collected since."""
        state = self.state.modalities[modality]
        blocks = [segment_block(self._layout, segment, self._dim) for segment in state.segments]
        return VectorStore(self._dim, [*blocks, Block(state.unsealed_first, state.unsealed)])

    def _open(self, modality: Modality, *, without_ann: bool) -> VectorIndex:
        state = self.state.modalities[modality]
        store = self.store(modality)
        if state.ann is None or find_faiss() is None:
            return VectorIndex(store, dead=state.dead)
        try:
            ann = self._load(state.ann)
        except CollectionCorrupt as error:
            _log.warning("%s Until then search is exact.", error)
            return VectorIndex(store, dead=state.dead)
        except FileNotFoundError as error:
            if not without_ann:
                raise
            missing = "The index file %s is missing: run 'mmsearch build'. Until then search is exact."
            _log.warning(missing, error.filename or error)
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
        if size != row.bytes or (not is_mapped(row.factory, size) and file_sha256(path) != row.sha256):
            raise CollectionCorrupt(f"The index file {path} is not what the catalog says: run 'mmsearch build'.")
        return AnnIndex.load(path, dim=self._dim, vectors=row.vectors)


def segment_block(layout: Layout, segment: SegmentRow, dim: int) -> Block:
    """Return the mapped rows of a segment; raise FileNotFoundError or CollectionCorrupt."""
    path = layout.path(segment.file)
    return Block(
        segment.first_id,
        open_segment(path, segment.rows, dim),
        None if segment.end_id is None else read_segment_ids(path, segment.rows, dim),
        open_segment(path, segment.rows, dim, scattered=True),
    )
