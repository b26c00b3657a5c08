"""What the catalog takes and gives: plain values, never database rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmsearch.types import Float16, Int64, Item, Modality, PictureMetadata


@dataclass(frozen=True, slots=True)
class NewItem:
    """A picture or caption to be stored. `scanned_ns` is when its file was looked at, `content_hash` a SHA-256."""

    key: str
    modality: Modality
    uri: str
    group: str
    content_hash: bytes
    size: int
    mtime_ns: int
    scanned_ns: int
    text: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    metadata: PictureMetadata | None = None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with all that is stored of it, and the ids of its vector and of its root."""

    item: NewItem
    vector_id: int
    root_id: int


@dataclass(frozen=True, slots=True)
class KnownItem:
    """What a scan compares with: an item's key and the stamps of its file."""

    id: int
    key: str
    modality: Modality
    root_id: int
    group: str
    size: int
    mtime_ns: int
    scanned_ns: int
    vector_id: int
    content_hash: bytes
    short_side: int | None = None


HASH_BYTES = 32
"""Of the SHA-256 of a content."""

LEFT_OUT = "left out: "
"""How the reason of a file begins that was left out on purpose and is no failure."""


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """A file that could not be read or was left out, as it was then."""

    key: str
    size: int
    mtime_ns: int
    reason: str

    @property
    def is_left_out(self) -> bool:
        """True for a file that can be read and is not wanted."""
        return self.reason.startswith(LEFT_OUT)


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item as a list shows it: `bytes` and `mtime_ns` are of its file; degrees only where they were asked for."""

    item: Item
    bytes: int
    mtime_ns: int
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True, slots=True)
class Relocated:
    """How many items and failures now lie elsewhere."""

    items: int
    failures: int


@dataclass(frozen=True, slots=True)
class Root:
    """A source that was indexed: its kind, its absolute path, and how it is read where that needs telling."""

    id: int
    kind: str
    path: str
    options: str = ""


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A sealed segment: rows `first_id` … `first_id + rows − 1` in `file` (relative to the collection).

    A compacted one has an `end_id`: it holds `rows` of the ids `first_id` … `end_id − 1`, and which.
    """

    modality: Modality
    first_id: int
    rows: int
    file: str
    sha256: str
    bytes: int
    end_id: int | None = None

    @property
    def end(self) -> int:
        """One past the last id that it stands for."""
        return self.first_id + self.rows if self.end_id is None else self.end_id


@dataclass(frozen=True, slots=True)
class AnnRow:
    """An ANN index file: it holds the live ids below `covered`. `built_at` is in seconds since 1970.

    `recall_at_10` was measured on stored vectors, `recall_across` on queries of the other modality (`across` tells
    which; None where there were none); nprobe and candidates were raised until both reached `target`.
    """

    modality: Modality
    file: str
    sha256: str
    bytes: int
    covered: int
    vectors: int
    factory: str
    nlist: int
    nprobe: int
    recall_at_10: float
    reason: str
    built_at: float
    recall_across: float | None = None
    across: str = ""
    candidates: int = 100
    target: float = 0.95


@dataclass(frozen=True, slots=True)
class ModalityState:
    """The vectors of one modality at a commit: sealed segments, unsealed rows (n, dim) from an id on, dead ids (n,)."""

    modality: Modality
    next_id: int
    segments: tuple[SegmentRow, ...]
    unsealed_first: int
    unsealed: Float16
    dead: Int64
    ann: AnnRow | None

    @property
    def stored(self) -> int:
        """The number of rows that lie somewhere, dead ones among them; fewer than ids were given out once compacted."""
        return sum(segment.rows for segment in self.segments) + len(self.unsealed)

    @property
    def live(self) -> int:
        """The number of live vectors."""
        return self.stored - len(self.dead)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """Everything a reader needs to search, from one read transaction; `token` changes with every change of it."""

    token: tuple[int, int]
    modalities: dict[Modality, ModalityState]

    @property
    def commit(self) -> int:
        """The number of the last commit, 0 before the first."""
        return self.token[0]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a catalog holds. `last_commit_at` is in seconds since 1970."""

    items: dict[Modality, int] = field(default_factory=dict)
    failures: int = 0
    commits: int = 0
    last_commit_at: float | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """How many items one commit added, changed, moved and deleted."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0


def rows_from_bytes(blobs: list[bytes], dim: int) -> Float16:
    """Return stored rows (n, dim); raise ValueError when one has another length."""
    if any(len(blob) != 2 * dim for blob in blobs):
        raise ValueError(f"an unsealed vector does not have {dim} numbers")
    return np.frombuffer(b"".join(blobs), dtype="<f2").reshape(len(blobs), dim)
