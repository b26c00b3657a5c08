"""Candidates: what the first stage brings for the queries of a set, and what a matcher makes of their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mmsearch.evaluation.dataset import Direction
from mmsearch.evaluation.ranks import NOT_FOUND
from mmsearch.rerank.blending import blend
from mmsearch.runtime.devices import may_have_fast_bfloat16
from mmsearch.training.rerank.matcher import Matcher
from mmsearch.training.rerank.tokens import TokenSet
from mmsearch.types import DEFAULT_BOUND, Float32, Float64, Int64, Mask

COUNT = 50
WEIGHTS = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.1)
"""Of a matching score beside a cosine, from which one is chosen."""

_PAIRS = 200
_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Candidates:
    """The first answers (q, c) of the first stage to some queries, their cosines, and which of them are right.

    `pictures` (q,) are those that is asked about.
    """

    direction: Direction
    pictures: Int64
    queries: Int64
    near: Int64
    similarity: Float32
    right: Mask

    def __len__(self) -> int:
        return len(self.queries)

    def ranks(self, matched: Float32, weight: float, bound: float = DEFAULT_BOUND) -> Int64:
        """Return the rank of the first right answer by query (q,), NOT_FOUND where none is among the candidates."""
        order = np.argsort(-blend(self.similarity, matched, weight, bound), axis=1, kind="stable")
        right = np.take_along_axis(self.right, order, axis=1)
        ranks: Int64 = np.where(right.any(axis=1), 1 + right.argmax(axis=1), NOT_FOUND)
        return ranks

    def gains(self, matched: Float32, weight: float) -> Float64:
        """Return 1 / log2(1 + rank of the first right answer) by query (q,), 0 where none is among the candidates."""
        ranks = self.ranks(matched, weight)
        gains: Float64 = np.where(ranks < NOT_FOUND, 1.0 / np.log2(1.0 + ranks), 0.0)
        return gains

    def recalls(self, matched: Float32, weight: float, bound: float = DEFAULT_BOUND) -> dict[str, Float64]:
        """Return whether a right answer is among the first 1, 5 and 10, by query (q,)."""
        ranks = self.ranks(matched, weight, bound)
        return {f"R@{k}": (ranks <= k).astype(np.float64) for k in (1, 5, 10)}


def find_candidates(
    tokens: TokenSet, direction: Direction, *, most: int, count: int = COUNT, every: slice = slice(None)
) -> Candidates:
    """Return the candidates of text→image or image→text for at most so many queries, evenly chosen.

    One caption of each picture asks; all captions answer. `every` says about which pictures is asked.
    """
    some = tokens.embedded
    pictures = np.arange(len(some.images))[every]
    pictures = pictures[np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(np.int64)]
    owners = some.data.owners
    if direction is Direction.TEXT_IMAGE:
        queries = np.searchsorted(owners, pictures)
        similarity = some.texts[queries] @ some.images.T
        owner_of_answers = np.arange(len(some.images))
    else:
        queries = pictures
        similarity = some.images[queries] @ some.texts.T
        owner_of_answers = owners
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    right = owner_of_answers[near] == pictures[:, np.newaxis]
    return Candidates(direction, pictures, queries, near, np.take_along_axis(similarity, near, axis=1), right)


def match(
    matcher: Matcher,
    tokens: TokenSet,
    candidates: Candidates,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> Float32:
    """Return the matching scores (q, c) of candidates; `progress` is called with how many queries are done."""
    texts = candidates.direction is Direction.TEXT_IMAGE
    pictures = np.unique(candidates.near if texts else candidates.queries)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=may_have_fast_bfloat16()):
        states = torch.cat(
            [
                matcher.picture_states(torch.from_numpy(tokens.pictures(pictures[start : start + _PICTURES])))
                for start in range(0, len(pictures), _PICTURES)
            ]
        )
        found = []
        at_once = max(1, _PAIRS // candidates.near.shape[1])
        for start in range(0, len(candidates), at_once):
            queries, near = candidates.queries[start : start + at_once], candidates.near[start : start + at_once]
            asked = queries[:, np.newaxis]
            images, said = (near, asked) if texts else (asked, near)
            words, mask = (torch.from_numpy(part) for part in tokens.words(said.ravel()))
            shown = states[torch.from_numpy(np.searchsorted(pictures, images))]
            read = matcher.text_states(words).unflatten(0, said.shape)
            scores = matcher(shown, read, mask.unflatten(0, said.shape)).float()
            found.append((scores[:, 0] if texts else scores[:, :, 0]).numpy())
            progress(start + len(queries))
    return np.concatenate(found)


def best_weight(candidates: list[Candidates], matched: list[Float32]) -> tuple[float, float]:
    """Return the weight of WEIGHTS with the highest mean gain over all directions, and that gain."""
    gains = [
        float(np.mean([some.gains(scores, weight).mean() for some, scores in zip(candidates, matched, strict=True)]))
        for weight in WEIGHTS
    ]
    best = int(np.argmax(gains))
    return WEIGHTS[best], gains[best]
