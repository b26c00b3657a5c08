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
from mmsearch.types import Float16, Int64


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
        if (which < 0).any() or (ids >= self._ends[which]).any():
            raise KeyError("no vector has one of these ids")
        for block in np.unique(which):
            here = which == block
            rows[here] = self.blocks[block].rows[ids[here] - self._starts[block]]
        return rows


def write_segment(file: BinaryIO, rows: Float16) -> None:
    """Write rows (n, dim) as an .npy file."""
    np.lib.format.write_array(file, np.ascontiguousarray(rows), allow_pickle=False)


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
    segment: Float16 = array
    return segment
