"""Loader: hashes, decodes and prepares pictures in parallel, a bounded number ahead, in order, failures as values."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from indexer.plan import RACY_NS
from indexer.report import Failed
from indexer.stages import Stage, StageTimes
from mmsearch.catalog.rows import NewItem
from mmsearch.corpora.places import open_place
from mmsearch.errors import ImageError, ImageTooLarge
from mmsearch.images import MAX_PIXELS, content_hash, decode, probe
from mmsearch.types import Encoder, Modality, SourceEntry, UInt8

LOOK_AHEAD = 64
"""Pictures read ahead at least; twice what the encoder takes at a time where that is more."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A picture that can be stored; `pixels` (3, S, S) is None when a vector of its content is there already."""

    entry: SourceEntry
    item: NewItem
    pixels: UInt8 | None


class Loader:
    """A pool of decoding threads. Pillow leaves the interpreter lock while it decodes, so threads are enough."""

    def __init__(
        self,
        encoder: Encoder,
        has_content: Callable[[bytes], bool],
        *,
        threads: int,
        times: StageTimes,
        max_pixels: int = MAX_PIXELS,
        fast_decode: bool = False,
    ) -> None:
        """`has_content` tells, from any thread, whether a picture with that SHA-256 has a vector already.

        `fast_decode` decodes large JPEGs at a reduced scale, down to twice the input, where the encoder would not.
        """
        self._min_side = encoder.min_side
        if self._min_side is None and fast_decode:
            self._min_side = 2 * encoder.spec.image_size
        self._times = times
        self._encoder = encoder
        self._has_content = has_content
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mmsearch-load")
        self._window: deque[Future[Loaded | Failed]] = deque()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, entry: SourceEntry, *, decode_always: bool = False) -> None:
        """Begin to load a picture; with `decode_always`, also one whose content has a vector."""
        self._window.append(self._pool.submit(self._load, entry, decode_always))

    def ready(self) -> Iterator[Loaded | Failed]:
        """Yield, in the order of submission, what must be taken before more may be submitted or is done anyway."""
        ahead = max(LOOK_AHEAD, 2 * self._encoder.image_batch)
        while self._window and (len(self._window) >= ahead or self._window[0].done()):
            yield self._window.popleft().result()

    def rest(self) -> Iterator[Loaded | Failed]:
        """Yield all that was submitted and not yet taken, in order."""
        while self._window:
            yield self._window.popleft().result()

    def _load(self, entry: SourceEntry, decode_always: bool) -> Loaded | Failed:
        scanned_ns = time.time_ns()
        try:
            with open_place(entry.uri) as file:
                with self._times.timed(Stage.READ):
                    digest = content_hash(file)
                if not decode_always and self._has_content(digest):
                    pixels, info = None, probe(file, entry.uri)
                else:
                    with self._times.timed(Stage.DECODE):
                        image, info = decode(file, entry.uri, max_pixels=self._max_pixels, min_side=self._min_side)
                    with self._times.timed(Stage.PREPARE):
                        pixels = self._encoder.prepare_image(image)
        except ImageTooLarge as error:  # cheap to tell, and another run may have another limit
            return Failed(entry.key, str(error), keep_item=False)
        except ImageError as error:
            if entry.mtime_ns > scanned_ns - RACY_NS:  # it may still be being written
                return Failed(entry.key, str(error), keep_item=False)
            return Failed(entry.key, str(error), entry.size, entry.mtime_ns, keep_item=False)
        except MemoryError:
            return Failed(entry.key, "there is not enough memory to decode it")
        except OSError as error:
            return Failed(entry.key, f"it cannot be read: {error.strerror}")
        item = NewItem(
            key=entry.key,
            modality=Modality.IMAGE,
            uri=entry.uri,
            group=entry.group,
            content_hash=digest,
            size=entry.size,
            mtime_ns=entry.mtime_ns,
            scanned_ns=scanned_ns,
            width=info.width,
            height=info.height,
            format=info.format,
            metadata=info.metadata,
        )
        return Loaded(entry, item, pixels)
