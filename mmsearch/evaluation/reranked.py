"""RerankedSystem: another system whose first answers a reranker looks at again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsearch.collection.states import pack, unpack
from mmsearch.config import Settings
from mmsearch.corpora.places import open_place
from mmsearch.encoders.views import Views, with_views
from mmsearch.errors import EvaluationError
from mmsearch.evaluation.dataset import Direction, Task
from mmsearch.evaluation.embed import Progress
from mmsearch.evaluation.ranks import NOT_FOUND, Ranks, rank_found
from mmsearch.evaluation.systems import IndexRecall, Latency, System
from mmsearch.images import decode
from mmsearch.rerank.blending import blend
from mmsearch.rerank.multiview import multi_view_similarity
from mmsearch.types import Float32, Neighbors, Reranker, UInt8

if TYPE_CHECKING:
    from PIL import Image

_AT_ONCE = 16
_HELD_BYTES = 500_000_000
"""Of what is read of pictures, in memory: of their states, and of their views."""


class RerankedSystem:
    """The first `candidates` answers of another system, by similarity and matching score."""

    def __init__(
        self,
        first: System,
        reranker: Reranker,
        *,
        candidates: int,
        views: Views | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Look again at what `first` finds, and at the best in the views of its encoder.

        Raise EvaluationError for neither text→image nor image→text.
        """
        self.name = f"{first.name} and {reranker.spec.uri} over {candidates}"
        self.data, self.depth, self.absent = first.data, first.depth, first.absent
        self.tasks = tuple(t for t in first.tasks if t.direction in (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT))
        if not self.tasks:
            raise EvaluationError(
                "Only text→image and image→text are reranked: choose one of these, or leave --rerank out."
            )
        self._first, self._reranker, self._count, self._progress = first, reranker, candidates, progress
        self._states = _Read(
            reranker.min_side, reranker.prepare_image, lambda some: list(map(pack, reranker.picture_states(some)))
        )
        self._sums = None if views is None else _Read(views.min_side, views.prepare, partial(_halved, views.sums))

    def candidates(self, task: Task) -> int:
        """Return among how many a query is answered."""
        return self._first.candidates(task)

    def ranks(self, task: Task) -> Ranks:
        """Return where the relevant stand; what the first stage did not bring keeps its rank."""
        before = self._first.ranks(task)
        near = self.nearest(task, range(len(task.queries)), self._count)
        after = rank_found(near.ids, near.scores, task.relevance).ranks
        return Ranks(np.where(after == NOT_FOUND, before.ranks, after), before.starts)

    def nearest(self, task: Task, rows: Sequence[int], k: int) -> Neighbors:
        """Return the first k candidates for some queries; those that were not looked at again follow the others."""
        near = self._first.nearest(task, rows, max(k, self._count))
        ids, scores = near.ids.copy(), near.scores.copy()
        for number, row in enumerate(rows):
            wanted = ids[number, : self._count]
            named = self._first.describe(task, wanted[wanted >= 0].tolist())  # what vanished meanwhile is not in it
            places = np.flatnonzero(np.isin(wanted, list(named)))
            some = {one: named[one][1] for one in wanted[places].tolist()}
            blended = self._scores(task, row, some, scores[number, places]) if some else scores[number, places]
            order = np.lexsort((ids[number, places], -blended))
            ids[number, places], scores[number, places] = ids[number, places][order], blended[order]
            self._progress(number + 1, len(rows))
        return Neighbors(ids[:, :k], scores[:, :k])

    def vectors(self, task: Task, row: int, items: Sequence[int]) -> tuple[Float32, Float32]:
        """Return those of the first stage."""
        return self._first.vectors(task, row, items)

    def describe(self, task: Task, items: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Return (id, name) of candidates."""
        return self._first.describe(task, items)

    def recall(self) -> tuple[IndexRecall, ...]:
        """Return what the first stage does."""
        return self._first.recall()

    def latency(self) -> tuple[Latency, ...]:
        """Return what the first stage takes, under that name."""
        return tuple(replace(one, what=f"before reranking: {one.what}") for one in self._first.latency())

    def close(self) -> None:
        """Let go of what the first stage holds open."""
        self._first.close()

    def _scores(self, task: Task, row: int, named: Mapping[int, str], similarity: Float32) -> Float32:
        """Return the scores (n,) of candidates, by id and name, for a query that they have a `similarity` (n,) with."""
        query, names = self.data.name_of(task.direction.query, int(task.queries[row])), list(named.values())
        asks = task.direction is Direction.IMAGE_TEXT
        states = np.stack([unpack(one) for one in self._states([query] if asks else names)])
        matched, spec = self._reranker.score(names if asks else [query], states), self._reranker.spec
        if self._sums is not None:
            sums = self._sums
            vector, held = self._first.vectors(task, row, list(named))
            if asks:
                similarity = held @ with_views(vector, sums([query])[0])
            else:

                def vectors_of(best: Sequence[int]) -> dict[int, Float32]:
                    seen = with_views(held[best], np.stack(sums([names[one] for one in best])))
                    return dict(zip(best, seen, strict=True))

                similarity = multi_view_similarity(similarity, matched, spec, query=vector, vectors_of=vectors_of)
        return blend(similarity, matched, spec.weight, spec.bound)


class _Read:
    """What is read of pictures by path, kept in memory as long as there is room."""

    def __init__(
        self,
        min_side: int | None,
        prepare: Callable[[Image.Image], UInt8],
        read: Callable[[UInt8], Sequence[NDArray[Any]]],
    ) -> None:
        self._min_side, self._prepare, self._read = min_side, prepare, read
        self._held: dict[str, NDArray[Any]] = {}

    def __call__(self, places: Sequence[str]) -> list[NDArray[Any]]:
        """Return it for some; raise EvaluationError for one that is gone."""
        missing = [place for place in dict.fromkeys(places) if place not in self._held]
        each = next(iter(self._held.values())).nbytes if self._held else 0
        if missing and (len(self._held) + len(missing)) * each > _HELD_BYTES:
            self._held.clear()
            missing = list(dict.fromkeys(places))
        with ThreadPoolExecutor(Settings.from_environment().threads) as pool:
            for start in range(0, len(missing), _AT_ONCE):
                some = missing[start : start + _AT_ONCE]
                read = self._read(np.stack(list(pool.map(self._open, some))))
                self._held.update(zip(some, read, strict=True))
        return [self._held[place] for place in places]

    def _open(self, place: str) -> UInt8:
        try:
            with open_place(place) as file:
                return self._prepare(decode(file, place, min_side=self._min_side)[0])
        except OSError as error:
            raise EvaluationError(f"The picture {place} cannot be read any more ({error.strerror}).") from error


def _halved(read: Callable[[UInt8], Float32], pixels: UInt8) -> Sequence[NDArray[Any]]:
    """Return the rows that something reads, with as many bits a number as a collection's cache keeps of them."""
    return list(read(pixels).astype(np.float16))
