"""Few large segments instead of many small ones: a reader opens and touches one file where there were dozens."""

from __future__ import annotations

from collections.abc import Iterator

from mmsearch.catalog.rows import SegmentRow
from mmsearch.collection.atomic import write_file
from mmsearch.collection.collection import Collection
from mmsearch.collection.writer import Writer
from mmsearch.types import Modality
from mmsearch.vectors.store import open_segment, write_segment

SEGMENT_ROWS = 262_144
"""Segments are merged up to this many rows: a file of 200 MB at 384 numbers a row."""

MERGE_FROM = 8
"""Neighbours that are merged at once, at least: so a row is written again a few times in its life, not at every run."""


def merge_segments(collection: Collection, writer: Writer) -> int:
    """Merge neighbouring segments where there are enough small ones, and return how many files are now fewer.

    The new file is durable before a transaction names it in place of the old ones; readers of these read on.
    """
    fewer = 0
    for modality, state in collection.catalog.state(collection.spec.dim).modalities.items():
        for group in mergeable(state.segments):
            writer.replace_segments(group, _merged(collection, modality, group))
            fewer += len(group) - 1
    return fewer


def mergeable(segments: tuple[SegmentRow, ...]) -> Iterator[list[SegmentRow]]:
    """Yield runs of neighbouring segments, in the order of their ids, that are worth merging."""
    group: list[SegmentRow] = []
    for segment in segments:
        if sum(one.rows for one in group) + segment.rows > SEGMENT_ROWS:
            if len(group) >= MERGE_FROM:
                yield group
            group = []
        group.append(segment)
    if len(group) >= MERGE_FROM:
        yield group


def _merged(collection: Collection, modality: Modality, group: list[SegmentRow]) -> SegmentRow:
    layout, dim = collection.layout, collection.spec.dim
    first, rows = group[0].first_id, sum(segment.rows for segment in group)
    parts = [open_segment(layout.path(segment.file), segment.rows, dim) for segment in group]
    file = layout.new_segment(modality, first)
    written = write_file(layout.path(file), layout.new_staged(), lambda stream: write_segment(stream, parts))
    return SegmentRow(modality, first, rows, file, written.sha256, written.bytes)
