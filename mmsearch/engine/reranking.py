"""SecondLook: the first candidates of a search in a new order, by a reranker that reads picture and text together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from mmsearch.collection.collection import Collection
from mmsearch.collection.states import StateCache, pack, unpack
from mmsearch.config import Settings
from mmsearch.corpora.places import open_place
from mmsearch.engine.query import ImageQuery, TextQuery
from mmsearch.errors import ImageError
from mmsearch.images import content_hash, decode
from mmsearch.rerank.blending import blend
from mmsearch.types import Float32, Hit, Reranker, RerankerSpec, UInt8

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Reordered:
    """Hits in their new order, ranks from 1, and the pictures that could not be looked at: they keep their place."""

    hits: tuple[Hit, ...]
    unseen: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentence on pictures that could not be looked at; () when there are none."""
        if not self.unseen:
            return ()
        count = f"{len(self.unseen)} candidates" if len(self.unseen) > 1 else "1 candidate"
        return (
            f"{count} kept the place of the first stage, as the picture is gone or has changed"
            f" (the first: {self.unseen[0]}).",
        )


class SecondLook:
    """A reranker over one collection. What it keeps of pictures lies in the collection's cache."""

    def __init__(self, collection: Collection, reranker: Reranker) -> None:
        self.reranker = reranker
        self._catalog = collection.catalog
        self._cache = StateCache(collection.layout.states(reranker.spec.fingerprint))

    def reorder(self, query: TextQuery | ImageQuery, hits: Sequence[Hit]) -> Reordered:
        """Return the hits of a query by similarity and matching score: pictures for words, or captions."""
        unseen: tuple[str, ...] = ()
        if isinstance(query, TextQuery):
            states, unseen = self.states(hits)
            scores = self._matched([query.text], states)
        else:
            pixels = self.reranker.prepare_image(query.open(self.reranker.min_side))
            matched = self.reranker.score(
                [hit.item.text or "" for hit in hits], self.reranker.picture_states(pixels[np.newaxis])
            )
            scores = dict(enumerate(matched.tolist()))
        return Reordered(reordered(hits, scores, self.reranker.spec), unseen)

    def states(self, hits: Sequence[Hit]) -> tuple[dict[int, Float32], tuple[str, ...]]:
        """Return the states (patches, width) of pictures by their place in `hits`, and the paths of those without."""
        contents = self._catalog.contents_of_items([hit.item.id for hit in hits])
        found: dict[int, Float32] = {}
        missing: list[int] = []
        for place, hit in enumerate(hits):
            kept = self._cache.get(contents[hit.item.id][0]) if hit.item.id in contents else None
            if kept is None:
                missing.append(place)
            else:
                found[place] = kept
        with ThreadPoolExecutor(Settings.from_environment().threads) as pool:
            wanted = [(hits[p].item.uri, contents.get(hits[p].item.id, (0, b""))[1]) for p in missing]
            opened = list(zip(missing, pool.map(lambda one: self._prepare(*one), wanted), strict=True))
        pixels = [(place, one) for place, one in opened if one is not None]
        for start in range(0, len(pixels), _AT_ONCE):
            some = pixels[start : start + _AT_ONCE]
            states = self.reranker.picture_states(np.stack([one for _, one in some]))
            for (place, _), of_one in zip(some, states, strict=True):
                found[place] = unpack(pack(of_one))  # a hit scores the same with and without the cache
                self._cache.put(contents[hits[place].item.id][0], of_one)
        return found, tuple(hits[place].item.uri for place, one in opened if one is None)

    def _prepare(self, place: str, content: bytes) -> UInt8 | None:
        """Return the prepared pixels of a picture, None where it is gone or another than the one that was indexed."""
        try:
            with open_place(place) as file:
                if content_hash(file) != content:
                    return None
                picture, _ = decode(file, place, min_side=self.reranker.min_side)
        except (OSError, ImageError):
            return None
        return self.reranker.prepare_image(picture)

    def _matched(self, texts: list[str], states: dict[int, Float32]) -> dict[int, float]:
        """Return the matching score of a text with pictures, by the keys of `states`."""
        if not states:
            return {}
        scores = self.reranker.score(texts, np.stack(list(states.values())))
        return dict(zip(states, scores.tolist(), strict=True))


def reordered(hits: Sequence[Hit], scores: dict[int, float], spec: RerankerSpec) -> tuple[Hit, ...]:
    """Return hits in their new order; those without a matching score (by their place in `hits`) keep their rank.

    Equal scores are in order of item id.
    """
    similarity = np.array([hits[place].similarity for place in scores], dtype=np.float32)
    blended = blend(similarity, np.array(list(scores.values()), dtype=np.float32), spec.weight, spec.bound).tolist()
    looked_at = [
        replace(hits[place], score=score, rerank_score=matched)
        for score, (place, matched) in zip(blended, scores.items(), strict=True)
    ]
    looked_at.sort(key=lambda hit: (-hit.score, hit.item.id))
    rest = iter(looked_at)
    found = [next(rest) if place in scores else hit for place, hit in enumerate(hits)]
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate(found, start=1))
