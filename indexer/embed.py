"""Embedder: gathers items into batches for an encoder; an item and its vector come out together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from indexer.stages import Stage, StageTimes
from mmsearch.catalog.rows import NewItem
from mmsearch.collection.writer import UNIT_TOLERANCE
from mmsearch.types import Encoder, Float32, UInt8

TEXT_BATCH = 256

Embedded = tuple[NewItem, Float32 | None]
_T = TypeVar("_T", Sequence[str], UInt8)


class Embedder:
    """Batches of pictures and of texts. `add_*` yields (item, vector (dim,)) pairs, a batch behind.

    One batch is encoded in a thread of its own while the caller stores the one before and gathers the next. A vector
    that is not finite or not of unit length comes out as None.
    """

    def __init__(self, encoder: Encoder, times: StageTimes) -> None:
        self._encoder = encoder
        self._times = times
        self._images: list[tuple[NewItem, UInt8]] = []
        self._texts: list[NewItem] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mmsearch-embed")
        self._encoding: deque[tuple[list[NewItem], Future[Float32]]] = deque()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)

    def add_image(self, item: NewItem, pixels: UInt8) -> Iterator[Embedded]:
        """Take a prepared picture (3, S, S)."""
        self._images.append((item, pixels))
        if len(self._images) >= self._encoder.image_batch:
            self._encode_images()
            yield from self._finished(leave=1)

    def add_text(self, item: NewItem) -> Iterator[Embedded]:
        """Take a caption."""
        self._texts.append(item)
        if len(self._texts) >= TEXT_BATCH:
            self._encode_texts()
            yield from self._finished(leave=1)

    def flush(self) -> Iterator[Embedded]:
        """Yield all that was taken and has not come out yet."""
        self._encode_images()
        self._encode_texts()
        yield from self._finished(leave=0)

    def _encode_images(self) -> None:
        batch, self._images = self._images, []
        if batch:
            pixels = np.stack([pixels for _, pixels in batch])  # here, so that the encoder need not wait for it
            future = self._worker.submit(_halving, pixels, self._encode_pixels)
            self._encoding.append(([item for item, _ in batch], future))

    def _encode_pixels(self, pixels: UInt8) -> Float32:
        with self._times.timed(Stage.ENCODE, len(pixels)):
            return self._encoder.encode_images(pixels)

    def _encode_captions(self, texts: Sequence[str]) -> Float32:
        with self._times.timed(Stage.CAPTIONS, len(texts)):
            return self._encoder.encode_texts(texts)

    def _encode_texts(self) -> None:
        batch, self._texts = self._texts, []
        if batch:
            texts = [item.text or "" for item in batch]
            self._encoding.append((batch, self._worker.submit(_halving, texts, self._encode_captions)))

    def _finished(self, *, leave: int) -> Iterator[Embedded]:
        while len(self._encoding) > leave:
            items, future = self._encoding.popleft()
            yield from _paired(items, future.result())


def _paired(items: Sequence[NewItem], vectors: Float32) -> Iterator[Embedded]:
    for item, vector in zip(items, vectors, strict=True):
        is_unit = abs(float(np.linalg.norm(vector)) - 1.0) <= UNIT_TOLERANCE  # False for a NaN
        yield item, vector if is_unit else None


def _halving(batch: _T, encode: Callable[[_T], Float32]) -> Float32:
    """Return encode(batch), in halves of halves where memory does not suffice; raise MemoryError for a single one."""
    try:
        return encode(batch)
    except MemoryError:
        if len(batch) == 1:
            raise
        middle = len(batch) // 2
        return np.concatenate([_halving(batch[:middle], encode), _halving(batch[middle:], encode)])
