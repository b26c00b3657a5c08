"""Ranks: where the relevant items of each query stand among all candidates. Every metric is computed from them.

Ties count against: an item that scores the same as the relevant one stands before it. Scores that float32 cannot tell
apart (`TIE`) are ties, so that a constant encoder does not profit from how a matrix product rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.errors import EvaluationError
from mmsearch.types import Float32, Int64

TIE = 1e-6
"""Cosines nearer to each other than this are equal."""

NOT_FOUND = 1 << 40
"""The rank of a relevant item that was not among those retrieved."""

_BLOCK_ELEMENTS = 16_000_000
_FEW = 16


@dataclass(frozen=True, slots=True)
class Relevance:
    """Which candidates are relevant to which query: those of query i are `items[starts[i] : starts[i + 1]]`."""

    items: Int64
    starts: Int64

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Relevance:
        """Return the relevance that lists of candidates, one for each query, tell."""
        starts = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(some) for some in lists], out=starts[1:])
        items = np.fromiter((item for some in lists for item in some), dtype=np.int64, count=int(starts[-1]))
        return cls(items, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def to(self, query: int) -> Int64:
        """Return the candidates (n,) relevant to a query."""
        return self.items[self.starts[query] : self.starts[query + 1]]


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks from 1 of the relevant items, best first; those of query i are `ranks[starts[i] : starts[i + 1]]`."""

    ranks: Int64
    starts: Int64

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def first(self) -> Int64:
        """The rank (nq,) of the best relevant item of each query."""
        return self.ranks[self.starts[:-1]]


def censored(ranks: Ranks, depth: int) -> Ranks:
    """Return the ranks as they would be known from the first `depth` answers alone."""
    return Ranks(np.where(ranks.ranks > depth, NOT_FOUND, ranks.ranks), ranks.starts)


def rank_all(
    queries: Float32, candidates: Float32, relevance: Relevance, *, own: Int64 | None = None, tie: float = TIE
) -> Ranks:
    """Return the ranks of the relevant among all candidates (n, dim) by inner product with queries (nq, dim).

    `own` (nq,) is the candidate that is the query itself, which is left out. Every query must have something relevant.
    Raise EvaluationError where a score is not a finite number.
    """
    ranks = np.empty(len(relevance.items), dtype=np.int64)
    block = max(1, _BLOCK_ELEMENTS // max(1, len(candidates)))
    for start in range(0, len(queries), block):
        stop = min(start + block, len(queries))
        scores = queries[start:stop] @ candidates.T
        if not np.isfinite(scores).all():
            row = start + int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
            raise EvaluationError(f"The scores of query {row + 1} are not finite numbers: the encoder is broken.")
        if own is not None:
            scores[np.arange(stop - start), own[start:stop]] = -np.inf
        here = slice(int(relevance.starts[start]), int(relevance.starts[stop]))
        part = Relevance(relevance.items[here], relevance.starts[start : stop + 1] - relevance.starts[start])
        ranks[here] = _ranks_in(scores, part, tie)
    return Ranks(ranks, relevance.starts)


def rank_found(ids: Int64, scores: Float32, relevance: Relevance, *, tie: float = TIE) -> Ranks:
    """Return the ranks of the relevant among what was retrieved: ids and scores (nq, k), best first, padded with −1."""
    ranks = np.full(len(relevance.items), NOT_FOUND, dtype=np.int64)
    for query in range(len(relevance)):
        wanted = relevance.to(query)
        is_relevant = np.isin(ids[query], wanted) & (ids[query] >= 0)
        others = np.sort(scores[query][~is_relevant & (ids[query] >= 0)])
        found = np.sort(scores[query][is_relevant])[::-1]
        before = len(others) - np.searchsorted(others, found - tie)
        ranks[relevance.starts[query] : relevance.starts[query] + len(found)] = before + 1 + np.arange(len(found))
    return Ranks(ranks, relevance.starts)


def _ranks_in(scores: Float32, relevance: Relevance, tie: float) -> Int64:
    """Return the ranks of the relevant in a block of scores (nq, n), query by query."""
    counts = np.diff(relevance.starts)
    rows = np.repeat(np.arange(len(scores)), counts)
    mine = scores[rows, relevance.items]
    order = np.lexsort((-mine, rows))  # the relevant of each query, best first
    mine = mine[order]
    position = np.arange(len(mine)) - np.repeat(relevance.starts[:-1], counts)  # from 0
    limit = mine - np.float32(tie)
    if counts.max(initial=0) <= _FEW:
        ahead = np.empty(len(mine), dtype=np.int64)
        for place in range(int(counts.max(initial=0))):
            here = np.flatnonzero(position == place)
            ahead[here] = (scores[rows[here]] >= limit[here, None]).sum(axis=1)
    else:
        ahead = np.concatenate(
            [
                scores.shape[1] - np.searchsorted(np.sort(row), limit[a:b])
                for row, a, b in zip(scores, relevance.starts[:-1], relevance.starts[1:], strict=True)
            ]
        )
    # Of those ahead or level, the relevant ones are not in the way.
    relevant = np.empty(len(mine), dtype=np.int64)
    for a, b in zip(relevance.starts[:-1], relevance.starts[1:], strict=True):
        relevant[a:b] = (b - a) - np.searchsorted(mine[a:b][::-1], limit[a:b])
    return position + 1 + ahead - relevant
