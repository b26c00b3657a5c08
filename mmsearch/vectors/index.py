"""VectorIndex: an ANN index over most vectors, an exact scan of the rest, and exact scores, behind one `search`."""

from __future__ import annotations

import numpy as np

from mmsearch.errors import QueryError
from mmsearch.types import Float32, Int64, Mask, Neighbors, SearchParams
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.exact import ExactIndex, rescore
from mmsearch.vectors.store import VectorStore

SELECTIVE_SHARE, SELECTIVE_ROWS = 0.02, 8192
"""A mask that lets no greater share through, and no more rows, is scanned exactly: that takes a few milliseconds."""

MIN_CANDIDATES = 100
_MOST_CANDIDATES = 2000
_WIDER = 0.85
"""Under a mask more lists are probed by this power of one over the share that may come back (`benchmarks.masks`)."""

_QUERIES_AT_ONCE = 256


class VectorIndex:
    """Search over the live vectors of a store. Safe to call from several threads."""

    def __init__(
        self,
        store: VectorStore,
        *,
        dead: Int64 | None = None,
        ann: AnnIndex | None = None,
        covered: int = 0,
        nprobe: int = 1,
        candidates: int = MIN_CANDIDATES,
    ) -> None:
        """`dead` ids (n,) never come back; `ann` covers live ids below `covered`.

        It is asked with `nprobe` for `candidates` at least.
        """
        self._store = store
        self._exact = ExactIndex(store)
        self._ann = ann
        self._covered = covered if ann is not None else 0
        self._nprobe = nprobe
        self._candidates = candidates
        self._live: Mask | None = None
        # What was compacted away may still be in the ANN index, also behind the last id that is left.
        if (dead is not None and len(dead)) or len(store) < max(store.end_id, self._covered):
            self._live = np.zeros(store.end_id, dtype=np.bool_)
            self._live[store.ids()] = True
            if dead is not None:
                self._live[dead[dead < store.end_id]] = False

    def __len__(self) -> int:
        return len(self._store) if self._live is None else int(np.count_nonzero(self._live))

    @property
    def store(self) -> VectorStore:
        """The stored rows."""
        return self._store

    def search(
        self, queries: Float32, k: int, *, allowed: Mask | None = None, params: SearchParams | None = None
    ) -> Neighbors:
        """Return the k best live vectors for each query (nq, dim); scores are cosines of the stored rows.

        `allowed` is a mask by vector id: True may come back, ids past its end may not. With at least k allowed live
        vectors, k come back. Raise QueryError for queries of the wrong shape, not finite, or k < 1.
        """
        params = params or SearchParams()
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._store.dim:
            raise QueryError(f"Queries must have shape (n, {self._store.dim}), not {queries.shape}.")
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}.")
        if not np.isfinite(queries).all():
            raise QueryError("A query vector holds a number that is not finite.")
        mask = self._mask(allowed)
        available = len(self._store) if mask is None else int(np.count_nonzero(mask))
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        if available:
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                part = slice(start, start + _QUERIES_AT_ONCE)
                self._search_some(queries[part], ids[part], scores[part], mask, available, params)
        return Neighbors(ids, scores)

    def _search_some(
        self,
        queries: Float32,
        ids: Int64,
        scores: Float32,
        mask: Mask | None,
        available: int,
        params: SearchParams,
    ) -> None:
        k = min(ids.shape[1], available)
        starved = np.arange(len(queries))
        is_selective = available <= min(SELECTIVE_SHARE * self._covered, SELECTIVE_ROWS)
        if self._ann is not None and not params.exact and not is_selective:
            # Under a mask the nearest allowed rows lie farther away, in more lists, and closer to one another.
            fewer = len(self._store) / available
            nprobe = params.nprobe or round(self._nprobe * fewer**_WIDER)
            candidates = params.candidates or min(round(self._candidates * fewer**0.5), _MOST_CANDIDATES)
            wanted = max(k * max(1, params.refine_factor), candidates)
            found = self._ann.search(queries, wanted, nprobe=nprobe, mask=mask)
            tail = self._exact.candidates(queries, k, mask, start=self._covered)
            self._refine(queries, np.concatenate([found, tail], axis=1), ids, scores)
            starved = np.flatnonzero((ids[:, :k] < 0).any(axis=1))
        if len(starved):
            candidates = self._exact.candidates(queries[starved], k + 8, mask)
            some_ids, some_scores = ids[starved], scores[starved]
            self._refine(queries[starved], candidates, some_ids, some_scores)
            ids[starved], scores[starved] = some_ids, some_scores

    def _refine(self, queries: Float32, candidates: Int64, ids: Int64, scores: Float32) -> None:
        """Fill ids and scores (nq, k) with the best of the candidates (nq, n), scored from the stored rows."""
        distinct = _real(candidates)
        rows = self._store.take(distinct)
        for query, some in enumerate(candidates):
            mine = distinct if len(queries) == 1 else _real(some)
            exact = rescore(rows if len(queries) == 1 else rows[np.searchsorted(distinct, mine)], queries[query])
            order = np.argsort(-exact, kind="stable")[: ids.shape[1]]  # of equal scores the lower id comes first
            ids[query, : len(order)] = mine[order]
            scores[query, : len(order)] = exact[order]

    def _mask(self, allowed: Mask | None) -> Mask | None:
        if allowed is None:
            return self._live
        mask = np.zeros(self._store.end_id, dtype=np.bool_)
        shared = min(len(mask), len(allowed))
        mask[:shared] = allowed[:shared]
        return mask if self._live is None else mask & self._live


def _real(ids: Int64) -> Int64:
    """Return the distinct ids (n,), ascending, without the padding −1."""
    distinct = np.unique(ids)
    return distinct[np.searchsorted(distinct, 0) :]


def without_own(found: Neighbors, own: Int64) -> Neighbors:
    """Return answers (nq, k − 1) without the vector `own` (nq,) that each query itself is; else without the last."""
    is_own = found.ids == own[:, np.newaxis]
    order = np.argsort(is_own, axis=1, kind="stable")[:, :-1]  # its own last, the others as they were
    return Neighbors(np.take_along_axis(found.ids, order, axis=1), np.take_along_axis(found.scores, order, axis=1))


def recall_of(found: Neighbors, truth: Neighbors) -> float:
    """Return the share of the true answers (nq, k) that were found; a tie with the k-th score counts."""
    good = (found.scores >= truth.scores[:, -1:]) & (found.ids >= 0)
    wanted = int((truth.ids >= 0).sum())
    return float(good.sum() / wanted) if wanted else 1.0


def measure_recall(index: VectorIndex, queries: Float32, *, k: int = 10, params: SearchParams | None = None) -> float:
    """Return recall@k of the index against exact search on queries (nq, dim)."""
    truth = index.search(queries, k, params=SearchParams(exact=True))
    return recall_of(index.search(queries, k, params=params), truth)
