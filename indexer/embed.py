"""Embedder: gathers items into batches for an encoder; an item and its vector come out together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from mmsearch.collection import NewItem
from mmsearch.types import Encoder, Float32, UInt8

IMAGE_BATCH = 16
TEXT_BATCH = 256

Embedded = tuple[NewItem, Float32 | None]
_T = TypeVar("_T")


class Embedder:
    """Batches of pictures and of texts. `add_*` yields (item, vector (dim,)) pairs whenever a batch is full.

    A vector that is not finite comes out as None.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._images: list[tuple[NewItem, UInt8]] = []
        self._texts: list[NewItem] = []

    def add_image(self, item: NewItem, pixels: UInt8) -> Iterator[Embedded]:
        """Take a prepared picture (3, S, S)."""
        self._images.append((item, pixels))
        if len(self._images) >= IMAGE_BATCH:
            yield from self._embed_images()

    def add_text(self, item: NewItem) -> Iterator[Embedded]:
        """Take a caption."""
        self._texts.append(item)
        if len(self._texts) >= TEXT_BATCH:
            yield from self._embed_texts()

    def flush(self) -> Iterator[Embedded]:
        """Yield what has not filled a batch."""
        yield from self._embed_images()
        yield from self._embed_texts()

    def _embed_images(self) -> Iterator[Embedded]:
        batch, self._images = self._images, []
        if batch:
            pixels = [pixels for _, pixels in batch]
            vectors = _halving(pixels, lambda part: self._encoder.encode_images(np.stack(part)))
            yield from _paired([item for item, _ in batch], vectors)

    def _embed_texts(self) -> Iterator[Embedded]:
        batch, self._texts = self._texts, []
        if batch:
            vectors = _halving([item.text or "" for item in batch], self._encoder.encode_texts)
            yield from _paired(batch, vectors)


def _paired(items: Sequence[NewItem], vectors: Float32) -> Iterator[Embedded]:
    for item, vector in zip(items, vectors, strict=True):
        yield item, vector if np.isfinite(vector).all() else None


def _halving(batch: Sequence[_T], encode: Callable[[Sequence[_T]], Float32]) -> Float32:
    """Return encode(batch), in halves of halves where memory does not suffice; raise MemoryError for a single one."""
    try:
        return encode(batch)
    except MemoryError:
        if len(batch) == 1:
            raise
        middle = len(batch) // 2
        return np.concatenate([_halving(batch[:middle], encode), _halving(batch[middle:], encode)])
