"""Is what was learned better? What early stopping goes by, and the verdict on what was held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.encoders.tuned_head import TunedHead
from mmsearch.evaluation.dataset import Direction
from mmsearch.evaluation.embed import EmbeddedSet
from mmsearch.evaluation.metrics import MEDIAN, Difference, compare, per_query, summarise
from mmsearch.evaluation.ranks import Ranks, Relevance, rank_all
from mmsearch.evaluation.runner import Comparison, DirectionReport
from mmsearch.evaluation.systems import EncoderSystem
from mmsearch.types import Float32, Float64, Int64

GAIN = "gain"
_METRICS = ("R@1", "R@5", "R@10", MEDIAN)
_ROUNDS = 1000
DIRECTIONS = (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The base encoder and the tuned one on what was held out: metrics, how they differ, and by what it is judged.

    `gain` is of the discounted gain (see `gain_by_picture`), over both directions.
    """

    before: tuple[DirectionReport, ...]
    after: tuple[DirectionReport, ...]
    changes: tuple[Comparison, ...]
    gain: Difference

    @property
    def helped(self) -> bool:
        """True when it is better by more than chance: the 95 % interval of the gain lies above zero."""
        return self.gain.low > 0.0


def gain_by_picture(images: Float32, texts: Float32, owners: Int64) -> Float64:
    """Return 1 / log2(1 + rank of the first right answer) for each picture (p,), the mean of both directions.

    The discount is that of nDCG (Järvelin, Kekäläinen 2002), with no cut-off: unlike recall@k it moves with every rank,
    which few pairs need. Every picture must have a caption.
    """
    each = np.arange(len(owners) + 1, dtype=np.int64)
    by_text = _discounted(rank_all(texts, images, Relevance(owners, each)))
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=len(images))
    starts = np.concatenate([[0], np.cumsum(counts)])
    by_image = _discounted(rank_all(images, texts, Relevance(order.astype(np.int64), starts)))
    gains: Float64 = (np.bincount(owners, by_text, len(images)) / counts + by_image) / 2.0
    return gains


@dataclass(frozen=True, slots=True)
class Answered:
    """One direction as two systems answer it: metrics (nq,) by name, which queries belong together, of how many."""

    direction: Direction
    before: Mapping[str, Float64]
    after: Mapping[str, Float64]
    clusters: Int64
    candidates: int


def judge(held_out: EmbeddedSet, head: TunedHead, *, base: str, tuned: str) -> Verdict:
    """Return how the base encoder and the tuned one do on a set."""
    mapped = mapped_set(held_out, head)
    systems = EncoderSystem(base, held_out, DIRECTIONS), EncoderSystem(tuned, mapped, DIRECTIONS)
    answered = []
    for task in systems[0].tasks:
        old, new = (_shown(per_query(system.ranks(task))) for system in systems)
        answered.append(Answered(task.direction, old, new, task.clusters, systems[0].candidates(task)))
    before, after = (gain_by_picture(s.images, s.texts, s.data.owners) for s in (held_out, mapped))
    return verdict_on(answered, (before, after), names=(base, tuned))


def verdict_on(answered: Sequence[Answered], gains: tuple[Float64, Float64], *, names: tuple[str, str]) -> Verdict:
    """Return the verdict on two systems, by what they answered in each direction and the gain (p,) of each picture."""
    reports: tuple[list[DirectionReport], list[DirectionReport]] = ([], [])
    changes = []
    for one in answered:
        queries = len(one.clusters)
        for values, told in zip((one.before, one.after), reports, strict=True):
            metrics = summarise(values, one.clusters)
            told.append(DirectionReport(str(one.direction), queries, one.candidates, None, metrics))
        differences = compare(one.before, one.after, one.clusters, rounds=_ROUNDS)
        changes.append(Comparison(str(one.direction), *names, queries, differences))
    before, after = ({GAIN: part} for part in gains)
    (gain,) = compare(before, after, np.arange(len(gains[0]), dtype=np.int64))
    return Verdict(tuple(reports[0]), tuple(reports[1]), tuple(changes), gain)


def _shown(values: Mapping[str, Float64]) -> dict[str, Float64]:
    return {name: values[name] for name in _METRICS}


def mapped_set(some: EmbeddedSet, head: TunedHead) -> EmbeddedSet:
    """Return the set with the vectors of the tuned encoder."""
    return EmbeddedSet(some.data, head.image.apply(some.images), head.text.apply(some.texts))


def _discounted(ranks: Ranks) -> Float64:
    discounted: Float64 = 1.0 / np.log2(1.0 + ranks.first)
    return discounted
