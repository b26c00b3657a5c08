"""Where the pictures of like captions are, and texts to learn that from: what needs no torch of refine.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .common import Floats, Pieces, Sample, unit
from .phrases import phrases

MASK, FIRST_WORD = 103, 999  # word piece [MASK]; those up to FIRST_WORD are special or single characters
LEAST, MOST = 0.1, 0.5  # of the words of a text, in one that has fewer


class Bank(NamedTuple):
    """Captions and their pictures, unit rows (m, dim) of both, and the numbers (m,) of the pictures."""

    texts: Floats
    pictures: Floats
    owner: NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """How many captions a text is compared with, the temperature of their cosines, what their pictures count for."""

    count: int = 100
    temperature: float = 0.05
    share: float = 0.25


def refined(rows: Floats, bank: Bank, how: Nearest, owner: NDArray[np.int64] | None = None) -> Floats:
    """Return unit rows (n, dim) of texts, moved towards the pictures of the captions of the bank nearest to them.

    Captions of the picture `owner` (n,) are left out for each, where it is given.
    """
    moved = np.empty_like(rows)
    nearest = min(how.count, len(bank.texts) - 1)
    for start in range(0, len(rows), 500):
        part = slice(start, start + 500)
        near = rows[part] @ bank.texts.T
        if owner is not None:
            near[owner[part, np.newaxis] == bank.owner] = -np.inf
        first = np.argpartition(-near, nearest, axis=1)[:, :nearest]
        some = np.take_along_axis(near, first, axis=1)
        weights = np.exp((some - some.max(axis=1, keepdims=True)) / how.temperature)
        weights /= weights.sum(axis=1, keepdims=True)
        moved[part] = np.einsum("nk,nkd->nd", weights, bank.pictures[first])
    return unit(rows + np.float32(how.share) * unit(moved))


def without_some(texts: Sequence[Pieces], rng: np.random.Generator, *, masked: bool) -> list[Pieces]:
    """Return texts of which a random share of the words, LEAST to MOST, is masked, or left out."""
    found = []
    for pieces in texts:
        share = rng.uniform(LEAST, MOST)
        chosen = (rng.random(len(pieces)) < share) & (pieces > FIRST_WORD)
        found.append(np.where(chosen, MASK, pieces) if masked else pieces[~chosen])
    return found


def captions_of(samples: Sequence[Sample]) -> tuple[list[str], NDArray[np.int64]]:
    """Return all captions of pictures, and the number of the picture of each."""
    counts = [len(sample.captions) for sample in samples]
    return [caption for sample in samples for caption in sample.captions], np.repeat(np.arange(len(samples)), counts)


def phrases_of(captions: Sequence[str], owner: NDArray[np.int64], seed: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return every phrase of captions once, and the number of one of its pictures, drawn at random."""
    owners: dict[str, list[int]] = {}
    for caption, number in zip(captions, owner.tolist(), strict=True):
        for phrase in phrases(caption):
            owners.setdefault(phrase, []).append(number)
    rng = np.random.default_rng(seed)
    said = sorted(owners)
    return said, np.array([rng.choice(owners[phrase]) for phrase in said], np.int64)
