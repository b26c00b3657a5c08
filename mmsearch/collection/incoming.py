"""Incoming: rows of another encoder, which gather beside those that serve until there are all of them.

They outlive a run that is killed, and whoever goes on finds what is whole of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsearch.catalog.rows import HASH_BYTES
from mmsearch.collection.atomic import write_bytes
from mmsearch.collection.layout import Layout
from mmsearch.types import EncoderSpec, Float16, Int64, Modality, UInt8
from mmsearch.vectors.store import open_segment, write_segment


@dataclass(frozen=True, slots=True)
class NewRow:
    """A vector by its id, the SHA-256 of what it was made of, and its row (dim,)."""

    vector_id: int
    content_hash: bytes
    row: Float16


@dataclass(frozen=True, slots=True)
class _File:
    """The ids (n,) of the rows in a file, and the hashes (n, 32) of what they are of."""

    path: Path
    ids: Int64
    hashes: UInt8


class Incoming:
    """The rows of one encoder that have gathered so far."""

    def __init__(self, layout: Layout, spec: EncoderSpec) -> None:
        """Find what there is; a file that is not what its name says counts for nothing. Nothing is written yet."""
        self.spec = spec
        self._layout = layout
        self._files: dict[Modality, list[_File]] = {
            modality: [
                found
                for path in layout.incoming_files(spec.fingerprint, modality)
                if (found := _read(path, spec.dim)) is not None
            ]
            for modality in Modality
        }

    def add(self, modality: Modality, rows: Sequence[NewRow]) -> None:
        """Write some rows, durably, as one file."""
        ids = np.array([one.vector_id for one in rows], dtype=np.int64)
        hashes = np.frombuffer(b"".join(one.content_hash for one in rows), dtype=np.uint8).reshape(-1, HASH_BYTES)
        buffer = io.BytesIO()
        write_segment(buffer, [np.stack([one.row for one in rows])], ids)
        np.lib.format.write_array(buffer, hashes, allow_pickle=False)
        data = buffer.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._layout.new_incoming(self.spec.fingerprint, modality, int(ids[0]), sha256)
        write_bytes(path, self._layout.new_staged(), data, replace=True)  # it may be there, damaged
        self._files[modality].append(_File(path, ids, hashes))

    def ids(self, modality: Modality) -> Int64:
        """Return the ids (n,) of the vectors that have a row, ascending."""
        return np.unique(_joined(file.ids for file in self._files[modality]))

    def other_contents(self, modality: Modality, ids: Int64, hashes: UInt8) -> dict[int, bytes]:
        """Return, of the vectors `ids` (n,), those whose row is not of what `hashes` (n, 32) say: and of what it is."""
        which = self._places(modality, ids)
        mine = np.concatenate([np.empty((0, HASH_BYTES), np.uint8), *(file.hashes for file in self._files[modality])])
        differs = np.flatnonzero((mine[which] != hashes).any(axis=1))
        return {int(ids[at]): mine[which[at]].tobytes() for at in differs.tolist()}

    def parts(self, modality: Modality, ids: Int64, size: int) -> Iterator[tuple[Int64, Float16]]:
        """Yield the ids and rows of the vectors `ids` (n,), ascending, at most `size` at a time."""
        files = self._files[modality]
        ends = np.cumsum([len(file.ids) for file in files])
        mapped = [open_segment(file.path, len(file.ids), self.spec.dim) for file in files]
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            places = self._places(modality, some)
            of_file = np.searchsorted(ends, places, side="right")
            rows = np.empty((len(some), self.spec.dim), dtype=np.float16)
            for number in np.unique(of_file).tolist():
                here = np.flatnonzero(of_file == number)
                rows[here] = mapped[number][places[here] - (ends[number] - len(files[number].ids))]
            yield some, rows

    def _places(self, modality: Modality, ids: Int64) -> Int64:
        """Return where the rows of ids (n,) are, counted through all files; of several of one id, the last."""
        mine = _joined(file.ids for file in self._files[modality])
        order = np.argsort(mine, kind="stable")
        places: Int64 = order[np.searchsorted(mine[order], ids, side="right") - 1]
        return places


def clear_incoming(layout: Layout, fingerprints: Iterable[str]) -> None:
    """Remove rows of other encoders that nobody will wait for; what is not ours stays."""
    for fingerprint in fingerprints:
        for modality in Modality:
            for path in layout.incoming_files(fingerprint, modality):
                path.unlink(missing_ok=True)
        for folder in layout.incoming_folders(fingerprint):
            if not any(folder.iterdir()):
                folder.rmdir()


def _read(path: Path, dim: int) -> _File | None:
    """Return what a file holds, None when it was damaged or is of other rows, or has gone."""
    try:
        data = path.read_bytes()
        if not path.stem.endswith(hashlib.sha256(data).hexdigest()[:32]):
            return None
        stream = io.BytesIO(data)
        rows, ids, hashes = (np.lib.format.read_array(stream, allow_pickle=False) for _ in range(3))
    except (FileNotFoundError, ValueError):
        return None
    is_sound = rows.shape == (len(ids), dim) and hashes.shape == (len(ids), HASH_BYTES)
    return _File(path, ids, hashes) if is_sound else None


def _joined(parts: Iterable[Int64]) -> Int64:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
