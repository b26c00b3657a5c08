"""Exact inner product: the tail of an index, small collections, filtered searches and ground truth.

FAISS's float16 scalar quantiser reads the stored rows as they are and is several times faster than NumPy, which has to
widen them first; NumPy serves where FAISS is not installed, for a batch of queries (a matrix product), and where the
rows are so few that loading FAISS would take longer.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from mmsearch.types import Float16, Float32, Int64, Mask
from mmsearch.vectors.backend import find_faiss, search_parameters, use_threads
from mmsearch.vectors.store import Block, VectorStore, widen

NUMPY_ROWS = 4096
"""Up to this many rows NumPy takes at most about 5 ms, less than it takes to import FAISS."""

CACHE_BYTES = 256 << 20
"""Rows kept in memory inside FAISS quantisers, at most; blocks past that are copied anew for each search."""

MASKED_ROWS = 65_536
"""Up to this many rows under a mask NumPy takes out of their blocks: FAISS would look at all the others as well."""

BATCH = 64
"""From this many queries on a matrix product is several times faster than FAISS's scan, which takes them one by one."""

_CHUNK = 8192


class ExactIndex:
    """Exact search over a store. Safe to call from several threads."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._cache: dict[int, Any] = {}
        self._room = CACHE_BYTES
        self._lock = threading.Lock()

    def candidates(self, queries: Float32, n: int, mask: Mask | None, *, start: int = 0) -> Int64:
        """Return for queries (nq, dim) the ids (nq, ≤ n) of the best rows with id ≥ `start`, in any order.

        `mask` (end_id,) is True at the ids that may come back. Rows short of `n` are padded with −1.
        """
        blocks = [block.part(start) for block in self._store.blocks if block.end_id > start]
        here = [len(block.rows) if mask is None else np.count_nonzero(block.allowed(mask)) for block in blocks]
        allowed = int(sum(here))
        n = min(n, allowed)
        if n == 0:
            return np.full((len(queries), 0), -1, dtype=np.int64)
        few = allowed <= (NUMPY_ROWS if mask is None else MASKED_ROWS)
        if few or len(queries) >= BATCH or find_faiss() is None:
            parts = [part for block in blocks for part in _scan(block, queries, n, mask)]
        else:
            parts = [self._search(block, queries, n, mask) for block in blocks]
        ids = np.concatenate([part[0] for part in parts], axis=1)
        scores = np.concatenate([part[1] for part in parts], axis=1)
        best = np.argpartition(-scores, n - 1, axis=1)[:, :n]
        return np.take_along_axis(ids, best, axis=1)

    def _search(self, block: Block, queries: Float32, n: int, mask: Mask | None) -> tuple[Int64, Float32]:
        faiss = find_faiss()
        assert faiss is not None
        use_threads(faiss, len(queries))
        parameters, owner = search_parameters(faiss, None if mask is None else block.allowed(mask))
        scores, rows = self._quantiser(faiss, block).search(queries, min(n, len(block.rows)), params=parameters)
        del owner
        return np.where(rows < 0, -1, block.ids_of(np.maximum(rows, 0))), np.where(rows < 0, -np.inf, scores)

    def _quantiser(self, faiss: Any, block: Block) -> Any:
        with self._lock:
            cached = self._cache.get(block.first_id)
        if cached is not None and cached.ntotal == len(block.rows):
            return cached
        quantiser = faiss.IndexScalarQuantizer(
            block.rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        quantiser.add_sa_codes(np.ascontiguousarray(block.rows).view(np.uint8))
        with self._lock:
            if block.rows.nbytes <= self._room and block.first_id not in self._cache:
                self._cache[block.first_id] = quantiser
                self._room -= block.rows.nbytes
        return quantiser


def rescore(rows: Float16, query: Float32) -> Float32:
    """Return the scores (n,) of rows (n, dim) with one query (dim,).

    Each score depends on its own row alone, whatever stands beside it, so that copies of a row score alike and every
    way to a row shows the same number (a BLAS product promises neither).
    """
    products = widen(rows)
    products *= query
    scores: Float32 = products.sum(axis=1, dtype=np.float32)
    return scores


def _scan(block: Block, queries: Float32, n: int, mask: Mask | None) -> list[tuple[Int64, Float32]]:
    parts = []
    places = None if mask is None else np.flatnonzero(block.allowed(mask))
    for offset in range(0, len(block.rows) if places is None else len(places), _CHUNK):
        part = slice(offset, offset + _CHUNK)
        rows = block.rows[part] if places is None else block.rows[places[part]]
        ids = np.arange(offset, offset + len(rows), dtype=np.int64) if places is None else places[part]
        ids = block.ids_of(ids)
        scores: Float32 = queries @ widen(rows).T
        if len(ids) > n:
            best = np.argpartition(-scores, n - 1, axis=1)[:, :n]
            parts.append((ids[best], np.take_along_axis(scores, best, axis=1)))
        else:
            parts.append((np.broadcast_to(ids, scores.shape), scores))
    return parts
