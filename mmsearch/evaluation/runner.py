"""`evaluate`: from a corpus and an encoder, or a collection, to an EvalReport."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsearch.collection.collection import Collection
from mmsearch.config import Settings, plain_path
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.encoders.views import views_of
from mmsearch.engine.engine import SearchEngine
from mmsearch.engine.query import CANDIDATES
from mmsearch.errors import EvaluationError, QueryError
from mmsearch.evaluation.dataset import Direction, EvalSet, Task, load_eval_set
from mmsearch.evaluation.embed import Progress, embed_set
from mmsearch.evaluation.metrics import Difference, Metric, compare, per_query, summarise
from mmsearch.evaluation.ranks import NOT_FOUND, Ranks, censored
from mmsearch.evaluation.reranked import RerankedSystem
from mmsearch.evaluation.systems import (
    CollectionSystem,
    EncoderSystem,
    Found,
    IndexRecall,
    Latency,
    System,
    best_answers,
)
from mmsearch.evaluation.trec import document_id, rank_run, read_qrels, read_run, write_qrels, write_run
from mmsearch.rerank import load_reranker
from mmsearch.types import Encoder, Float64

PathLike = str | os.PathLike[str]

_SHOWN = 5
_RUN_DEPTH = 100
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Failure:
    """A query whose best relevant answer came at `rank` (None: not among those retrieved), and what came instead."""

    direction: Direction
    query: str
    rank: int | None
    relevant: tuple[str, ...]
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class DirectionReport:
    """The metrics of one direction over `queries` queries, each answered among `candidates`.

    Ranks are known to `depth`; None: all of them.
    """

    direction: str
    queries: int
    candidates: int
    depth: int | None
    metrics: tuple[Metric, ...]

    def __getitem__(self, name: str) -> float:
        """Return the value of a metric; raise KeyError for a name that is none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric.value
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class EvalReport:
    """What `mmsearch eval` tells. `recall` and `latency` are of a collection's index; `unread` names what was left
    out, `absent` pictures and captions are not in the collection.
    """

    dataset: str
    system: str
    pictures: int
    captions: int
    unread: tuple[str, ...]
    absent: int
    directions: tuple[DirectionReport, ...]
    recall: tuple[IndexRecall, ...] = ()
    latency: tuple[Latency, ...] = ()
    worst: tuple[Failure, ...] = ()
    seconds: float = 0.0

    def __getitem__(self, direction: str) -> DirectionReport:
        """Return the report of a direction such as "text→image"; raise KeyError for one that was not evaluated."""
        for report in self.directions:
            if report.direction == direction:
                return report
        raise KeyError(direction)


@dataclass(frozen=True, slots=True)
class Measured:
    """One direction with the ranks and the metrics of every query: what comparisons and failures are told from."""

    task: Task
    ranks: Ranks
    values: dict[str, Float64] = field(repr=False)


class Evaluation:
    """A system and how it did. Make one with `evaluate`, and close it (or use `with`) when it is of a collection."""

    def __init__(self, system: System, *, seconds: float = 0.0) -> None:
        """Rank everything."""
        started = time.perf_counter()
        self.system = system
        self.measured: list[Measured] = []
        for task in system.tasks:
            ranks = system.ranks(task)
            self.measured.append(Measured(task, ranks, per_query(ranks)))
        self._seconds = seconds + time.perf_counter() - started

    def close(self) -> None:
        """Let go of the collection; nothing more can be asked of it then."""
        self.system.close()

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def report(self, *, worst: int = 0) -> EvalReport:
        """Return all of it, with the `worst` queries of each direction."""
        started = time.perf_counter()
        directions = tuple(
            DirectionReport(
                direction=str(m.task.direction),
                queries=len(m.ranks),
                candidates=self.system.candidates(m.task),
                depth=self.system.depth,
                metrics=summarise(m.values, m.task.clusters),
            )
            for m in self.measured
        )
        recall, latency = self.system.recall(), self.system.latency()
        data = self.system.data
        return EvalReport(
            dataset=data.name,
            system=self.system.name,
            pictures=len(data.pictures),
            captions=len(data.captions),
            unread=data.unread,
            absent=self.system.absent,
            directions=directions,
            recall=recall,
            latency=latency,
            worst=tuple(failure for m in self.measured for failure in self._worst(m, worst)) if worst else (),
            seconds=self._seconds + time.perf_counter() - started,
        )

    def write_trec(self, folder: Path) -> None:
        """Write run and qrels of each direction into a folder: `text-image.run`, `text-image.qrels`, …"""
        folder.mkdir(parents=True, exist_ok=True)
        for task in (measured.task for measured in self.measured):
            queries = [document_id(self.system.data.id_of(task.direction.query, int(q))) for q in task.queries]
            name = task.direction.name_of_file
            write_run(folder / f"{name}.run", zip(queries, self._answers(task), strict=True))
            write_qrels(folder / f"{name}.qrels", zip(queries, self._relevant(task), strict=True))

    def _answers(self, task: Task) -> Iterator[list[tuple[str, float]]]:
        for start in range(0, len(task.queries), _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, len(task.queries)))
            for found in best_answers(self.system, task, rows, _RUN_DEPTH):
                yield [(document_id(one.id), one.score) for one in found]

    def _relevant(self, task: Task) -> Iterator[list[str]]:
        named = self.system.describe(task, np.unique(task.relevance.items).tolist())
        for row in range(len(task.queries)):
            yield [document_id(named[item][0]) for item in task.relevance.to(row).tolist()]

    def _worst(self, measured: Measured, count: int) -> Iterator[Failure]:
        task = measured.task
        rows = np.argsort(-measured.ranks.first, kind="stable")[:count].tolist()
        for row, found in zip(rows, best_answers(self.system, task, rows, _SHOWN), strict=True):
            rank = int(measured.ranks.first[row])
            relevant = task.relevance.to(row).tolist()
            named = self.system.describe(task, relevant)
            yield Failure(
                direction=task.direction,
                query=self.system.data.name_of(task.direction.query, int(task.queries[row])),
                rank=None if rank == NOT_FOUND else rank,
                relevant=tuple(named[item][1] for item in relevant),
                found=tuple(found),
            )


def evaluate(
    dataset: PathLike | None = None,
    *,
    encoder: Encoder | str | None = None,
    collection: PathLike | None = None,
    device: str | None = None,
    options: CorpusOptions | None = None,
    directions: Sequence[Direction] | None = None,
    limit: int | None = None,
    cache: bool = True,
    progress: Progress = lambda done, total: None,
    rerank: str | None = None,
    candidates: int = CANDIDATES,
    reranking: Progress = lambda done, total: None,
) -> Evaluation:
    """Return how well an encoder, or a collection through its index, retrieves what a corpus says belongs together.

    `dataset` is a corpus file (see `mmsearch.corpora`; None: the captions of the collection itself), of which the first
    `limit` pictures are taken. Without `collection` the encoder alone is evaluated; with it, `encoder` is needed only
    where the weights of its own have moved. Vectors are kept below the home folder by the encoder's fingerprint unless
    `cache` is False. With `rerank`, the URI of a reranker ("auto": the one for the encoder), the first `candidates`
    answers are looked at again, text→image and image→text. Raise SourceError, EvaluationError and the errors of
    `load_encoder`, `load_reranker` and `mmsearch.open`.
    """
    started = time.perf_counter()
    settings = Settings.from_environment()
    place = settings.home / "cache" / "evaluation" if cache else None
    path = None if dataset is None else plain_path(dataset)
    if collection is None:
        if path is None:
            raise QueryError(
                "Say what to evaluate on: a corpus file with captions, or --collection with captions in it."
            )
        data = load_eval_set(path, options or CorpusOptions(), limit=limit)
        chosen = encoder or DEFAULT_ENCODER
        engine = load_encoder(chosen, device=device) if isinstance(chosen, str) else chosen
        embedded = embed_set(engine, data, cache=place, progress=progress)
        alone: System = EncoderSystem(engine.spec.uri, embedded, directions)
        if rerank is not None:
            reranker = load_reranker(rerank, engine, device=device)
            alone = RerankedSystem(alone, reranker, candidates=candidates, views=views_of(engine), progress=reranking)
        return Evaluation(alone, seconds=time.perf_counter() - started)
    own = load_encoder(encoder, device=device) if isinstance(encoder, str) else encoder  # where its weights are now
    searching = SearchEngine(Collection.open(settings.collection_path(collection)), own, device=device)
    try:
        data = (
            _of_collection(searching, limit)
            if path is None
            else load_eval_set(path, options or CorpusOptions(), limit=limit)
        )
        system: System = CollectionSystem(searching, data, directions, cache=place, progress=progress)
        if rerank is not None:
            reranker = load_reranker(rerank, searching.encoder, device=device)
            system = RerankedSystem(
                system, reranker, candidates=candidates, views=views_of(searching.encoder), progress=reranking
            )
        return Evaluation(system, seconds=time.perf_counter() - started)
    except BaseException:
        searching.close()
        raise


def evaluate_run(run: Path, qrels: Path) -> EvalReport:
    """Return the metrics of a TREC run; raise EvaluationError for a file that is none."""
    answers = read_run(run)
    queries, ranks, gains = rank_run(answers, read_qrels(qrels))
    metrics = summarise(per_query(ranks, gains=gains), np.arange(len(queries), dtype=np.int64))
    report = DirectionReport(
        direction="run",
        queries=len(queries),
        candidates=0,
        depth=max(map(len, answers.values()), default=0),
        metrics=metrics,
    )
    return EvalReport(
        dataset=qrels.name, system=run.name, pictures=0, captions=0, unread=(), absent=0, directions=(report,)
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """How B differs from A in one direction, over the `queries` queries that both answered."""

    direction: str
    a: str
    b: str
    queries: int
    differences: tuple[Difference, ...]


def compare_evaluations(a: Evaluation, b: Evaluation) -> tuple[Comparison, ...]:
    """Return how B differs from A in each direction of both, on the queries of both.

    Raise EvaluationError when they have none in common.
    """
    found = []
    for one in a.measured:
        for other in b.measured:
            if one.task.direction is not other.task.direction:
                continue
            mine, theirs = (_query_ids(e, m) for e, m in ((a, one), (b, other)))
            _, rows, columns = np.intersect1d(mine, theirs, return_indices=True)
            if len(rows):
                depths = [depth for depth in (a.system.depth, b.system.depth) if depth is not None]
                values = [
                    per_query(censored(m.ranks, min(depths))) if depths else m.values for m in (one, other)
                ]  # what one of them cannot know, neither may
                differences = compare(
                    {name: column[rows] for name, column in values[0].items()},
                    {name: column[columns] for name, column in values[1].items()},
                    one.task.clusters[rows],
                )
                found.append(Comparison(str(one.task.direction), a.system.name, b.system.name, len(rows), differences))
    if not found:
        raise EvaluationError("The two have no query in common: compare them on the same corpus.")
    return tuple(found)


def compare_runs(a: Path, b: Path, qrels: Path) -> tuple[Comparison, ...]:
    """Return how the TREC run B differs from A on the same qrels."""
    judged = read_qrels(qrels)
    values = []
    for path in (a, b):
        queries, ranks, gains = rank_run(read_run(path), judged)
        values.append(per_query(ranks, gains=gains))
    differences = compare(values[0], values[1], np.arange(len(queries), dtype=np.int64))
    return (Comparison("run", a.name, b.name, len(queries), differences),)


def _query_ids(evaluation: Evaluation, measured: Measured) -> NDArray[np.str_]:
    data, task = evaluation.system.data, measured.task
    return np.array([data.id_of(task.direction.query, int(number)) for number in task.queries])


def _of_collection(engine: SearchEngine, limit: int | None) -> EvalSet:
    """Return the pictures of a collection that have captions, and these."""
    pairs = engine.collection.catalog.captioned(limit)
    if not pairs:
        raise EvaluationError(
            f"The collection {engine.collection.layout.root} has no captioned pictures: name a corpus to evaluate on."
        )
    captions = [(number, caption) for number, (_, some) in enumerate(pairs) for caption in some]
    return EvalSet(
        name=engine.collection.layout.root.name,
        pictures=tuple(place for place, _ in pairs),
        captions=tuple(caption for _, caption in captions),
        owners=np.array([number for number, _ in captions], dtype=np.int64),
        picture_labels=(None,) * len(pairs),
        caption_labels=(None,) * len(captions),
    )
