"""How a matching score and the similarity of the first stage become one score.

A matcher tells apart what it was trained on. On pictures of another kind it is as sure and less often right: without a
bound one wrong guess of it puts what is far off before what the first stage is certain of (docs/reranking.md).
"""

from __future__ import annotations

import numpy as np

from mmsearch.types import DEFAULT_BOUND, Float32

_LOWEST = np.float32(-1e30)


def blend(similarity: Float32, matched: Float32, weight: float, bound: float = DEFAULT_BOUND) -> Float32:
    """Return the scores (…, c) of candidates by their cosines (…, c) and matching scores (…, c).

    The candidate that matches best keeps its cosine, the others lose weight × bound × tanh(behind / bound), where
    `behind` is how much better the best one matches: nearly weight × behind while that is small, never more than
    weight × bound. A matching score that is not finite counts as the lowest.
    """
    if not matched.shape[-1]:
        return similarity
    real = np.where(np.isfinite(matched), matched, _LOWEST)
    behind = real.max(axis=-1, keepdims=True) - real
    blended: Float32 = similarity - np.float32(weight * bound) * np.tanh(behind / np.float32(bound))
    return blended
