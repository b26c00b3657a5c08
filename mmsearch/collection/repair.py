"""Repair: what can be made again is made again; what cannot is let go and named, to be indexed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.checks import wrong_texts
from mmsearch.catalog.rows import SegmentRow
from mmsearch.collection.collection import Collection, locked
from mmsearch.collection.layout import Layout
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.collection.manifest import write_manifest
from mmsearch.collection.snapshot import segment_block
from mmsearch.collection.soundness import bad_rows, file_damage
from mmsearch.collection.writer import Writer
from mmsearch.errors import CollectionCorrupt, CollectionNotFound
from mmsearch.types import Encoder, EncoderSpec, Int64, Modality
from mmsearch.vectors.store import Block


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was done, a sentence each, the keys of the items that must be indexed again, and what is still wrong."""

    done: tuple[str, ...]
    lost: tuple[str, ...]
    left: tuple[str, ...] = ()


def repair_manifest(path: Path, spec: EncoderSpec) -> bool:
    """Write the manifest of a collection anew where it is missing or damaged, and return True if it had to be.

    `spec` is that of the encoder the catalog was made with, needed where that does not tell it itself; raise
    CollectionCorrupt where it is another, or where the catalog is not there either.
    """
    layout = Layout(path)
    try:
        Collection.open(path).close()
    except (CollectionNotFound, CollectionCorrupt):
        if not layout.catalog.is_file():
            raise
    else:
        return False
    catalog = Catalog(layout.catalog)
    bound = catalog.binding()
    catalog.close()
    told = bound.spec or spec
    if bound.uuid is None or bound.fingerprint != told.fingerprint:
        raise CollectionCorrupt(
            f"{layout.manifest} cannot be made again for {spec.uri}, whose vectors the catalog does not hold: name the"
            " collection's own encoder with --encoder."
        )
    with locked(layout):
        write_manifest(layout, bound.uuid, told, replace=True)
    return True


def repair(collection: Collection, writer: Writer, encoder: Callable[[], Encoder] | None = None) -> Repairs:
    """Let go of vectors whose rows are damaged or missing, with their items, and build damaged indexes anew.

    The items are in `Repairs.lost`: the next run of the indexer finds their files new. Raise CollectionCorrupt when
    SQLite's own check finds damage that building its indexes anew does not mend, and OSError for a file that cannot be
    read now, before anything is let go.
    """
    done: list[str] = []
    lost: list[str] = []
    parts = collection.catalog.state(collection.spec).modalities
    damaged = {modality: _damaged(collection, part.segments) for modality, part in parts.items()}
    if problems := collection.catalog.integrity_problems():
        collection.catalog.reindex()
        if collection.catalog.integrity_problems():
            raise CollectionCorrupt(
                f"The catalog {collection.layout.catalog} is damaged ({problems[0]}): restore it from a backup or from"
                " an export, or index again into a new collection."
            )
        done.append("built the indexes of the catalog anew")
    if wrong := wrong_texts(collection.catalog):
        lost += writer.lose_items(wrong)
        done.append(f"let go of {len(wrong):,} captions that are not the texts that were embedded")
    for modality in Modality:
        if unused := writer.retire_unused(modality):
            done.append(f"let go of {unused:,} {modality} vectors that served no item")
        writer.commit()
        state = collection.catalog.state(collection.spec).modalities[modality]
        for segment, bad in damaged[modality]:
            lost += writer.lose_vectors(modality, segment.first_id, segment.end)
            writer.commit()
            writer.replace_segments([segment], [], dead=bad)
            done.append(f"let go of the {modality} vectors in {segment.file}")
        unsealed = np.setdiff1d(_bad_ids(Block(state.unsealed_first, state.unsealed)), state.dead)
        for vector_id in unsealed.tolist():
            lost += writer.lose_vectors(modality, vector_id, vector_id + 1)
            done.append(f"let go of the {modality} vector {vector_id}, which is damaged in the catalog")
        writer.commit()
    for modality, part in collection.catalog.state(collection.spec).modalities.items():
        if part.ann is not None and file_damage(collection, part.ann.file, part.ann.sha256, part.ann.bytes):
            writer.set_ann(modality, None)
            done.append(f"dropped the damaged index of the {modality} vectors")
    writer.commit()
    done += [f"built the index of the {modality} vectors" for modality in maintain(collection, writer, encoder=encoder)]
    return Repairs(tuple(done), tuple(sorted(lost)), verify(collection).problems)


def _damaged(collection: Collection, segments: tuple[SegmentRow, ...]) -> list[tuple[SegmentRow, Int64]]:
    """Return the segments that are not what the catalog says, each with its ids (n,): no row of them can be trusted.

    A file of the right shape with another hash has lost some rows and not others, and none of them can tell. Raise
    OSError for a file that cannot be read now: it may be whole.
    """
    found = []
    for segment in segments:
        problem = file_damage(collection, segment.file, segment.sha256, segment.bytes)
        if problem or len(_bad_ids(segment_block(collection.layout, segment, collection.spec.dim))):
            found.append((segment, np.arange(segment.first_id, segment.end, dtype=np.int64)))
    return found


def _bad_ids(block: Block) -> Int64:
    return np.concatenate([np.empty(0, dtype=np.int64), *(ids for ids, _ in bad_rows(block))])
