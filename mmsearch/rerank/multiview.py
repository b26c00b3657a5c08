"""Several views: the best candidates by similarity and matching score get the cosine of the mean of their views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mmsearch.rerank.blending import blend
from mmsearch.types import Float32, RerankerSpec

VIEWED = 6
"""How many candidates are looked at in several views."""


def multi_view_similarity(
    similarity: Float32,
    matched: Float32,
    spec: RerankerSpec,
    *,
    query: Float32,
    vectors_of: Callable[[Sequence[int]], Mapping[int, Float32]],
    most: int | None = None,
) -> Float32:
    """Return the cosines (c,) of candidate pictures, those of the best `most` (VIEWED) with all their views.

    `similarity` and `matched` (c,) say which are the best, `query` is the vector (dim,) of the words. `vectors_of`
    returns the mean directions (dim,) of all views by place, of those that can be looked at.
    """
    order = np.argsort(-blend(similarity, matched, spec.weight, spec.bound), kind="stable")
    seen = vectors_of(order[: VIEWED if most is None else most].tolist())
    found = similarity.copy()
    if seen:
        found[list(seen)] = np.stack(list(seen.values())) @ query
    return found
