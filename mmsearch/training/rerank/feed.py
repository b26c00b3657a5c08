"""Feed: the steps of a run, each made of groups of pictures that look alike with a text of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmsearch.training.rerank.recipe import MatchRecipe, Pairs
from mmsearch.training.rerank.tokens import TokenSet
from mmsearch.types import Float32, Int64, Mask

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
        """Return how many steps an epoch has at most; what makes no whole one more is left for another epoch."""
        sizes = np.bincount(self._kinds)
        whole = sum(int(size) // self._recipe.group for size in sizes)
        return max(1, whole // self._recipe.groups)

    def epoch(self, number: int) -> Iterator[tuple[Sequence[Pairs], np.random.Generator]]:
        """Yield what each step learns from, and what it draws with. The next one is read meanwhile."""
        recipe = self._recipe
        seed = (recipe.seed, number)
        rng = np.random.default_rng(seed)
        groups: list[Int64] = []
        for kind in np.unique(self._kinds):
            some = np.flatnonzero(self._kinds == kind)
            found = look_alikes(self._rows[some], among=recipe.among, group=recipe.group, rng=rng)
            groups.extend(some[group] for group in found)
        order = rng.permutation(len(groups))
        steps = [
            ([groups[i] for i in order[start : start + recipe.groups]], np.random.default_rng((*seed, start)))
            for start in range(0, min(len(order), self.steps() * recipe.groups), recipe.groups)
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="mmsearch-draw") as pool:
            ahead = [pool.submit(self._drawn, *step) for step in steps[:1]]
            for number, (_, drawn) in enumerate(steps):
                parts = ahead.pop().result()
                ahead = [pool.submit(self._drawn, *step) for step in steps[number + 1 : number + 2]]
                yield parts, drawn

    def _drawn(self, groups: Sequence[Int64], rng: np.random.Generator) -> list[Pairs]:
        """Return what a step learns from, by parts of `at_once` groups."""
        size = self._recipe.at_once
        return [self._draw(np.concatenate(groups[i : i + size]), rng) for i in range(0, len(groups), size)]


class Said:
    """What is said of pictures: a text that is said of two of them is no negative for either."""

    def __init__(self, texts: Sequence[str], owners: Int64, pictures: int) -> None:
        """`owners` (texts,) are the pictures of the texts."""
        plain = [" ".join(text.casefold().split()).rstrip(" .") for text in texts]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(plain))}
        self._numbers = [numbers[text] for text in plain]
        self._of: list[set[int]] = [set() for _ in range(pictures)]
        for number, owner in zip(self._numbers, owners.tolist(), strict=True):
            self._of[owner].add(number)

    def also(self, pictures: Int64, texts: Int64) -> Mask:
        """Return where text i (n,) is said of picture j (n,) as well, i ≠ j, (n, n)."""
        shown = [self._of[picture] for picture in pictures.tolist()]
        found = np.array([[self._numbers[text] in some for some in shown] for text in texts.tolist()], dtype=np.bool_)
        np.fill_diagonal(found, False)
        return found


def captions_of(tokens: TokenSet) -> Draw:
    """Return what draws a caption of each picture."""
    data = tokens.embedded.data
    owners, said = data.owners, Said(data.captions, data.owners, len(tokens.embedded.images))
    counts = np.bincount(owners, minlength=len(tokens.embedded.images))
    starts = np.cumsum(counts) - counts

    def draw(which: Int64, rng: np.random.Generator) -> Pairs:
        captions = starts[which] + rng.integers(0, counts[which])
        return Pairs(tokens.pictures(which), *tokens.words(captions), said.also(which, captions))

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
