"""Few large segments instead of many small ones, and none with rows of deleted items.

The new file is durable before a transaction names it in place of the old ones; readers of these read on.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmsearch.catalog.rows import ModalityState, SegmentRow
from mmsearch.collection.atomic import write_file
from mmsearch.collection.collection import Collection
from mmsearch.collection.snapshot import segment_block
from mmsearch.collection.soundness import file_problem
from mmsearch.collection.writer import Writer
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Int64, Modality
from mmsearch.vectors.store import write_segment

_log = logging.getLogger(__name__)

SEGMENT_ROWS = 262_144
"""Segments are merged up to this many rows: a file of 200 MB at 384 numbers a row."""

MERGE_FROM = 8
"""Neighbours that are merged at once, at least: so a row is written again a few times in its life, not at every run."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was saved: rows of deleted vectors that are gone from the disk, and segment files that are now fewer."""

    rows: int
    files: int


def merge_segments(collection: Collection, writer: Writer) -> int:
    """Merge neighbouring segments where there are enough small ones, and return how many files are now fewer."""
    fewer = 0
    for modality, state in collection.catalog.state(collection.spec).modalities.items():
        for group in _groups(state.segments):
            if len(group) >= MERGE_FROM and not _damage(collection, group):
                fewer += len(group) - len(_rewrite(collection, writer, modality, group, _NOTHING))
    return fewer


def compact(collection: Collection, writer: Writer) -> Compaction:
    """Write the segments anew without the rows of deleted vectors, and the catalog without what was deleted.

    The cache goes as a whole: it is made again as it is needed.

    The ANN index of a modality that has lost rows keeps ids that no longer are; they never come back, and `maintain`
    with `purge` builds it anew. Raise CollectionCorrupt for a segment that is not what the catalog says.
    """
    rows = files = 0
    for modality in Modality:
        writer.seal(modality)
        state = collection.catalog.state(collection.spec).modalities[modality]
        for group in _groups(state.segments):
            dead = _dead_in(state, group)
            if len(dead) or len(group) > 1:
                if damage := _damage(collection, group):
                    raise CollectionCorrupt(f"{damage}: run 'mmsearch repair' before 'mmsearch compact'.")
                files += len(group) - len(_rewrite(collection, writer, modality, group, dead))
                rows += len(dead)
    writer.collect_garbage()
    shutil.rmtree(collection.layout.cache, ignore_errors=True)  # what rerankers kept of pictures that are no more
    collection.catalog.vacuum()
    return Compaction(rows, files)


_NOTHING = np.empty(0, dtype=np.int64)


def _groups(segments: tuple[SegmentRow, ...]) -> Iterator[list[SegmentRow]]:
    """Yield runs of neighbouring segments, in the order of their ids, that would make one file of the full size."""
    group: list[SegmentRow] = []
    for segment in segments:
        if group and sum(one.rows for one in group) + segment.rows > SEGMENT_ROWS:
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _damage(collection: Collection, group: list[SegmentRow]) -> str | None:
    """Return what is wrong with one of the files: it must not be given a hash under which it would pass for whole."""
    for segment in group:
        if problem := file_problem(collection, segment.file, segment.sha256, segment.bytes):
            _log.warning("%s: run 'mmsearch repair'.", problem)
            return problem
    return None


def _dead_in(state: ModalityState, group: list[SegmentRow]) -> Int64:
    return state.dead[(state.dead >= group[0].first_id) & (state.dead < group[-1].end)]


def _rewrite(
    collection: Collection, writer: Writer, modality: Modality, group: list[SegmentRow], dead: Int64
) -> list[SegmentRow]:
    """Replace neighbouring segments by one without dead rows, or by none, and return which."""
    layout = collection.layout
    blocks = [segment_block(layout, segment, collection.spec.dim) for segment in group]
    ids = np.concatenate([block.ids_of(np.arange(len(block.rows))) for block in blocks])
    living = np.setdiff1d(ids, dead, assume_unique=True)
    first, end = group[0].first_id, group[-1].end
    new = []
    if len(living):
        is_whole = len(living) == end - first
        parts = [block.rows[np.isin(block.ids_of(np.arange(len(block.rows))), living)] for block in blocks]
        file = layout.new_segment(modality, first)
        written = write_file(
            layout.path(file),
            layout.new_staged(),
            lambda stream: write_segment(stream, parts, None if is_whole else living),
        )
        new = [
            SegmentRow(
                modality, first, len(living), file, written.sha256, written.bytes, end_id=None if is_whole else end
            )
        ]
    writer.replace_segments(group, new, dead=dead)
    return new
