"""AnnIndex: one FAISS IVF index over vector ids; it proposes candidates, it never decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Float32, IndexSpec, Int64, Mask
from mmsearch.vectors.backend import require_faiss, search_parameters, use_threads
from mmsearch.vectors.store import VectorStore

_ADD_ROWS = 65_536


class AnnIndex:
    """A trained and filled FAISS IVF index whose ids are our vector ids."""

    def __init__(self, index: Any) -> None:
        """Take over a FAISS IVF index; see `build` and `load`."""
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nlist(self) -> int:
        """The number of inverted lists."""
        return int(self._index.nlist)

    @classmethod
    def build(cls, spec: IndexSpec, store: VectorStore, ids: Int64, *, seed: int = 0) -> AnnIndex:
        """Return an index of the rows `ids` (n,), ascending, trained on `spec.train_size` of them, by a seed."""
        faiss = require_faiss()
        use_threads(faiss, len(ids))
        index = faiss.index_factory(store.dim, spec.factory, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed + 1234
        # With few points per centroid FAISS warns on C's stdout, which is for results; `choose_spec` knows the limits.
        for clustering in (index.cp, *([index.pq.cp] if hasattr(index, "pq") else [])):
            clustering.min_points_per_centroid = 1
        sample = np.sort(np.random.default_rng(seed).choice(ids, size=min(spec.train_size, len(ids)), replace=False))
        index.train(store.take(sample).astype(np.float32))
        for start in range(0, len(ids), _ADD_ROWS):
            part = ids[start : start + _ADD_ROWS]
            index.add_with_ids(store.take(part).astype(np.float32), part)
        return cls(index)

    def search(self, queries: Float32, n: int, *, nprobe: int, mask: Mask | None = None) -> Int64:
        """Return ids (nq, n), best first by their codes, padded with −1; only ids where `mask` is True."""
        faiss = require_faiss()
        use_threads(faiss, len(queries))
        parameters, owner = search_parameters(faiss, mask, nprobe=min(nprobe, self.nlist))
        ids: Int64 = self._index.search(queries, n, params=parameters)[1]
        del owner
        return ids

    def save(self, file: BinaryIO) -> None:
        """Write the index in FAISS's own format."""
        faiss = require_faiss()
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))

    @classmethod
    def load(cls, path: Path, *, dim: int) -> AnnIndex:
        """Return the index in a file; raise FileNotFoundError, or CollectionCorrupt when it is not such an index."""
        faiss = require_faiss()
        if not path.is_file():
            raise FileNotFoundError(path)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise CollectionCorrupt(f"The index file {path} cannot be read: rebuild it with --index ivfpq.") from error
        if not isinstance(index, faiss.IndexIVF) or index.d != dim:
            raise CollectionCorrupt(f"The index file {path} is not of this collection: rebuild it with --index ivfpq.")
        return cls(index)
