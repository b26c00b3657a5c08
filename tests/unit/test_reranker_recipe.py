"""The recipe of the reranker that ships: words exchanged, pictures mirrored with the colours of their patches."""

from __future__ import annotations

import numpy as np
import pytest

from mmsearch.rerank.cells import colour_cells, with_cells
from training.reranker.swaps import COLOURS, swapped

pytest.importorskip("torch", reason="needs the extra [train]")
mirrored = pytest.importorskip("training.reranker.train", reason="needs the extra [train]").mirrored


def test_captions_with_words_exchanged() -> None:
    caption = "a brown dog on the wet grass"
    found = swapped(caption, np.random.default_rng(0))
    assert set(found) == {"nouns", "qualifiers", "colour"}
    assert found["nouns"] == "a brown grass on the wet dog"
    assert found["qualifiers"] == "a wet dog on the brown grass"
    first, colour, *rest = found["colour"].split()
    assert (first, rest) == ("a", ["dog", "on", "the", "wet", "grass"])
    assert colour in COLOURS and colour != "brown"


def test_captions_without_two_such_words_stay_whole() -> None:
    assert swapped("a dog", np.random.default_rng(0)) == {}
    assert swapped("a dog and a cat", np.random.default_rng(0)) == {}, "that says the same"
    assert set(swapped("a red car", np.random.default_rng(0))) == {"colour"}
    for seed in range(50):
        other = swapped("a grey car", np.random.default_rng(seed))["colour"]
        assert "grey" not in other and "gray" not in other


def test_a_mirrored_picture_has_its_colours_mirrored() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 18, 18), dtype=np.uint8)
    place = np.arange(9, dtype=np.float32)[None, :, None].repeat(2, axis=0)
    tokens = with_cells(place, colour_cells(pixels, side=3, cells=2))
    turned = mirrored(tokens, np.array([True, False]), cells=2)
    exact = colour_cells(np.ascontiguousarray(pixels[:1, :, :, ::-1]), side=3, cells=2)
    np.testing.assert_array_equal(turned[0, :, 1:], with_cells(place[:1], exact)[0, :, 1:])
    assert turned[0, :, 0].tolist() == [2, 1, 0, 5, 4, 3, 8, 7, 6]
    np.testing.assert_array_equal(turned[1], tokens[1])
    np.testing.assert_array_equal(mirrored(place, np.array([True, True]), cells=0)[0, :, 0], turned[0, :, 0])
