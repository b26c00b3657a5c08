"""What is evaluated: an encoder alone, every candidate scored; or a collection, through its real index."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mmsearch.corpora.records import text_hash
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import EvaluationError
from mmsearch.evaluation.dataset import Direction, EvalSet, Task, make_tasks
from mmsearch.evaluation.embed import EmbeddedSet, Progress, embed_texts
from mmsearch.evaluation.ranks import Ranks, Relevance, rank_all, rank_found
from mmsearch.types import Float32, Int64, Modality, Neighbors
from mmsearch.vectors.index import VectorIndex, measure_recall, without_own

DEPTH = 100
"""How many candidates a collection is asked for; what is not among them has no rank."""

_RECALL_QUERIES = 1000
_TIMED_QUERIES = 200
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Found:
    """One answer: the place of a picture or the words of a caption, its cosine, and whether it is relevant.

    `id` names it among all candidates, for TREC's files.
    """

    id: str
    name: str
    score: float
    relevant: bool


@dataclass(frozen=True, slots=True)
class IndexRecall:
    """Recall@10 of the index over `target` against exact search, on `queries` queries of one kind."""

    query: Modality
    target: Modality
    index: str
    queries: int
    recall_at_10: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds of single queries, one after the other: of what, and how many."""

    what: str
    queries: int
    p50: float
    p95: float
    p99: float


class System(Protocol):
    """Something that ranks candidates for queries."""

    @property
    def name(self) -> str:
        """The encoder's URI, or the collection's path."""

    @property
    def data(self) -> EvalSet:
        """The pictures and captions asked with."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The directions."""

    @property
    def depth(self) -> int | None:
        """How many answers there are to a query at most; None: everything is ranked."""

    @property
    def absent(self) -> int:
        """How many of the pictures and captions looked for it does not hold."""

    def candidates(self, task: Task) -> int:
        """Return among how many a query is answered."""

    def ranks(self, task: Task) -> Ranks:
        """Return where the relevant stand."""

    def nearest(self, task: Task, rows: Sequence[int], k: int) -> Neighbors:
        """Return the first k candidates for the queries `task.queries[rows]`."""

    def vectors(self, task: Task, row: int, items: Sequence[int]) -> tuple[Float32, Float32]:
        """Return the vector (dim,) of the query `task.queries[row]`, and those (n, dim) of candidates."""

    def describe(self, task: Task, items: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Return (id, name) of candidates."""

    def recall(self) -> tuple[IndexRecall, ...]:
        """Return how much of exact search the index finds; nothing where there is no index."""

    def latency(self) -> tuple[Latency, ...]:
        """Return how long single queries take; nothing where no index answers them."""

    def close(self) -> None:
        """Let go of what it holds open."""


def best_answers(system: System, task: Task, rows: Sequence[int], k: int) -> list[list[Found]]:
    """Return the first k answers to the queries `task.queries[rows]`."""
    near = system.nearest(task, rows, k)
    named = system.describe(task, np.unique(near.ids[near.ids >= 0]).tolist())
    found = []
    for row, ids, scores in zip(rows, near.ids, near.scores, strict=True):
        relevant = set(task.relevance.to(row).tolist())
        answers = [
            Found(*named[number], score, number in relevant)
            for number, score in zip(ids.tolist(), scores.tolist(), strict=True)
            if number in named
        ]
        found.append(answers)
    return found


class EncoderSystem:
    """An encoder alone: every candidate is scored."""

    depth = None
    absent = 0

    def __init__(self, name: str, embedded: EmbeddedSet, directions: Sequence[Direction] | None) -> None:
        self.name = name
        self.data = embedded.data
        self.tasks = make_tasks(embedded.data, directions)
        self._rows = {Modality.IMAGE: embedded.images, Modality.TEXT: embedded.texts}

    def candidates(self, task: Task) -> int:
        """Return among how many a query is answered."""
        return len(self._rows[task.direction.target]) - (task.own is not None)

    def ranks(self, task: Task) -> Ranks:
        """Return where the relevant stand."""
        queries = self._rows[task.direction.query][task.queries]
        return rank_all(queries, self._rows[task.direction.target], task.relevance, own=task.own)

    def nearest(self, task: Task, rows: Sequence[int], k: int) -> Neighbors:
        """Return the first k candidates for some queries."""
        candidates = self._rows[task.direction.target]
        k = min(k, self.candidates(task))
        ids, values = np.empty((len(rows), k), dtype=np.int64), np.empty((len(rows), k), dtype=np.float32)
        for start in range(0, len(rows), _AT_ONCE):
            some = list(rows[start : start + _AT_ONCE])
            scores = self._rows[task.direction.query][task.queries[some]] @ candidates.T
            if task.own is not None:
                scores[np.arange(len(some)), task.own[some]] = -np.inf
            first = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else _all_of(scores)
            for row, places, mine in zip(range(start, start + len(some)), first, scores, strict=True):
                ids[row] = places[np.lexsort((places, -mine[places]))]
                values[row] = mine[ids[row]]
        return Neighbors(ids, values)

    def vectors(self, task: Task, row: int, items: Sequence[int]) -> tuple[Float32, Float32]:
        """Return the vectors of a query and of candidates."""
        return self._rows[task.direction.query][task.queries[row]], self._rows[task.direction.target][list(items)]

    def describe(self, task: Task, items: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Return (id, name) of candidates."""
        target = task.direction.target
        return {i: (self.data.id_of(target, i), self.data.name_of(target, i)) for i in items}

    def recall(self) -> tuple[IndexRecall, ...]:
        """Return nothing: there is no index."""
        return ()

    def latency(self) -> tuple[Latency, ...]:
        """Return nothing: there is no index."""
        return ()

    def close(self) -> None:
        """Nothing is held open."""


class CollectionSystem:
    """A collection: queries are answered by its index, among all that it holds."""

    def __init__(
        self,
        engine: SearchEngine,
        data: EvalSet,
        directions: Sequence[Direction] | None = None,
        *,
        cache: Path | None = None,
        progress: Progress = lambda done, total: None,
        depth: int = DEPTH,
    ) -> None:
        """Ask with a set's pictures, by their stored vectors, and captions. What the collection lacks is left out.

        Captions that it does not hold are embedded, for they ask all the same. Raise EvaluationError when it holds
        nothing of the set.
        """
        self.name = str(engine.collection.layout.root)
        self.depth: int | None = depth
        self._engine = engine
        self._indexes: dict[Modality, VectorIndex] = {m: engine.collection.index(m)[1] for m in Modality}
        held = self._held_pictures(data)
        lacking = np.flatnonzero(held < 0)
        self.data = replace(data.without_pictures(lacking.tolist()), unread=data.unread)
        texts = self._held_captions()
        self._ids = {Modality.IMAGE: held[held >= 0], Modality.TEXT: texts}
        self.absent = len(lacking) + int((texts < 0).sum())
        self.tasks = tuple(filter(None, map(self._in_ids, self._possible(directions))))
        if not self.tasks:
            raise EvaluationError(
                f"The collection {self.name} holds nothing of {data.name}: run 'mmsearch index' on it first, or name"
                " another collection."
            )
        self._rows = {
            Modality.IMAGE: self._indexes[Modality.IMAGE].store.take(self._ids[Modality.IMAGE]).astype(np.float32),
            Modality.TEXT: self._text_rows(cache, progress),
        }

    def candidates(self, task: Task) -> int:
        """Return among how many a query is answered."""
        return len(self._indexes[task.direction.target]) - (task.own is not None)

    def ranks(self, task: Task) -> Ranks:
        """Return where the relevant stand among the first `depth`."""
        found = self._search(task, task.queries, task.own, self.depth or DEPTH)
        return rank_found(found.ids, found.scores, task.relevance)

    def nearest(self, task: Task, rows: Sequence[int], k: int) -> Neighbors:
        """Return the first k candidates for some queries."""
        some = np.asarray(rows, dtype=np.int64)
        return self._search(task, task.queries[some], None if task.own is None else task.own[some], k)

    def vectors(self, task: Task, row: int, items: Sequence[int]) -> tuple[Float32, Float32]:
        """Return the vectors of a query and of candidates."""
        held = self._indexes[task.direction.target].store.take(np.asarray(items, dtype=np.int64))
        return self._rows[task.direction.query][task.queries[row]], held.astype(np.float32)

    def describe(self, task: Task, items: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Return (id, name) of candidates, of the first item where copies share a vector."""
        target = task.direction.target
        held = self._engine.collection.catalog.items_of_vectors(target, list(items))
        return {
            vector_id: (f"{target}-{vector_id}", some[0].uri if target is Modality.IMAGE else some[0].text or "")
            for vector_id, some in held.items()
        }

    def recall(self) -> tuple[IndexRecall, ...]:
        """Return how much of exact search each index finds, on text queries and on picture queries."""
        info = self._engine.info()
        return tuple(
            IndexRecall(
                query=query,
                target=target,
                index=info.modalities[target].index,
                queries=min(len(rows), _RECALL_QUERIES),
                recall_at_10=measure_recall(index, rows[:_RECALL_QUERIES]),
            )
            for target, index in self._indexes.items()
            for query, rows in self._rows.items()
            if len(index) and len(rows)
        )

    def latency(self) -> tuple[Latency, ...]:
        """Return how long single searches of the index take, and whole queries in words."""
        found = []
        for target, index in self._indexes.items():
            for query, rows in self._rows.items():
                if len(index) and len(rows):
                    seconds = [_timed(index.search, row[np.newaxis], 10) for row in rows[:_TIMED_QUERIES]]
                    found.append(_percentiles(f"index, {query}→{target}", seconds))
        if len(self._indexes[Modality.IMAGE]) and self.data.captions:
            seconds = [_timed(self._engine.search, text) for text in self.data.captions[:_TIMED_QUERIES]]
            found.append(_percentiles("whole query, text→image", seconds))
        return tuple(found)

    def close(self) -> None:
        """Let go of the collection."""
        self._engine.close()

    def _held_pictures(self, data: EvalSet) -> Int64:
        """Return the vector ids of pictures, −1 for those that the collection does not hold."""
        known = self._engine.collection.catalog.vectors_by_key(Modality.IMAGE, data.pictures)
        return np.array([known.get(place, -1) for place in data.pictures], dtype=np.int64)

    def _held_captions(self) -> Int64:
        """Return the vector ids of captions, −1 for those that the collection does not hold."""
        hashes = [text_hash(text) for text in self.data.captions]
        known = self._engine.collection.catalog.vectors_by_content(Modality.TEXT, hashes)
        return np.array([known.get(digest, -1) for digest in hashes], dtype=np.int64)

    def _possible(self, directions: Sequence[Direction] | None) -> tuple[Task, ...]:
        if not len(self.data.pictures) and not (self._ids[Modality.TEXT] >= 0).any():
            return ()
        return make_tasks(self.data, directions)

    def _text_rows(self, cache: Path | None, progress: Progress) -> Float32:
        ids = self._ids[Modality.TEXT]
        rows = np.empty((len(ids), self._engine.collection.spec.dim), dtype=np.float32)
        rows[ids >= 0] = self._indexes[Modality.TEXT].store.take(ids[ids >= 0])
        missing = [self.data.captions[i] for i in np.flatnonzero(ids < 0)]
        if missing:
            rows[ids < 0] = embed_texts(
                self._engine.encoder, missing, cache=cache, progress=lambda done: progress(done, len(missing))
            )
        return rows

    def _in_ids(self, task: Task) -> Task | None:
        """Return the task with vector ids for candidates; copies, which share a vector, are one."""
        target = self._ids[task.direction.target]
        own = None if task.own is None else target[task.own]
        lists = []
        for row in range(len(task.queries)):
            ids = np.unique(target[task.relevance.to(row)])
            lists.append(ids[(ids >= 0) & (ids != (-1 if own is None else own[row]))].tolist())
        kept = np.flatnonzero([len(some) > 0 for some in lists])
        if not len(kept):
            return None
        return replace(
            task,
            queries=task.queries[kept],
            relevance=Relevance.of([lists[i] for i in kept]),
            clusters=task.clusters[kept],
            own=None if own is None else own[kept],
        )

    def _search(self, task: Task, queries: Int64, own: Int64 | None, k: int) -> Neighbors:
        """Return the first k, the query itself left out."""
        rows, index = self._rows[task.direction.query][queries], self._indexes[task.direction.target]
        return index.search(rows, k) if own is None else without_own(index.search(rows, k + 1), own)


def _all_of(scores: Float32) -> Int64:
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)


def _timed(function: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def _percentiles(what: str, seconds: Sequence[float]) -> Latency:
    p50, p95, p99 = (1000.0 * float(x) for x in np.percentile(seconds, [50, 95, 99]))
    return Latency(what, len(seconds), p50, p95, p99)
