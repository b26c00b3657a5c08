"""Look: what is read of pictures at query time, once for each: what is kept of them is taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.collection.states import StateCache
from mmsearch.config import Settings
from mmsearch.corpora.places import open_place
from mmsearch.errors import ImageError
from mmsearch.images import content_hash, decode
from mmsearch.types import Float32, UInt8

if TYPE_CHECKING:
    from PIL import Image

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture to be looked at: the id of its vector, the SHA-256 of what was indexed, and where copies of it are."""

    vector_id: int
    content: bytes
    uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One way to look at pictures: `prepare` makes pixels of one (thread-safe), `read` states (n, …) of many.

    `min_side` is that of a Reranker.
    """

    cache: StateCache
    min_side: int | None
    prepare: Callable[[Image.Image], UInt8]
    read: Callable[[UInt8], Float32]

    def __call__(self, pictures: Iterable[Shown]) -> dict[int, Float32]:
        """Return the states of pictures by the ids of their vectors, in the order of the pictures.

        Those that are not kept are opened; one that is gone, or another than was indexed, is not in the result.
        """
        wanted = {one.vector_id: one for one in pictures}
        found = {number: self.cache.get(number) for number in wanted}
        missing = [wanted[number] for number, states in found.items() if states is None]
        with ThreadPoolExecutor(Settings.from_environment().threads) as pool:
            opened = zip(missing, pool.map(self._open, missing), strict=True)
            pixels = [(one.vector_id, some) for one, some in opened if some is not None]
        for start in range(0, len(pixels), _AT_ONCE):
            some = pixels[start : start + _AT_ONCE]
            for (number, _), states in zip(some, self.read(np.stack([one for _, one in some])), strict=True):
                # What `get` will return, so that a hit scores the same with and without the cache.
                found[number] = self.cache.put(number, states)
        return {number: states for number, states in found.items() if states is not None}

    def _open(self, shown: Shown) -> UInt8 | None:
        """Return the prepared pixels of a picture, of the first copy that is what was indexed; None where none is."""
        for uri in shown.uris:
            try:
                with open_place(uri) as file:
                    if content_hash(file) == shown.content:
                        return self.prepare(decode(file, uri, min_side=self.min_side)[0])
            except (OSError, ImageError):
                continue
        return None
