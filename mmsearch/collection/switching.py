"""A collection moves to another encoder: rows that have gathered take the place of those that serve, in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.catalog.reembedding import live_vectors
from mmsearch.catalog.rows import SegmentRow
from mmsearch.collection.atomic import write_file
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import SEGMENT_ROWS
from mmsearch.collection.incoming import Incoming
from mmsearch.collection.writer import Writer
from mmsearch.types import EncoderSpec, Float16, Int64, Modality
from mmsearch.vectors.store import write_segment


@dataclass(frozen=True, slots=True)
class Switch:
    """What is ready to take the place of all rows: segments whose files are durable, the ids (n,) that they hold, and
    the SHA-256 that pictures have by now of those that have changed."""

    spec: EncoderSpec
    segments: Sequence[SegmentRow]
    ids: Mapping[Modality, Int64]
    changed: Mapping[int, bytes]


def prepare_switch(collection: Collection, incoming: Incoming) -> Switch:
    """Write the rows that have gathered, of vectors that live, as segments; the catalog names them by `make_switch`."""
    segments: list[SegmentRow] = []
    ids: dict[Modality, Int64] = {}
    changed: dict[int, bytes] = {}
    for modality in Modality:
        live, hashes = live_vectors(collection.catalog, modality)
        has_row = np.isin(live, incoming.ids(modality), assume_unique=True)
        ids[modality] = live[has_row]
        if modality is Modality.IMAGE:
            changed = incoming.other_contents(modality, live[has_row], hashes[has_row])
        for some, rows in incoming.parts(modality, ids[modality], SEGMENT_ROWS):
            segments.append(_written(collection, modality, some, rows))
    return Switch(incoming.spec, segments, ids, changed)


def make_switch(collection: Collection, writer: Writer, ready: Switch) -> None:
    """Commit what the writer has changed, and with it the move: then the collection is of the new encoder.

    By then no item may be left whose vector has no new row. Raise CollectionCorrupt where one is, and nothing is done.
    """
    writer.switch_encoder(ready.spec, ready.segments, ids=ready.ids, changed=ready.changed)
    collection.move_to(ready.spec)
    writer.collect_garbage()


def _written(collection: Collection, modality: Modality, ids: Int64, rows: Float16) -> SegmentRow:
    first, end = int(ids[0]), int(ids[-1]) + 1
    is_whole = len(ids) == end - first
    file = collection.layout.new_segment(modality, first)
    written = write_file(
        collection.layout.path(file),
        collection.layout.new_staged(),
        lambda stream: write_segment(stream, [rows], None if is_whole else ids),
    )
    return SegmentRow(modality, first, len(ids), file, written.sha256, written.bytes, end_id=None if is_whole else end)
