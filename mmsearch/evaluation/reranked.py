"""RerankedSystem: another system whose first answers a reranker looks at again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mmsearch.collection.states import pack, unpack
from mmsearch.config import Settings
from mmsearch.corpora.places import open_place
from mmsearch.errors import EvaluationError
from mmsearch.evaluation.dataset import Direction, Task
from mmsearch.evaluation.embed import Progress
from mmsearch.evaluation.ranks import NOT_FOUND, Ranks, rank_found
from mmsearch.evaluation.systems import IndexRecall, Latency, System
from mmsearch.images import decode
from mmsearch.rerank.blending import blend
from mmsearch.types import Float32, Neighbors, Reranker, UInt8

_AT_ONCE = 16
_HELD_BYTES = 500_000_000
"""Of the states of pictures, packed, in memory."""


class RerankedSystem:
    """The first `candidates` answers of another system, by similarity and matching score."""

    def __init__(
        self,
        first: System,
        reranker: Reranker,
        *,
        candidates: int,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Look again at what `first` finds; raise EvaluationError for neither text→image nor image→text."""
        self.name = f"{first.name} and {reranker.spec.uri} over {candidates}"
        self.data, self.depth, self.absent = first.data, first.depth, first.absent
        self.tasks = tuple(t for t in first.tasks if t.direction in (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT))
        if not self.tasks:
            raise EvaluationError(
                "Only text→image and image→text are reranked: choose one of these, or leave --rerank out."
            )
        self._first, self._reranker, self._count, self._progress = first, reranker, candidates, progress
        self._states: dict[str, NDArray[np.void]] = {}

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
        ids, scores, spec = near.ids.copy(), near.scores.copy(), self._reranker.spec
        for number, row in enumerate(rows):
            wanted = ids[number, : self._count]
            named = self._first.describe(task, wanted[wanted >= 0].tolist())  # what vanished meanwhile is not in it
            places = np.flatnonzero(np.isin(wanted, list(named)))
            matched = self._matched(task, row, [named[one][1] for one in wanted[places].tolist()])
            blended = blend(scores[number, places], matched, spec.weight, spec.bound)
            order = np.lexsort((ids[number, places], -blended))
            ids[number, places], scores[number, places] = ids[number, places][order], blended[order]
            self._progress(number + 1, len(rows))
        return Neighbors(ids[:, :k], scores[:, :k])

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

    def _matched(self, task: Task, row: int, named: Sequence[str]) -> Float32:
        """Return the matching scores (n,) of candidates, by name, with a query."""
        query = self.data.name_of(task.direction.query, int(task.queries[row]))
        if task.direction is Direction.TEXT_IMAGE:
            return self._reranker.score([query], self._states_of(named))
        return self._reranker.score(named, self._states_of([query]))

    def _states_of(self, places: Sequence[str]) -> Float32:
        """Return the states (n, patches, width) of pictures, from memory where they are."""
        missing = [place for place in dict.fromkeys(places) if place not in self._states]
        each = next(iter(self._states.values())).nbytes if self._states else 0
        if missing and (len(self._states) + len(missing)) * each > _HELD_BYTES:
            self._states.clear()
            missing = list(dict.fromkeys(places))
        with ThreadPoolExecutor(Settings.from_environment().threads) as pool:
            for start in range(0, len(missing), _AT_ONCE):
                some = missing[start : start + _AT_ONCE]
                states = self._reranker.picture_states(np.stack(list(pool.map(self._prepare, some))))
                self._states.update(zip(some, map(pack, states), strict=True))
        return np.stack([unpack(self._states[place]) for place in places])

    def _prepare(self, place: str) -> UInt8:
        try:
            with open_place(place) as file:
                return self._reranker.prepare_image(decode(file, place, min_side=self._reranker.min_side)[0])
        except OSError as error:
            raise EvaluationError(f"The picture {place} cannot be read any more ({error.strerror}).") from error
