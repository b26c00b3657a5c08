"""What an indexing run tells: while it runs (`Progress`) and when it is done (`IndexReport`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from indexer.stages import StageReport
from mmsearch.types import Modality


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be used, and why.

    `size` and `mtime_ns` are what it was seen as, to try it again only when they change; −1 tries it again each time.
    With `keep_item` the reason may pass (a disk that fails), and what is known of the file stays.
    """

    key: str
    reason: str
    size: int = -1
    mtime_ns: int = -1
    keep_item: bool = True


@dataclass(slots=True)
class IndexReport:
    """What a run did, in items. Filled while it runs; `seconds` and `commit` at its end.

    `kept` were there and unchanged, `skipped` could not be read before and have not changed, `left_out` are too
    small, `failed` could not be read now, `held_back` would have been deleted but were too many to do so unasked;
    `embedded` counts vectors computed.
    `missing_sources` were indexed before and are not there now, `unreadable_sources` are folders (or lie in folders)
    that could not be listed; nothing of them was deleted. `indexed` are the modalities whose search index was built.
    `stages` tells which part of the work took the time.
    """

    collection: str
    added: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    kept: int = 0
    skipped: int = 0
    left_out: int = 0
    held_back: int = 0
    missing_sources: list[str] = field(default_factory=list)
    unreadable_sources: list[str] = field(default_factory=list)
    embedded: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(Modality, 0))
    failed: list[Failed] = field(default_factory=list)
    indexed: list[Modality] = field(default_factory=list)
    stages: tuple[StageReport, ...] = ()
    interrupted: bool = False
    dry_run: bool = False
    seconds: float = 0.0
    commit: int = 0


@dataclass(slots=True)
class ReembedReport:
    """What a move from one encoder (`before`) to another (`encoder`, both URIs) did. Filled while it runs.

    `embedded` counts vectors computed (in a dry run: those that would be), `taken_over` those that an earlier run had.
    `switched` tells whether the collection is of the new encoder now, and was not before. What stands in the way may be
    `away`: how many pictures of which sources (by path) cannot be read now; and `held_back`: how many are gone, but are
    too many to be deleted unasked. `failed` could not be read; `deleted` items went with the switch. `indexed` and
    `stages` are those of `IndexReport`.
    """

    collection: str
    before: str
    encoder: str
    embedded: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(Modality, 0))
    taken_over: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(Modality, 0))
    switched: bool = False
    away: dict[str, int] = field(default_factory=dict)
    held_back: int = 0
    deleted: int = 0
    failed: list[Failed] = field(default_factory=list)
    indexed: list[Modality] = field(default_factory=list)
    stages: tuple[StageReport, ...] = ()
    interrupted: bool = False
    dry_run: bool = False
    seconds: float = 0.0
    commit: int = 0


class Progress:
    """Told how a run gets on; this one listens to nothing. Every method is called from the thread that runs `index`."""

    def found(self, entries: int, *, complete: bool) -> None:
        """`entries` pictures and captions have been found so far; `complete` when the scan has come to its end."""

    def done(self, entries: int) -> None:
        """`entries` of those found are dealt with: embedded, kept, skipped or failed."""

    def embedded(self, keys: Sequence[str], modality: Modality) -> None:
        """The vectors of these items were computed."""

    def committed(self, items: int) -> None:
        """A commit has made so many items durable."""

    def building(self) -> None:
        """The vectors are stored; indexes are now looked after."""
