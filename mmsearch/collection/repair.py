"""Repair: what can be made again is made again; what cannot is let go and named, to be indexed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.rows import SegmentRow
from mmsearch.collection.collection import Collection
from mmsearch.collection.layout import Layout
from mmsearch.collection.maintenance import file_problem, maintain, row_problems
from mmsearch.collection.manifest import write_manifest
from mmsearch.collection.snapshot import segment_block
from mmsearch.collection.writer import Writer
from mmsearch.errors import CollectionCorrupt, CollectionNotFound
from mmsearch.types import Encoder, EncoderSpec, Int64, Modality


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was done, a sentence each, and the keys of the items that must be indexed again."""

    done: tuple[str, ...]
    lost: tuple[str, ...]


def repair_manifest(path: Path, spec: EncoderSpec) -> bool:
    """Write the manifest of a collection anew where it is missing or damaged, and return True if it had to be.

    `spec` is that of the encoder the catalog was made with; raise CollectionCorrupt where it is another, or where the
    catalog is not there either.
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
    identity, bound = catalog.fact("uuid"), catalog.fact("fingerprint")
    catalog.close()
    if identity is None or bound != spec.fingerprint:
        raise CollectionCorrupt(
            f"{layout.manifest} cannot be made again for {spec.uri}, whose vectors the catalog does not hold: name the"
            " collection's own encoder with --encoder."
        )
    write_manifest(layout, identity, spec, replace=True)
    return True


def repair(collection: Collection, writer: Writer, encoder: Callable[[], Encoder] | None = None) -> Repairs:
    """Let go of vectors whose rows are damaged or missing, with their items, and build damaged indexes anew.

    The items are in `Repairs.lost`: the next run of the indexer finds their files new. Raise CollectionCorrupt when
    SQLite's own check finds damage that building its indexes anew does not mend.
    """
    done: list[str] = []
    lost: list[str] = []
    if problems := collection.catalog.integrity_problems():
        collection.catalog.reindex()
        if collection.catalog.integrity_problems():
            raise CollectionCorrupt(
                f"The catalog {collection.layout.catalog} is damaged ({problems[0]}): restore it from a backup or from"
                " an export, or index again into a new collection."
            )
        done.append("built the indexes of the catalog anew")
    for modality in Modality:
        state = collection.catalog.state(collection.spec.dim).modalities[modality]
        for segment in state.segments:
            bad = _damaged_ids(collection, segment)
            if bad is None:
                continue
            lost += writer.lose_vectors(modality, segment.first_id, segment.end)
            writer.commit()
            writer.replace_segments([segment], [], dead=bad)
            done.append(f"let go of the {modality} vectors in {segment.file}")
        if unused := writer.retire_unused(modality):
            done.append(f"let go of {unused:,} {modality} vectors that served no item")
        writer.commit()
    for modality, part in collection.catalog.state(collection.spec.dim).modalities.items():
        if part.ann is not None and file_problem(collection, part.ann.file, part.ann.sha256, part.ann.bytes):
            writer.set_ann(modality, None)
            done.append(f"dropped the damaged index of the {modality} vectors")
    writer.commit()
    done += [f"built the index of the {modality} vectors" for modality in maintain(collection, writer, encoder=encoder)]
    return Repairs(tuple(done), tuple(sorted(lost)))


def _damaged_ids(collection: Collection, segment: SegmentRow) -> Int64 | None:
    """Return the ids of a segment (n,) whose rows cannot be trusted, None when its file is what the catalog says.

    A file of the right shape with another hash has lost some rows and not others, and none of them can tell.
    """
    if file_problem(collection, segment.file, segment.sha256, segment.bytes) is None:
        block = segment_block(collection.layout, segment, collection.spec.dim)
        if not any(row_problems(segment.modality, block)):
            return None
    return np.arange(segment.first_id, segment.end, dtype=np.int64)
