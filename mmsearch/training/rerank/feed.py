"""Feed: the steps of a run, each made of groups of pictures that look alike with a text of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmsearch.training.rerank.recipe import MatchRecipe, Pairs
from mmsearch.training.rerank.tokens import TokenSet
from mmsearch.types import Float32, Int64

_NEAR = 3
"""A group is drawn among so many times as many nearest pictures as it has."""

Draw = Callable[[Int64, np.random.Generator], Pairs]
"""Returns pictures by number, with a text of each."""


class Feed:
    """One picture once an epoch. An epoch depends on its number and the seed alone."""

    def __init__(self, rows: Float32, kinds: Int64, draw: Draw, recipe: MatchRecipe) -> None:
        """`rows` (n, dim) are the vectors of the first stage; groups are of one of the `kinds` (n,)."""
        self._rows, self._kinds, self._draw, self._recipe = rows, kinds, draw, recipe

    def steps(self) -> int:
        """Return how many steps an epoch has at least."""
        sizes = np.bincount(self._kinds)
        whole = sum(int(size) // self._recipe.group for size in sizes)
        return max(1, whole // self._recipe.groups)

    def epoch(self, number: int) -> Iterator[tuple[Sequence[Pairs], np.random.Generator]]:
        """Yield what each step learns from, and what it draws with."""
        recipe = self._recipe
        rng = np.random.default_rng((recipe.seed, number))
        groups: list[Int64] = []
        for kind in np.unique(self._kinds):
            some = np.flatnonzero(self._kinds == kind)
            found = look_alikes(self._rows[some], among=recipe.among, group=recipe.group, rng=rng)
            groups.extend(some[group] for group in found)
        order = rng.permutation(len(groups))
        for start in range(0, len(order), recipe.groups):
            chosen = [groups[i] for i in order[start : start + recipe.groups]]
            parts = [chosen[i : i + recipe.at_once] for i in range(0, len(chosen), recipe.at_once)]
            yield [self._draw(np.concatenate(part), rng) for part in parts], rng


def captions_of(tokens: TokenSet) -> Draw:
    """Return what draws a caption of each picture."""
    owners = tokens.embedded.data.owners
    counts = np.bincount(owners, minlength=len(tokens.embedded.images))
    starts = np.cumsum(counts) - counts

    def draw(which: Int64, rng: np.random.Generator) -> Pairs:
        words, mask = tokens.words(starts[which] + rng.integers(0, counts[which]))
        return Pairs(tokens.pictures(which), words, mask)

    return draw


def look_alikes(rows: Float32, *, among: int, group: int, rng: np.random.Generator) -> Iterator[Int64]:
    """Yield groups of `group` pictures that stand near each other among about `among` drawn at random.

    Hard negatives as the first stage finds them in a collection of that size. Rows are unit vectors (n, dim).
    """
    order = rng.permutation(len(rows))
    for part in np.array_split(order, max(1, len(order) // among)):
        nearest = np.argsort(-(rows[part] @ rows[part].T), axis=1, kind="stable")
        left = np.ones(len(part), dtype=np.bool_)
        for first in rng.permutation(len(part)):
            near = [i for i in nearest[first] if left[i] and i != first][: _NEAR * group] if left[first] else []
            if len(near) >= group - 1:
                chosen = np.array([first, *rng.permutation(near)[: group - 1]])
                left[chosen] = False
                yield part[chosen]
