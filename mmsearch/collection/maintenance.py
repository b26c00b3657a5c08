"""Care of a collection: build its ANN indexes, verify every byte."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmsearch.catalog.checks import catalog_problems
from mmsearch.catalog.rows import AnnRow, ModalityState
from mmsearch.collection.atomic import write_file
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import merge_segments
from mmsearch.collection.everyday import EVERYDAY_QUERIES
from mmsearch.collection.snapshot import Snapshot
from mmsearch.collection.soundness import file_problem, row_problems
from mmsearch.collection.writer import Writer
from mmsearch.errors import CollectionCorrupt, EncoderError, QueryError
from mmsearch.types import Encoder, IndexSpec, Int64, Modality
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.backend import HOW_TO_GET_FAISS, find_faiss
from mmsearch.vectors.gpu import count_gpus
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.spec import IndexKind, choose_spec, finer
from mmsearch.vectors.store import widen
from mmsearch.vectors.tuning import QuerySet, Tuned, tune

_log = logging.getLogger(__name__)

STALE_SHARE = 0.2
"""An index is built anew when more than this share of the vectors lies outside it or is dead in it."""

_RECALL_QUERIES = 300
_LEAST_ACROSS = 100
_STORED, _ACROSS = "stored", "across"
_VERIFY_TRIES = 3


def maintain(
    collection: Collection,
    writer: Writer,
    *,
    kind: IndexKind | None = None,
    recall: float | None = None,
    encoder: Callable[[], Encoder] | None = None,
    rebuild: bool = False,
    purge: bool = False,
) -> list[Modality]:
    """Build the ANN indexes that are due, and return for which modalities.

    With `rebuild` all are due, with `purge` those that hold codes of vectors that are no more.

    `kind` and `recall` (of the true ten) are those wanted from now on. `encoder` returns the one that embeds everyday
    queries where there are no captions to measure the recall of text queries with; without it that recall is left
    unknown. Readers go on with the old index until the commit. Without FAISS nothing is built and search stays exact,
    unless an index is asked for: then MissingExtra is raised. An index file that is not what the catalog says is built
    anew, never read.
    """
    before = collection.index_kind
    if kind is not None:
        writer.set_index_kind(kind)
    if recall is not None:
        writer.set_recall_target(recall)
    writer.commit()
    merge_segments(collection, writer)
    built = []
    has_faiss = find_faiss() is not None
    asked = kind is not None or recall is not None or rebuild
    for modality, state in collection.catalog.state(collection.spec).modalities.items():
        spec = choose_spec(state.live, collection.spec.dim, collection.index_kind)
        if spec.exact:
            if state.ann is not None:
                writer.set_ann(modality, None)
        elif not has_faiss and not asked:
            if purge and _dead_in(state):
                writer.set_ann(modality, None)
            _log.warning("FAISS is missing, so every search scans all %s vectors: %s", modality, HOW_TO_GET_FAISS)
        elif asked or _is_stale(state) or (purge and _dead_in(state)) or not _is_whole(collection, state):
            try:
                writer.set_ann(modality, _build(collection, modality, encoder))
            except QueryError:  # a factory string that FAISS has no index for is not kept
                writer.set_index_kind(before)
                writer.commit()
                raise
            built.append(modality)
    writer.commit()
    writer.collect_garbage()
    return built


def _is_stale(state: ModalityState) -> bool:
    if state.ann is None:
        return True
    outside = state.next_id - state.ann.covered
    return max(outside, _dead_in(state)) > STALE_SHARE * state.ann.vectors


def _dead_in(state: ModalityState) -> int:
    """Return how many vectors an ANN index holds that are no more."""
    if state.ann is None:
        return 0
    compacted = state.next_id - state.stored  # dead ones whose rows have gone
    dead = int((state.dead < state.ann.covered).sum()) + compacted
    return max(0, dead - (state.ann.covered - state.ann.vectors))


def _is_whole(collection: Collection, state: ModalityState) -> bool:
    """Return True when the index file has the bytes that the catalog names."""
    return state.ann is None or not file_problem(collection, state.ann.file, state.ann.sha256, state.ann.bytes)


def _build(collection: Collection, modality: Modality, encoder: Callable[[], Encoder] | None) -> AnnRow:
    """Write the index file of a modality and return its row, tuned to the recall wanted; finer codes where need be."""
    snapshot = collection.snapshot()
    state = snapshot.state.modalities[modality]
    store = snapshot.store(modality)
    live = np.setdiff1d(store.ids(), state.dead, assume_unique=True)
    dim, target = collection.spec.dim, collection.recall_target
    queries, across = _tuning_queries(snapshot, modality, live, encoder)
    spec: IndexSpec | None = choose_spec(len(live), dim, collection.index_kind, on_gpu=count_gpus() > 0)
    best: tuple[Tuned, AnnIndex, IndexSpec] | None = None
    while spec is not None:
        ann = AnnIndex.build(spec, store, live)
        index = VectorIndex(store, dead=state.dead, ann=ann, covered=state.next_id)
        tuned = tune(index, queries, nlist=ann.nlist, nprobe=spec.nprobe, target=target)
        if best is None or tuned.least > best[0].least:
            best = tuned, ann, spec
        is_enough = tuned.least >= target or collection.index_kind != "auto"
        spec = None if is_enough else finer(spec, len(live), dim)
    assert best is not None
    tuned, ann, chosen = best
    if tuned.least < target:
        _log.warning("The %s index reaches a recall@10 of %.3f, not %.2f.", modality, tuned.least, target)
    file = collection.layout.new_ann(modality)
    written = write_file(collection.layout.path(file), collection.layout.new_staged(), ann.save)
    return AnnRow(
        modality=modality,
        file=file,
        sha256=written.sha256,
        bytes=written.bytes,
        covered=state.next_id,
        vectors=len(live),
        factory=chosen.factory,
        nlist=chosen.nlist,
        nprobe=tuned.nprobe,
        recall_at_10=tuned.recall[_STORED],
        reason=chosen.reason,
        built_at=time.time(),
        recall_across=tuned.recall.get(_ACROSS),
        across=across,
        candidates=tuned.candidates,
        target=target,
    )


def _tuning_queries(
    snapshot: Snapshot, modality: Modality, live: Int64, encoder: Callable[[], Encoder] | None
) -> tuple[dict[str, QuerySet], str]:
    """Return stored vectors as queries, those of the other modality, and what the latter are in words."""
    rng = np.random.default_rng(0)
    own = np.sort(rng.choice(live, size=min(_RECALL_QUERIES, len(live)), replace=False))
    queries = {_STORED: QuerySet(widen(snapshot.store(modality).take(own)), own)}
    other = Modality.TEXT if modality is Modality.IMAGE else Modality.IMAGE
    state = snapshot.state.modalities[other]
    ids = np.setdiff1d(snapshot.store(other).ids(), state.dead, assume_unique=True)
    if len(ids) >= _LEAST_ACROSS:
        some = np.sort(rng.choice(ids, size=min(_RECALL_QUERIES, len(ids)), replace=False))
        rows = widen(snapshot.store(other).take(some))
        return {**queries, _ACROSS: QuerySet(rows)}, f"{len(some)} {other} vectors of the collection"
    if other is Modality.TEXT and encoder is not None:
        try:
            rows = encoder().encode_texts(EVERYDAY_QUERIES)
        except EncoderError as error:  # nor can anybody make text queries until it is there again
            _log.warning("The recall of text queries is not measured. %s", error)
        else:
            return {**queries, _ACROSS: QuerySet(rows)}, f"{len(rows)} everyday queries"
    return queries, ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` looked at and what is wrong, one sentence each; `problems` is empty when all is well."""

    files: int
    vectors: int
    problems: tuple[str, ...]


def verify(collection: Collection) -> Verification:
    """Check every hash, row and reference of a collection, and SQLite's own integrity.

    Beside a writer it may meet files that have just been collected: then it looks at the newer state.
    """
    for _ in range(_VERIFY_TRIES):
        token = collection.catalog.token()
        found = _verify(collection)
        if not found.problems or collection.catalog.token() == token:
            break
    return found


def _verify(collection: Collection) -> Verification:
    problems = list(collection.catalog.integrity_problems())
    files = vectors = 0
    try:
        problems += catalog_problems(collection.catalog, collection.spec)
        state = collection.catalog.state(collection.spec)
    except CollectionCorrupt as error:
        return Verification(0, 0, (*problems, str(error)))
    for modality, part in state.modalities.items():
        named = [(s.file, s.sha256, s.bytes) for s in part.segments]
        named += [(part.ann.file, part.ann.sha256, part.ann.bytes)] if part.ann else []
        damaged = {file: file_problem(collection, file, sha256, size) for file, sha256, size in named}
        problems += [problem for problem in damaged.values() if problem]
        files += len(named)
        if not any(damaged[s.file] for s in part.segments):
            try:
                store = Snapshot(collection.layout, collection.spec.dim, state).store(modality)
                vectors += len(store)
                for block in store.blocks:
                    problems += row_problems(modality, block)
            except (CollectionCorrupt, FileNotFoundError) as error:  # replaced since it was looked at
                problems.append(str(error))
    return Verification(files, vectors, tuple(problems))
