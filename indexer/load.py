"""Loader: hashes, decodes and prepares pictures in parallel, a bounded number ahead, in order, failures as values."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from indexer.plan import RACY_NS
from indexer.report import Failed
from indexer.stages import Stage, StageTimes
from mmsearch.catalog.rows import NewItem
from mmsearch.corpora.places import open_place, split_place
from mmsearch.decoding.decoder import PictureDecoder, make_decoder
from mmsearch.errors import ImageError, ImageTooLarge
from mmsearch.images import MAX_PIXELS, ImageInfo, content_hash, probe
from mmsearch.types import Encoder, Modality, SourceEntry, UInt8

LOOK_AHEAD = 64
"""Pictures read ahead at least; twice what the encoder takes at a time where that is more."""

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A picture that can be stored; `pixels` (3, S, S) is None when a vector of its content is there already."""

    entry: SourceEntry
    item: NewItem
    pixels: UInt8 | None


class Loader:
    """A pool of threads, each with a process that decodes for it, so that a hostile file ends nothing else."""

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
        min_side = encoder.min_side
        if min_side is None and fast_decode:
            min_side = 2 * encoder.spec.image_size
        self._times = times
        self._encoder = encoder
        self._has_content = has_content
        self._decoders: queue.LifoQueue[PictureDecoder] = queue.LifoQueue()
        for _ in range(threads):
            self._decoders.put(make_decoder(encoder, max_pixels=max_pixels, min_side=min_side))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mmsearch-load")
        self._window: deque[Future[Loaded | Failed]] = deque()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        while not self._decoders.empty():
            self._decoders.get().close()

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
            digest, pixels, info = self._read(entry.uri, decode_always)
        except ImageTooLarge as error:  # cheap to tell, and another run may have another limit
            return Failed(entry.key, str(error), keep_item=False)
        except ImageError as error:
            if entry.mtime_ns > scanned_ns - RACY_NS:  # it may still be being written
                return Failed(entry.key, str(error), keep_item=False)
            return Failed(entry.key, str(error), entry.size, entry.mtime_ns, keep_item=False)
        except MemoryError:
            return Failed(entry.key, "there is not enough memory to decode it")
        except OSError as error:
            return Failed(entry.key, f"it cannot be read: {error.strerror or error}")
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

    def _read(self, place: str, decode_always: bool) -> tuple[bytes, UInt8 | None, ImageInfo]:
        """Return the hash of a picture, its pixels unless its content has a vector, and what is known of it."""
        for _ in range(_TRIES):
            with open_place(place) as file:
                before = _stamp(place)
                with self._times.timed(Stage.READ):
                    digest = content_hash(file)
                if not decode_always and self._has_content(digest):
                    return digest, None, probe(file, place)
            decoder = self._decoders.get()
            try:
                made = decoder.decode(place)
            finally:
                self._decoders.put(decoder)
            self._times.count(Stage.DECODE, made.decoding)
            self._times.count(Stage.PREPARE, made.preparing)
            if _stamp(place) == before:
                return digest, made.pixels, made.info
        raise OSError(11, "it changes while it is being read", place)


def _stamp(place: str) -> tuple[int, int, int]:
    """Return what changes when a file is written to or replaced."""
    found = Path(split_place(place)[0]).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
