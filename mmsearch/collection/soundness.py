"""Whether files and rows are what the catalog says they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmsearch.collection.atomic import file_sha256
from mmsearch.collection.collection import Collection
from mmsearch.collection.writer import UNIT_TOLERANCE
from mmsearch.types import Int64, Modality
from mmsearch.vectors.store import Block, widen

_ROWS = 65_536


def file_damage(collection: Collection, file: str, sha256: str, size: int) -> str | None:
    """Return what is wrong with a file that should have this hash and size in bytes, None when nothing is.

    Raise OSError when that cannot be told now: permissions, a disk that fails.
    """
    path = collection.layout.path(file)
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return f"{file} is missing"
    if found != size:
        return f"{file} has {found} bytes instead of {size}"
    return None if file_sha256(path) == sha256 else f"{file} does not have the SHA-256 that the catalog names"


def file_problem(collection: Collection, file: str, sha256: str, size: int) -> str | None:
    """Return what is wrong with a file, also when it cannot be read; see `file_damage`."""
    try:
        return file_damage(collection, file, sha256, size)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"


def bad_rows(block: Block) -> Iterator[tuple[Int64, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    """Yield (ids, lengths) of the rows of a block that are not of unit length, a part of the block at a time."""
    for start in range(0, len(block.rows), _ROWS):
        part = widen(block.rows[start : start + _ROWS])
        lengths = np.sqrt((part * part).sum(axis=1))
        bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))
        if len(bad):
            yield block.ids_of(start + bad), lengths[bad]


def row_problems(modality: Modality, block: Block) -> Iterator[str]:
    """Yield what is wrong with the rows of a block, a sentence each for a few."""
    for ids, lengths in bad_rows(block):
        for vector, length in zip(ids[:5].tolist(), lengths[:5].tolist(), strict=True):
            yield f"{modality} vector {vector} has length {length:.4f} instead of 1"
        if len(ids) > 5:
            yield f"{len(ids) - 5} more {modality} vectors after that one are not of unit length"
