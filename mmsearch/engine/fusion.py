"""Merging ranked lists whose scores cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmsearch.types import Hit

RRF_K = 60
"""The constant of reciprocal rank fusion as Cormack, Clarke and Buettcher (SIGIR 2009) set it."""


def reciprocal_rank_fusion(lists: Sequence[Sequence[Hit]]) -> list[tuple[float, Hit]]:
    """Return (fused score, hit), best first, of lists that are each in order of rank (from 1).

    Equal fused scores are in order of item id. An item may stand in several lists; it then appears once.
    """
    scores: dict[int, float] = {}
    hits: dict[int, Hit] = {}
    for ranked in lists:
        for hit in ranked:
            scores[hit.item.id] = scores.get(hit.item.id, 0.0) + 1.0 / (RRF_K + hit.rank)
            hits.setdefault(hit.item.id, hit)
    return sorted(((scores[key], hit) for key, hit in hits.items()), key=lambda pair: (-pair[0], pair[1].item.id))


def merged_by_rank(lists: Sequence[list[Hit]]) -> list[Hit]:
    """Return the one list, or several as one with ranks from 1 and fused scores."""
    if len(lists) == 1:
        return lists[0]
    fused = reciprocal_rank_fusion(lists)
    return [replace(hit, rank=rank, score=score) for rank, (score, hit) in enumerate(fused, start=1)]
