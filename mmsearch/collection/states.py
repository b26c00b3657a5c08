"""StateCache: what a reranker keeps of pictures, on the disk, so that a second query over them opens no picture.

One file a vector, eight bits a number with a scale for each patch: 16 kB for 81 patches of 192 numbers. With `half`
they are vectors, of sixteen bits a number. The oldest go when the folder grows over its limit; anybody may delete it at
any time.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.collection.atomic import make_folder
from mmsearch.types import Float32

LIMIT_BYTES = 1_000_000_000
_DROPPED = 0.1
"""The share of the files that goes at a time."""

_log = logging.getLogger(__name__)


class StateCache:
    """The states of pictures by the id of their vector. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, *, limit: int = LIMIT_BYTES, half: bool = False) -> None:
        """Keep them in `folder`, which is made with the first; `limit` is in bytes."""
        self._folder, self._limit, self._half = folder, limit, half
        self._held: int | None = None
        self._writable = True

    def get(self, vector_id: int) -> Float32 | None:
        """Return states (patches, width), or a vector (dim,); None where there are none, or a damaged file is."""
        path = self._path(vector_id)
        try:
            packed = np.load(path, allow_pickle=False)
            states: Float32 = packed.astype(np.float32) if self._half else unpack(packed)
        except (OSError, ValueError, TypeError, EOFError, IndexError):
            return None
        return states if states.ndim == (1 if self._half else 2) and np.isfinite(states).all() else None

    def put(self, vector_id: int, states: Float32) -> Float32:
        """Keep states (patches, width), or a vector (dim,), and return what `get` will.

        What cannot be written is not kept: no query fails for that.
        """
        packed: NDArray[Any] = states.astype(np.float16) if self._half else pack(states)
        self._write(vector_id, packed)
        kept: Float32 = packed.astype(np.float32) if self._half else unpack(packed)
        return kept

    def _write(self, vector_id: int, packed: NDArray[Any]) -> None:
        if not self._writable:
            return
        path = self._path(vector_id)
        temporary = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            make_folder(self._folder)
            if self._held is None:
                self._held = sum(entry.stat().st_size for entry in self._entries())
            # Not fsynced as all else in a collection is: what a power cut leaves here is read as nothing at all.
            with temporary.open("xb") as file:
                np.save(file, packed)
                size = file.tell()
            temporary.replace(path)
            self._held += size
            if self._held > self._limit:
                self._drop()
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            _log.info("What was seen of pictures is not kept: %s", error)
            self._writable = False

    def _path(self, vector_id: int) -> Path:
        return self._folder / f"{vector_id:012d}.npy"

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".npy"):
                    yield entry

    def _drop(self) -> None:
        """Delete the files that were written first."""
        found = []
        for entry in self._entries():
            try:
                found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
            except OSError:  # another process dropped it
                continue
        self._held = sum(size for _, size, _ in found)
        wanted = self._held - int((1.0 - _DROPPED) * self._limit)
        for _, size, path in sorted(found):
            if wanted <= 0:
                break
            Path(path).unlink(missing_ok=True)
            self._held -= size
            wanted -= size


def pack(states: Float32) -> NDArray[np.void]:
    """Return states (patches, width) as records (patches,) of a float32 scale and int8 values (width,)."""
    packed = np.empty(len(states), dtype=[("scale", "<f4"), ("values", "i1", (states.shape[1],))])
    scales = np.abs(states).max(axis=1) / np.float32(127)
    packed["scale"] = scales
    packed["values"] = np.rint(states / np.maximum(scales, np.float32(1e-12))[:, np.newaxis])
    return packed


def unpack(packed: NDArray[np.void]) -> Float32:
    """Return states (patches, width) of what `pack` made of them; off by 1/254 of a patch's largest number at most."""
    states: Float32 = packed["values"].astype(np.float32) * packed["scale"][:, np.newaxis]
    return states
