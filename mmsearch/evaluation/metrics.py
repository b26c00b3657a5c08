"""Metrics of retrieval, for each query from the ranks of what is relevant, and their means with 95 % intervals.

R@k is that of the CLIP papers: the share of queries with anything relevant among the first k (ranx calls it hit rate).
Precision, MRR, MAP: Manning et al., Introduction to Information Retrieval, chapter 8. nDCG: Järvelin, Kekäläinen 2002.
Intervals: percentile bootstrap over clusters (Efron 1979), since the captions of one picture are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmsearch.evaluation.ranks import NOT_FOUND, Ranks
from mmsearch.types import Float64, Int64

CUTOFFS = (1, 5, 10)
MEDIAN = "median rank"
NAMES = (
    *(f"R@{k}" for k in CUTOFFS),
    *(f"precision@{k}" for k in CUTOFFS),
    *(f"F1@{k}" for k in CUTOFFS),
    MEDIAN,
    "MRR",
    "nDCG@10",
    "MAP",
)

_ROUNDS = 1000
_BLOCK = 100


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric over all queries, and its 95 % interval. All but the median rank lie between 0 and 1.

    A median rank is infinite where half of the queries found nothing.
    """

    name: str
    value: float
    low: float
    high: float


def per_query(ranks: Ranks, *, gains: Float64 | None = None) -> dict[str, Float64]:
    """Return each metric of `NAMES` for each query (nq,); the median rank stands for the rank of the best one.

    `gains` are those of the relevant items in the order of `ranks` for a graded nDCG; 1 each without.
    """
    starts, found = ranks.starts[:-1], ranks.ranks
    relevant = np.diff(ranks.starts).astype(np.float64)
    position = np.arange(len(found)) - np.repeat(starts, np.diff(ranks.starts)) + 1
    seen = found < NOT_FOUND
    metrics: dict[str, Float64] = {}
    hits = {k: np.add.reduceat((found <= k).astype(np.float64), starts) for k in CUTOFFS}
    for k in CUTOFFS:
        metrics[f"R@{k}"] = (hits[k] > 0).astype(np.float64)
    for k in CUTOFFS:
        metrics[f"precision@{k}"] = hits[k] / k
    for k in CUTOFFS:  # 2PR / (P + R) with P = hits / k and R = hits / relevant
        metrics[f"F1@{k}"] = 2.0 * hits[k] / (k + relevant)
    metrics[MEDIAN] = ranks.first.astype(np.float64)
    metrics["MRR"] = np.where(ranks.first < NOT_FOUND, 1.0 / ranks.first, 0.0)
    metrics["nDCG@10"] = _ndcg(ranks, position, gains)
    metrics["MAP"] = np.add.reduceat(np.where(seen, position / found, 0.0), starts) / relevant
    return metrics


def summarise(values: Mapping[str, Float64], clusters: Int64, *, seed: int = 0) -> tuple[Metric, ...]:
    """Return the metrics over all queries with their intervals; `clusters` (nq,) says which queries belong together."""
    _, member = np.unique(clusters, return_inverse=True)
    weights = _weights(int(member.max()) + 1, seed)
    return tuple(_metric(name, column, member, weights) for name, column in values.items())


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher a metric is in B than in A, its 95 % interval, and the p value of a paired randomisation test."""

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def compare(
    a: Mapping[str, Float64], b: Mapping[str, Float64], clusters: Int64, *, seed: int = 0, rounds: int = 10_000
) -> tuple[Difference, ...]:
    """Return how B differs from A on the same queries.

    The test (Fisher's; Smucker et al. 2007) exchanges A and B at random, cluster by cluster; it is two-sided. The
    difference of median ranks is told as the mean difference of the ranks' logarithms: medians have no pairs.
    """
    _, member = np.unique(clusters, return_inverse=True)
    weights = _weights(int(member.max()) + 1, seed)
    rng = np.random.default_rng((seed, 1))
    found = []
    for name in a:
        one, other = a[name], b[name]
        if name == MEDIAN:  # a rank that is not known is the one behind the last that is
            worst = max(float(x[x < NOT_FOUND].max(initial=0)) for x in (one, other)) + 1
            one, other = np.minimum(one, worst), np.minimum(other, worst)
        difference = np.log(other) - np.log(one) if name == MEDIAN else other - one
        sums = np.bincount(member, difference)
        sizes = np.bincount(member)
        observed = difference.mean()
        resampled = (weights @ sums) / (weights @ sizes)
        extreme = 0
        for start in range(0, rounds, 500):
            signs = rng.integers(0, 2, (min(500, rounds - start), len(sums)), dtype=np.int8) * 2.0 - 1.0
            extreme += int((np.abs(signs @ sums) / len(difference) >= abs(observed) - 1e-12).sum())
        low, high = np.percentile(resampled, [2.5, 97.5])
        value_a, value_b = (
            _known(float(np.median(x))) if name == MEDIAN else float(x.mean()) for x in (a[name], b[name])
        )
        found.append(
            Difference(name, value_a, value_b, float(observed), float(low), float(high), (1 + extreme) / (1 + rounds))
        )
    return tuple(found)


def _metric(name: str, column: Float64, member: Int64, weights: Float64) -> Metric:
    if name == MEDIAN:
        order = np.argsort(column, kind="stable")
        ordered, places = column[order], member[order]
        medians = np.concatenate(
            [_medians(ordered, places, weights[i : i + _BLOCK]) for i in range(0, _ROUNDS, _BLOCK)]
        )
        low, high = np.percentile(medians, [2.5, 97.5])
        return Metric(name, *(_known(float(x)) for x in (np.median(column), low, high)))
    sums, sizes = np.bincount(member, column), np.bincount(member)
    low, high = np.percentile((weights @ sums) / (weights @ sizes), [2.5, 97.5])
    return Metric(name, float(column.mean()), float(low), float(high))


def _known(rank: float) -> float:
    return math.inf if rank >= NOT_FOUND / 2 else rank


def _medians(ordered: Float64, places: Int64, weights: Float64) -> Float64:
    """Return the weighted medians of ascending values (nq,) for each row of weights (rounds, clusters)."""
    running = np.cumsum(weights[:, places], axis=1)
    medians: Float64 = ordered[(running >= running[:, -1:] / 2.0).argmax(axis=1)]
    return medians


def _weights(clusters: int, seed: int) -> Float64:
    """Return how often each cluster is drawn in each round (rounds, clusters)."""
    rng = np.random.default_rng((seed, 0))
    return rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=_ROUNDS).astype(np.float64)


def _ndcg(ranks: Ranks, position: Int64, gains: Float64 | None) -> Float64:
    cutoff = 10
    starts = ranks.starts[:-1]
    gain = np.ones(len(ranks.ranks)) if gains is None else gains
    discounted = np.where(ranks.ranks <= cutoff, gain / np.log2(1.0 + ranks.ranks), 0.0)
    query = np.repeat(np.arange(len(ranks)), np.diff(ranks.starts))
    best = gain[np.lexsort((-gain, query))]  # the ideal order
    ideal = np.where(position <= cutoff, best / np.log2(1.0 + position), 0.0)
    total = np.add.reduceat(ideal, starts)
    return np.add.reduceat(discounted, starts) / np.where(total > 0, total, 1.0)
