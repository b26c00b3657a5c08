"""How many lists to probe and candidates to rescore for a recall, on several kinds of queries at once.

A query of text against picture vectors has another distribution than a picture: an index that is tuned on one alone
loses the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmsearch.types import Float32, Int64, Neighbors, SearchParams
from mmsearch.vectors.index import MIN_CANDIDATES, VectorIndex, recall_of, without_own

K = 10
MOST_CANDIDATES = 1600

_ENOUGH_GAIN = 0.25
"""Four times the candidates are kept when they close this share of the gap to the target; else nprobe is doubled."""

_HALVINGS = 2
"""So often the step between too few lists and enough of them is halved: what is left over is a fifth at most."""


@dataclass(frozen=True, slots=True)
class QuerySet:
    """Queries (nq, dim); `own` (nq,) is the id of the vector that each of them is, to be left out, or None."""

    rows: Float32
    own: Int64 | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """What to search with, and the recall@10 by kind of query that this was measured to give."""

    nprobe: int
    candidates: int
    recall: Mapping[str, float]

    @property
    def least(self) -> float:
        """The recall of the kind that fares worst; 1 where nothing was measured."""
        return min(self.recall.values(), default=1.0)


def tune(index: VectorIndex, queries: Mapping[str, QuerySet], *, nlist: int, nprobe: int, target: float) -> Tuned:
    """Return the first setting found that reaches the target on every kind of query, or the best there is."""
    truth = {kind: _found(index, some, SearchParams(exact=True)) for kind, some in queries.items()}

    def measured(nprobe: int, candidates: int) -> Tuned:
        params = SearchParams(nprobe=nprobe, candidates=candidates, refine_factor=1)
        recall = {kind: recall_of(_found(index, some, params), truth[kind]) for kind, some in queries.items()}
        return Tuned(nprobe, candidates, recall)

    now = measured(min(nprobe, nlist), MIN_CANDIDATES)
    while now.least < target:
        if now.candidates < MOST_CANDIDATES:
            more = measured(now.nprobe, 4 * now.candidates)
            if more.least >= now.least + _ENOUGH_GAIN * (target - now.least):
                now = more
                continue
        if now.nprobe >= nlist:
            break
        before, now = now.nprobe, measured(min(2 * now.nprobe, nlist), now.candidates)
        if now.least >= target:  # a doubling may be more than is needed
            for _ in range(_HALVINGS):
                between = measured(round((before * now.nprobe) ** 0.5), now.candidates)
                before, now = (before, between) if between.least >= target else (between.nprobe, now)
    return now


def _found(index: VectorIndex, queries: QuerySet, params: SearchParams) -> Neighbors:
    """Return the first ten (nq, 10), without the queries themselves."""
    if queries.own is None:
        return index.search(queries.rows, K, params=params)
    return without_own(index.search(queries.rows, K + 1, params=params), queries.own)
