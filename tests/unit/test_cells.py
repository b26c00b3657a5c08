"""Colour cells: what a matcher is told of the colours in each patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mmsearch.encoders import load_encoder
from mmsearch.encoders.compact import CompactEncoder
from mmsearch.rerank import load_reranker
from mmsearch.rerank.cells import colour_cells, with_cells
from mmsearch.types import Float32, Mask, TokenEncoder, UInt8

RED, BLUE = (200, 10, 20), (10, 20, 200)


def halves(left: Sequence[int], right: Sequence[int], *, side: int) -> UInt8:
    """Return a picture (1, 3, side, side) of two colours."""
    pixels = np.empty((1, 3, side, side), np.uint8)
    pixels[..., : side // 2] = np.array(left, np.uint8)[:, None, None]
    pixels[..., side // 2 :] = np.array(right, np.uint8)[:, None, None]
    return pixels


def test_cells_are_the_means_of_parts_of_patches() -> None:
    found = colour_cells(halves(RED, BLUE, side=16), side=2, cells=2)
    assert found.shape == (1, 4, 12)
    assert found.dtype == np.uint8
    for patch, colour in enumerate((RED, BLUE, RED, BLUE)):
        assert found[0, patch].reshape(4, 3).tolist() == [list(colour)] * 4
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 12, 12), dtype=np.uint8)
    parts = colour_cells(pixels, side=2, cells=3).reshape(2, 2, 2, 3, 3, 3)
    exact = pixels[1, 2, 6:8, 2:4].mean()  # the patch below on the left, its upper middle cell, blue
    assert abs(parts[1, 1, 0, 0, 1, 2] - exact) <= 0.5


def test_sides_that_cannot_be_divided_evenly_lose_no_pixel() -> None:
    pixels = np.full((1, 3, 260, 260), 77, np.uint8)
    assert (colour_cells(pixels, side=9, cells=3) == 77).all()
    pixels[0, 1, 259, 259] = 255
    assert colour_cells(pixels, side=9, cells=3)[0, 80].reshape(3, 3, 3)[2, 2, 1] > 77
    with pytest.raises(ValueError, match="have no 30 × 30 cells"):
        colour_cells(pixels[..., :20, :20], side=10, cells=3)


def test_they_stand_behind_the_tokens() -> None:
    tokens = np.zeros((1, 4, 5), np.float32)
    joined = with_cells(tokens, np.array([[[0, 255]]] * 1, np.uint8).repeat(4, axis=1))
    assert joined.shape == (1, 4, 7)
    assert joined[0, 3].tolist() == [0, 0, 0, 0, 0, -1, 1]


class ColourBlind:
    """The compact encoder with tokens that are the same for all pictures."""

    def __init__(self, encoder: CompactEncoder) -> None:
        self._encoder = encoder
        self.spec, self.min_side = encoder.spec, encoder.min_side
        self.encode_texts, self.encode_images = encoder.encode_texts, encoder.encode_images
        self.prepare_image, self.image_batch = encoder.prepare_image, encoder.image_batch
        self.text_notes = encoder.text_notes

    def image_tokens(self, pixels: UInt8) -> Float32:
        return np.full((len(pixels), 81, 1280), 0.1, np.float32)

    def text_tokens(self, texts: Sequence[str]) -> tuple[Float32, Mask]:
        return self._encoder.text_tokens(texts)


def test_the_reranker_that_ships_sees_them() -> None:
    encoder = load_encoder("compact")
    assert isinstance(encoder, CompactEncoder)
    blind = ColourBlind(encoder)
    assert isinstance(blind, TokenEncoder)
    reranker = load_reranker("auto", blind)
    states = reranker.picture_states(np.concatenate([halves(c, c, side=260) for c in (RED, BLUE)]))
    assert np.abs(states[0] - states[1]).max() > 0.5
