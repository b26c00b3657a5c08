"""VectorStore: the stored float16 rows of one modality, by vector id, wherever they lie.

Sealed rows are memory-mapped `.npy` segments, unsealed ones an array in memory; each is a block of consecutive ids.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Float16, Float32, Int64, Mask

_NO_HEADER = (ValueError, SyntaxError, TokenError)
"""What NumPy raises for the header of an array that is none: it is read as a Python literal."""

_FEW = 0.01  # a greater share of a file is read faster with what lies around

_EXPONENT = np.float32(2.0**112)  # the exponent's bias is 127 in float32 and 15 in float16


@dataclass(frozen=True, slots=True)
class Block:
    """Rows (n, dim) of the vectors `first_id`, `first_id + 1`, …; of a compacted one, of `ids` (n,), ascending.

    `scattered` are the same rows, mapped for reading a few here and there.
    """

    first_id: int
    rows: Float16
    ids: Int64 | None = None
    scattered: Float16 | None = None

    @property
    def end_id(self) -> int:
        """One past the last id."""
        if self.ids is not None:
            return int(self.ids[-1]) + 1 if len(self.ids) else self.first_id
        return self.first_id + len(self.rows)

    def ids_of(self, places: Int64) -> Int64:
        """Return the ids of rows by their places in the block."""
        return places + self.first_id if self.ids is None else self.ids[places]

    def allowed(self, mask: Mask) -> Mask:
        """Return the part of a mask by vector id that is about the rows of this block (n,)."""
        return mask[self.first_id : self.end_id] if self.ids is None else mask[self.ids]

    def places_of(self, ids: Int64) -> Int64:
        """Return the places of the rows of ids (n,) between `first_id` and `end_id`; raise KeyError for one unknown."""
        if self.ids is None:
            return ids - self.first_id
        places = np.searchsorted(self.ids, ids)
        if not np.array_equal(self.ids[places], ids):
            raise KeyError("no vector has one of these ids")
        return places

    def rows_for(self, count: int) -> Float16:
        """Return the rows, as mapped for taking so many of them."""
        return self.rows if self.scattered is None or count > _FEW * len(self.rows) else self.scattered

    def part(self, start: int) -> Block:
        """Return the rows of the ids from `start` on."""
        if start <= self.first_id:
            return self
        if self.ids is None:
            return Block(start, self.rows[start - self.first_id :])
        skip = int(np.searchsorted(self.ids, start))
        return Block(start, self.rows[skip:], self.ids[skip:])


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
        return sum(len(block.rows) for block in self.blocks)

    @property
    def end_id(self) -> int:
        """One past the highest id, 0 when empty: the length of a mask over all ids."""
        return self.blocks[-1].end_id if self.blocks else 0

    def ids(self) -> Int64:
        """Return all ids (n,), ascending."""
        ranges = [np.arange(b.first_id, b.end_id, dtype=np.int64) if b.ids is None else b.ids for b in self.blocks]
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
            places = self.blocks[block].places_of(ids[here])
            rows[here] = np.take(self.blocks[block].rows_for(len(places)), places, axis=0, mode="clip")
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


def write_segment(file: BinaryIO, parts: Sequence[Float16], ids: Int64 | None = None) -> None:
    """Write the rows of parts (n, dim), one after the other, as one .npy array; of a compacted one, then the ids."""
    header = np.lib.format.header_data_from_array_1_0(parts[0])
    shape = (sum(len(part) for part in parts), parts[0].shape[1])
    np.lib.format.write_array_header_1_0(file, {**header, "fortran_order": False, "shape": shape})
    for part in parts:
        if len(part):
            file.write(np.ascontiguousarray(part).data)
    if ids is not None:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(ids))
        file.write(ids.data)


def open_segment(path: Path, rows: int, dim: int, *, scattered: bool = False) -> Float16:
    """Return the mapped rows (rows, dim) of a segment; raise CollectionCorrupt unless it is what the catalog says.

    With `scattered` the kernel is told that single rows will be read here and there: it reads their pages alone and not
    the 128 KB around each, which is what makes a search in little memory bearable.
    """
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise
    except (OSError, *_NO_HEADER) as error:
        raise CollectionCorrupt(
            f"The vector file {path} cannot be read ({error}): run 'mmsearch repair', or restore it from a backup."
        ) from error
    if len(mapped) < start + 2 * rows * dim:
        raise CollectionCorrupt(
            f"The vector file {path} is cut off: run 'mmsearch repair', or restore it from a backup."
        )
    if shape != (rows, dim) or dtype != np.float16 or is_fortran:
        raise CollectionCorrupt(
            f"The vector file {path} holds {dtype} {shape} instead of float16 {(rows, dim)}: run 'mmsearch repair', or"
            " restore it from a backup."
        )
    if scattered and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=np.float16, count=rows * dim, offset=start).reshape(rows, dim)


def read_segment_ids(path: Path, rows: int, dim: int) -> Int64:
    """Return the ids (rows,) of a compacted segment, which lie behind its rows; raise CollectionCorrupt."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(2 * rows * dim, 1)
            ids: Int64 = np.lib.format.read_array(file, allow_pickle=False)
    except _NO_HEADER as error:
        raise CollectionCorrupt(f"The vector file {path} does not end with its ids: run 'mmsearch repair'.") from error
    if ids.shape != (rows,) or ids.dtype != np.int64:
        raise CollectionCorrupt(f"The vector file {path} does not end with its ids: run 'mmsearch repair'.")
    return ids
