"""One score of two: small differences of matching scores count by the weight, large ones no more than the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmsearch.rerank.blending import BOUND, blend
from mmsearch.types import Float32

WEIGHT = 0.05
ROWS = arrays(np.float32, (3, 7), elements=st.floats(-1, 1, width=32))


def test_small_differences_count_by_the_weight() -> None:
    found = blend(np.float32([0.3, 0.3, 0.3]), np.float32([1.0, 1.1, 0.9]), WEIGHT)
    assert found == pytest.approx([0.3 - 0.1 * WEIGHT, 0.3, 0.3 - 0.2 * WEIGHT], abs=1e-4)


def test_what_is_far_behind_stays_behind_whatever_matches() -> None:
    similarity = np.float32([0.5, 0.5 - 1.01 * WEIGHT * BOUND])
    assert blend(similarity, np.float32([-90, 90]), WEIGHT).argmax() == 0
    assert blend(similarity, np.float32([-90, 90]), 1.1 * WEIGHT).argmax() == 1


@given(ROWS, ROWS)
def test_between_equally_similar_ones_the_match_decides(similarity: Float32, matched: Float32) -> None:
    alike = np.zeros_like(similarity)
    assert (blend(alike, matched, WEIGHT).argmax(axis=1) == matched.argmax(axis=1)).all()
    blended = blend(similarity, matched, WEIGHT)
    assert (blended <= similarity).all()
    assert (similarity - blended <= WEIGHT * BOUND + 1e-6).all()
    assert blended.dtype == np.float32
    assert blend(similarity[0], matched[0], WEIGHT).tolist() == blended[0].tolist()


def test_nothing_to_look_at() -> None:
    nothing = np.empty(0, dtype=np.float32)
    assert blend(nothing, nothing, WEIGHT).tolist() == []
