"""Draw: the batches of contrastive learning, and which of their pairs are no negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.types import Int64, Mask


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures (n,) and a caption of each (n,); `no_negatives` (n, n) is True where caption j fits picture i, i ≠ j."""

    pictures: Int64
    captions: Int64
    no_negatives: Mask


class Draw:
    """One caption of each picture in every epoch: a picture's own captions, or equal ones, never stand against it."""

    def __init__(self, captions: Sequence[str], owners: Int64, pictures: int, *, seed: int) -> None:
        """`owners` (captions,) ascend, and every picture has a caption."""
        self._rng = np.random.default_rng((seed, 1))
        self._counts = np.bincount(owners, minlength=pictures)
        self._starts = np.cumsum(self._counts) - self._counts
        words = [" ".join(caption.casefold().split()).rstrip(" .") for caption in captions]
        self._texts = np.unique(words, return_inverse=True)[1].astype(np.int64)
        self._shared = self._shared_texts(owners, pictures)

    def epoch(self, batches: int) -> Iterator[Batch]:
        """Yield every picture once, in so many batches of equal size."""
        for pictures in np.array_split(self._rng.permutation(len(self._counts)), batches):
            captions = self._starts[pictures] + self._rng.integers(0, self._counts[pictures])
            texts = self._texts[captions]
            equal = texts[:, None] == texts
            for column in self._shared[pictures].T:  # what else is said of the pictures
                equal |= column[:, None] == texts
            np.fill_diagonal(equal, False)
            yield Batch(pictures, captions, equal)

    def _shared_texts(self, owners: Int64, pictures: int) -> Int64:
        """Return the texts (pictures, most) of each picture that are said of others too, padded with −1."""
        said = np.unique(np.stack([owners, self._texts], axis=1), axis=0)
        often = np.bincount(said[:, 1])[said[:, 1]] > 1
        owner, text = said[often].T
        counts = np.bincount(owner, minlength=pictures)
        table = np.full((pictures, int(counts.max(initial=0))), -1, dtype=np.int64)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        table[owner, place] = text
        return table
