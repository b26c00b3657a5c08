"""VectorStore: the stored float16 rows of one modality, by vector id, wherever they lie.

Sealed rows are memory-mapped `.npy` segments, unsealed ones an array in memory; each is a block of consecutive ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Float16, Float32, Int64

_EXPONENT = np.float32(2.0**112)  # the exponent's bias is 127 in float32 and 15 in float16


@dataclass(frozen=True, slots=True)
class Block:
    """Rows (n, dim) of the vectors `first_id`, `first_id + 1`, …"""

    first_id: int
    rows: Float16

    @property
    def end_id(self) -> int:
        """One past the last id."""
        return self.first_id + len(self.rows)


class VectorStore:
    """Blocks in the order of their ids, which never overlap."""

    def __init__(self, dim: int, blocks: Sequence[Block]) -> None:
        """Take the blocks over; those without rows are dropped."""
        self.dim = dim
        self.blocks = tuple(sorted((b for b in blocks if len(b.rows)), key=lambda b: b.first_id))
        for before, after in zip(self.blocks, self.blocks[1:], strict=False):
            if before.end_id > after.first_id:
                raise ValueError(f"blocks overlap: {before.end_id} > {after.first_id}")
        self._starts = np.array([b.first_id for b in self.blocks], dtype=np.int64)
        self._ends = np.array([b.end_id for b in self.blocks], dtype=np.int64)

    def __len__(self) -> int:
        return int((self._ends - self._starts).sum())

    @property
    def end_id(self) -> int:
        """One past the highest id, 0 when empty: the length of a mask over all ids."""
        return self.blocks[-1].end_id if self.blocks else 0

    def ids(self) -> Int64:
        """Return all ids (n,), ascending."""
        ranges = [np.arange(b.first_id, b.end_id, dtype=np.int64) for b in self.blocks]
        return np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int64)

    def take(self, ids: Int64) -> Float16:
        """Return the rows (n, dim) of ids (n,); ascending ones read the disk in order. Raise KeyError if unknown."""
        rows = np.empty((len(ids), self.dim), dtype=np.float16)
        if not len(ids):
            return rows
        which = np.searchsorted(self._starts, ids, side="right") - 1
        if which.min() < 0 or (ids >= self._ends[which]).any():
            raise KeyError("no vector has one of these ids")
        for block in np.flatnonzero(np.bincount(which)):
            here = np.flatnonzero(which == block)
            # `take` is ten times faster than indexing a mapped array; the ids are known to be inside.
            rows[here] = np.take(self.blocks[block].rows, ids[here] - self._starts[block], axis=0, mode="clip")
        return rows


def widen(rows: Float16) -> Float32:
    """Return finite float16 numbers as float32, of the same shape, each exactly.

    NumPy's own conversion goes number by number; shifting the bits and mending the exponent by a product, which is
    exact for subnormal numbers too, is five times faster (F. Giesen, "Half to float done quick").
    """
    bits = np.ascontiguousarray(rows).view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= ~0x70000000  # copies of the sign, from widening
    wide: Float32 = bits.view(np.float32)
    wide *= _EXPONENT
    return wide


def write_segment(file: BinaryIO, parts: Sequence[Float16]) -> None:
    """Write the rows of parts (n, dim), one after the other, as one .npy file."""
    header = np.lib.format.header_data_from_array_1_0(parts[0])
    shape = (sum(len(part) for part in parts), parts[0].shape[1])
    np.lib.format.write_array_header_1_0(file, {**header, "fortran_order": False, "shape": shape})
    for part in parts:
        file.write(np.ascontiguousarray(part).data)


def open_segment(path: Path, rows: int, dim: int) -> Float16:
    """Return the mapped rows (rows, dim) of a segment; raise CollectionCorrupt unless it is what the catalog says."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise CollectionCorrupt(
            f"The vector file {path} cannot be read ({error}): restore it from a backup."
        ) from error
    if array.shape != (rows, dim) or array.dtype != np.float16:
        raise CollectionCorrupt(
            f"The vector file {path} holds {array.dtype} {array.shape} instead of float16 {(rows, dim)}: restore it"
            " from a backup."
        )
    segment: Float16 = np.asarray(array)  # a memmap is slower to index by ten microseconds
    return segment
