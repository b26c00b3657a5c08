"""How a matching score and the similarity of the first stage become one score."""

from __future__ import annotations

import numpy as np

from mmsearch.types import Float32

BOUND = 2.0
"""So much of a matching score, at most about, counts between two candidates.

A matcher tells apart what it was trained on. On pictures of another kind it is as sure and less often right: without a
bound one wrong guess of it puts what is far off before what the first stage is certain of (docs/reranking.md).
"""


def blend(similarity: Float32, matched: Float32, weight: float) -> Float32:
    """Return the scores (…, c) of candidates by their cosines (…, c) and matching scores (…, c).

    The candidate that matches best keeps its cosine, the others lose weight × BOUND × tanh(behind / BOUND), where
    `behind` is how much better the best one matches: nearly weight × behind while that is small, never more than
    weight × BOUND.
    """
    if not matched.shape[-1]:
        return similarity
    behind = matched.max(axis=-1, keepdims=True) - matched
    blended: Float32 = similarity - np.float32(weight * BOUND) * np.tanh(behind / np.float32(BOUND))
    return blended
