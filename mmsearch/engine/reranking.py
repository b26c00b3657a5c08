"""SecondLook: the first candidates of a search in a new order, by a reranker that reads picture and text together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.collection.collection import Collection
from mmsearch.collection.states import StateCache
from mmsearch.encoders.views import Views, with_views
from mmsearch.engine.looking import Look, Shown
from mmsearch.engine.query import ImageQuery, TextQuery
from mmsearch.images import largest_side
from mmsearch.rerank.blending import blend
from mmsearch.rerank.multiview import multi_view_similarity
from mmsearch.types import Float32, Hit, Modality, Reranker, RerankerSpec

if TYPE_CHECKING:
    from PIL import Image


_VIEWS_LIMIT = 50_000_000
"""Bytes of the vectors of views that are kept, about a kilobyte a picture."""


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

    def __init__(self, collection: Collection, reranker: Reranker, views: Views | None = None) -> None:
        """Look at the pictures of a collection, and at the best ones in the views of its encoder."""
        self.reranker = reranker
        self._collection = collection
        kept = StateCache(collection.layout.states(reranker.spec.fingerprint))
        self._look = Look(kept, reranker.min_side, reranker.prepare_image, reranker.picture_states)
        self._views: Look | None = None
        if views is not None:
            kept = StateCache(collection.layout.views(views.fingerprint), limit=_VIEWS_LIMIT, half=True)
            self._views = Look(kept, views.min_side, views.prepare, views.sums)

    @property
    def min_side(self) -> int | None:
        """Down to which short side a picture may be decoded for all looks at it; None: not at all."""
        return largest_side(self._look.min_side, *([] if self._views is None else [self._views.min_side]))

    def reorder(self, query: TextQuery | ImageQuery, vector: Float32, hits: Sequence[Hit]) -> Reordered:
        """Return the hits of a query by similarity and matching score: pictures for words, or captions.

        `vector` (dim,) is that of the query. Where the encoder has views, the similarity is that of all of them: of the
        best pictures, or of the picture that captions are asked for.
        """
        if isinstance(query, ImageQuery):
            return self._captions(query.open(self.min_side), vector, hits)
        return self._pictures(query.text, vector, hits)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _pictures(self, text: str, vector: Float32, hits: Sequence[Hit]) -> Reordered:
        contents = self._contents(hits)
        uris: dict[int, list[str]] = {}
        for hit in hits:
            if hit.item.id in contents:
                uris.setdefault(contents[hit.item.id][0], []).append(hit.item.uri)
        shown = {number: Shown(number, content, tuple(uris[number])) for number, content in contents.values()}
        states = self._look(shown[number] for number in uris)
        if not states:
            return Reordered(tuple(hits), tuple(hit.item.uri for hit in hits))
        row_of = {number: row for row, number in enumerate(states)}
        rows = [row_of.get(contents[hit.item.id][0], -1) if hit.item.id in contents else -1 for hit in hits]
        similarity = np.empty(len(states), dtype=np.float32)
        for hit, row in zip(hits, rows, strict=True):
            if row >= 0:
                similarity[row] = hit.similarity
        matched = self.reranker.score([text], np.stack(list(states.values())))
        if self._views is not None:
            numbers, views = list(states), self._views

            def vectors_of(best: Sequence[int]) -> dict[int, Float32]:
                sums = views(shown[numbers[row]] for row in best)
                own = self._vectors(Modality.IMAGE, sums)
                return {row_of[one]: with_views(own[one], sums[one]) for one in own}

            similarity = multi_view_similarity(
                similarity, matched, self.reranker.spec, query=vector, vectors_of=vectors_of
            )
        unseen = tuple(hit.item.uri for hit, row in zip(hits, rows, strict=True) if row < 0)
        return Reordered(reordered(hits, rows, similarity, matched, self.reranker.spec), unseen)

    def _captions(self, picture: Image.Image, vector: Float32, hits: Sequence[Hit]) -> Reordered:
        if not hits:
            return Reordered((), ())
        states = self.reranker.picture_states(self.reranker.prepare_image(picture)[np.newaxis])
        matched = self.reranker.score([hit.item.text or "" for hit in hits], states)
        similarity = np.array([hit.similarity for hit in hits], dtype=np.float32)
        rows = list(range(len(hits)))
        if self._views is not None:
            sums = self._views.read(self._views.prepare(picture)[np.newaxis])
            seen, contents = with_views(vector, sums[0]), self._contents(hits)
            own = self._vectors(Modality.TEXT, [number for number, _ in contents.values()])
            for row, hit in enumerate(hits):
                if hit.item.id in contents and contents[hit.item.id][0] in own:
                    similarity[row] = own[contents[hit.item.id][0]] @ seen
                else:
                    rows[row] = -1  # it is no more: its cosine cannot be compared with the others
        return Reordered(reordered(hits, rows, similarity, matched, self.reranker.spec), ())

    def _contents(self, hits: Sequence[Hit]) -> dict[int, tuple[int, bytes]]:
        return self._collection.catalog.contents_of_items([hit.item.id for hit in hits])

    def _vectors(self, modality: Modality, numbers: Iterable[int]) -> dict[int, Float32]:
        """Return the stored vectors (dim,) by id, of those that are still there."""
        store = self._collection.index(modality)[1].store
        wanted = np.fromiter(numbers, dtype=np.int64)
        try:
            return dict(zip(wanted.tolist(), store.take(wanted).astype(np.float32), strict=True))
        except KeyError:  # one vanished meanwhile
            found: dict[int, Float32] = {}
            for number in wanted:
                with suppress(KeyError):
                    found[int(number)] = store.take(number[np.newaxis])[0].astype(np.float32)
            return found


def reordered(
    hits: Sequence[Hit], rows: Sequence[int], similarity: Float32, matched: Float32, spec: RerankerSpec
) -> tuple[Hit, ...]:
    """Return hits in their new order; those that were not looked at keep their rank.

    `rows` tells for each hit its place in `similarity` and `matched` (c,), −1 for none; copies have the same. Equal
    scores are in order of item id.
    """
    blended = blend(similarity, matched, spec.weight, spec.bound)
    looked_at = [
        replace(hit, similarity=float(similarity[row]), score=float(blended[row]), rerank_score=float(matched[row]))
        for hit, row in zip(hits, rows, strict=True)
        if row >= 0
    ]
    looked_at.sort(key=lambda hit: (-hit.score, hit.item.id))
    rest = iter(looked_at)
    found = [next(rest) if row >= 0 else hit for hit, row in zip(hits, rows, strict=True)]
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate(found, start=1))
