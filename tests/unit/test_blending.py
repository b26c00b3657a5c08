"""One score of two: small differences of matching scores count by the weight, large ones no more than the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmsearch.rerank.blending import blend
from mmsearch.types import DEFAULT_BOUND as BOUND
from mmsearch.types import Float32

WEIGHT = 0.05
ROWS = arrays(np.float32, (3, 7), elements=st.floats(-1, 1, width=32, allow_subnormal=False))


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


def test_a_larger_bound_lets_matching_scores_decide() -> None:
    similarity, matched = np.float32([0.30, 0.28, 0.25, 0.24]), np.float32([-9, 5, -9, -4])
    assert np.argsort(-blend(similarity, matched, WEIGHT)).tolist() == [1, 0, 2, 3], "alike from twice the bound on"
    assert np.argsort(-blend(similarity, matched, WEIGHT, 50.0)).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_the_lowest(wrong: float) -> None:
    similarity = np.float32([0.3, 0.3, 0.3])
    found = blend(similarity, np.float32([1, wrong, 2]), WEIGHT)
    assert np.argsort(-found).tolist() == [2, 0, 1]
    assert found[1] == pytest.approx(0.3 - WEIGHT * BOUND)
    assert blend(similarity, np.float32([wrong] * 3), WEIGHT).tolist() == similarity.tolist()


def test_nothing_to_look_at() -> None:
    nothing = np.empty(0, dtype=np.float32)
    assert blend(nothing, nothing, WEIGHT).tolist() == []
