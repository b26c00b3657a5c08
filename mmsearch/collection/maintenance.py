"""Care of a collection: build its ANN indexes, verify every byte."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmsearch.catalog.rows import AnnRow, ModalityState
from mmsearch.collection.atomic import file_sha256, write_file
from mmsearch.collection.collection import Collection
from mmsearch.collection.writer import UNIT_TOLERANCE, Writer
from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Float16, Modality, SearchParams
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.backend import HOW_TO_GET_FAISS, find_faiss
from mmsearch.vectors.index import VectorIndex, measure_recall
from mmsearch.vectors.spec import IndexKind, choose_spec

_log = logging.getLogger(__name__)

RECALL_TARGET = 0.95
STALE_SHARE = 0.2
"""An index is built anew when more than this share of the vectors lies outside it or is dead in it."""

_RECALL_QUERIES = 200
_VERIFY_ROWS = 65_536


def maintain(collection: Collection, writer: Writer, *, kind: IndexKind | None = None) -> list[Modality]:
    """Build the ANN indexes that are due, and return for which modalities; `kind` is the one wanted from now on.

    Readers go on with the old index until the commit. Without FAISS nothing is built and search stays exact, unless
    `kind` asks for an index: then MissingExtra is raised.
    """
    if kind is not None:
        writer.set_index_kind(kind)
    writer.commit()
    built = []
    has_faiss = find_faiss() is not None
    for modality, state in collection.catalog.state(collection.spec.dim).modalities.items():
        wanted = collection.index_kind
        spec = choose_spec(state.live, collection.spec.dim, wanted)
        if spec.exact:
            if state.ann is not None:
                writer.set_ann(modality, None)
        elif not has_faiss and kind is None:
            _log.warning("FAISS is missing, so every search scans all %s vectors: %s", modality, HOW_TO_GET_FAISS)
        elif kind is not None or _is_stale(state):
            writer.set_ann(modality, _build(collection, modality))
            built.append(modality)
    writer.commit()
    writer.collect_garbage()
    return built


def _is_stale(state: ModalityState) -> bool:
    if state.ann is None:
        return True
    outside = state.next_id - state.ann.covered
    dead = int((state.dead < state.ann.covered).sum()) - (state.ann.covered - state.ann.vectors)
    return outside > STALE_SHARE * state.ann.vectors or dead > STALE_SHARE * state.ann.vectors


def _build(collection: Collection, modality: Modality) -> AnnRow:
    """Write the index file of a modality and return its row, with nprobe raised until recall@10 meets the target."""
    snapshot = collection.snapshot()
    state = snapshot.state.modalities[modality]
    store = snapshot.store(modality)
    live = np.setdiff1d(store.ids(), state.dead, assume_unique=True)
    spec = choose_spec(len(live), collection.spec.dim, collection.index_kind)
    ann = AnnIndex.build(spec, store, live)
    index = VectorIndex(store, dead=state.dead, ann=ann, covered=state.next_id)
    rng = np.random.default_rng(0)
    sample = store.take(np.sort(rng.choice(live, size=min(_RECALL_QUERIES, len(live)), replace=False)))
    nprobe = spec.nprobe
    while True:
        recall = measure_recall(index, sample.astype(np.float32), params=SearchParams(nprobe=nprobe))
        if recall >= RECALL_TARGET or nprobe >= spec.nlist:
            break
        nprobe = min(2 * nprobe, spec.nlist)
    file = collection.layout.new_ann(modality)
    written = write_file(collection.layout.path(file), collection.layout.new_staged(), ann.save)
    return AnnRow(
        modality=modality,
        file=file,
        sha256=written.sha256,
        bytes=written.bytes,
        covered=state.next_id,
        vectors=len(live),
        factory=spec.factory,
        nlist=spec.nlist,
        nprobe=nprobe,
        recall_at_10=recall,
        reason=spec.reason,
        built_at=time.time(),
    )


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` looked at and what is wrong, one sentence each; `problems` is empty when all is well."""

    files: int
    vectors: int
    problems: tuple[str, ...]


def verify(collection: Collection) -> Verification:
    """Check every hash, row and reference of a collection, and SQLite's own integrity."""
    problems = list(collection.catalog.integrity_problems())
    problems += collection.catalog.vector_problems()
    files = vectors = 0
    try:
        state = collection.catalog.state(collection.spec.dim)
    except CollectionCorrupt as error:
        return Verification(0, 0, (*problems, str(error)))
    for modality, part in state.modalities.items():
        named = [(s.file, s.sha256, s.bytes) for s in part.segments]
        named += [(part.ann.file, part.ann.sha256, part.ann.bytes)] if part.ann else []
        damaged = {file: _file_problem(collection, file, sha256, size) for file, sha256, size in named}
        problems += [problem for problem in damaged.values() if problem]
        files += len(named)
        if not any(damaged[s.file] for s in part.segments):
            store = collection.snapshot().store(modality)
            vectors += len(store)
            for block in store.blocks:
                problems += _row_problems(modality, block.first_id, block.rows)
    return Verification(files, vectors, tuple(problems))


def _file_problem(collection: Collection, file: str, sha256: str, size: int) -> str | None:
    path = collection.layout.path(file)
    try:
        if path.stat().st_size != size:
            return f"{file} has {path.stat().st_size} bytes instead of {size}"
        return None if file_sha256(path) == sha256 else f"{file} does not have the SHA-256 that the catalog names"
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"


def _row_problems(modality: Modality, first_id: int, rows: Float16) -> Iterator[str]:
    for start in range(0, len(rows), _VERIFY_ROWS):
        part = rows[start : start + _VERIFY_ROWS].astype(np.float32)
        lengths = np.sqrt((part * part).sum(axis=1))
        bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))
        for row in bad[:5]:
            yield f"{modality} vector {first_id + start + row} has length {lengths[row]:.4f} instead of 1"
        if len(bad) > 5:
            yield f"{len(bad) - 5} more {modality} vectors after that one are not of unit length"
