"""SearchEngine: what `mmsearch.open()` returns."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.collection.collection import Collection, CollectionInfo
from mmsearch.collection.encoder import own_encoder, reembed_command
from mmsearch.config import Settings
from mmsearch.encoders import difference
from mmsearch.engine.fusion import merged_by_rank
from mmsearch.engine.masks import Masks
from mmsearch.engine.query import (
    CANDIDATES,
    ImageQuery,
    Query,
    TextQuery,
    VectorQuery,
    check_rerankable,
    check_target,
)
from mmsearch.errors import EncoderMismatch, QueryError
from mmsearch.images import largest_side
from mmsearch.rerank import DEFAULT_RERANKER
from mmsearch.types import (
    Encoder,
    Filter,
    Float32,
    Hit,
    Int64,
    Item,
    Modality,
    Reranker,
    SearchParams,
    SearchResult,
)
from mmsearch.vectors.spec import IndexKind, parse_kind

if TYPE_CHECKING:
    from PIL import Image

    from mmsearch.catalog.rows import ListedItem
    from mmsearch.collection.compaction import Compaction
    from mmsearch.collection.relocation import RelocationReport
    from mmsearch.collection.removal import RemovalReport
    from mmsearch.engine.reranking import SecondLook


class SearchEngine:
    """Searches one collection. The encoder is loaded once, when first needed. Safe to use from several threads."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder | None = None,
        *,
        device: str | None = None,
        reranker: str = DEFAULT_RERANKER,
    ) -> None:
        """Search `collection` with its own encoder on `device`, or with one that has the same fingerprint.

        `reranker` names what looks again where that is asked for; see `mmsearch.rerank`.
        """
        self.collection = collection
        self._device = device
        self._reranker_uri = reranker
        self._second_look: SecondLook | None = None
        self._lock = threading.Lock()
        self._masks = Masks(collection.catalog)
        self._encoder = None if encoder is None else self._checked(encoder)

    @property
    def encoder(self) -> Encoder:
        """The collection's encoder; raise UnknownEncoder, or EncoderMismatch when the one here has other weights."""
        with self._lock:
            if self._encoder is None:
                own = own_encoder(self.collection.layout.root, self.collection.spec, device=self._device)
                self._encoder = self._checked(own)
            return self._encoder

    @property
    def reranker(self) -> Reranker:
        """What looks again; raise UnknownReranker where there is none for the encoder, WeightsUnavailable."""
        return self._reranking().reranker

    def search(
        self,
        text: str | None = None,
        *,
        image: str | os.PathLike[str] | Image.Image | None = None,
        vector: Float32 | None = None,
        target: str = "image",
        k: int = 10,
        min_similarity: float | None = None,
        only: Filter | None = None,
        params: SearchParams | None = None,
        rerank: bool = False,
        candidates: int = CANDIDATES,
    ) -> SearchResult:
        """Return the k best items for a text, a picture (path or Pillow image) or a vector (dim,): exactly one of them.

        `target` is "image", "text", or "any" for both, merged by rank. Hits below `min_similarity`, a cosine (of the
        first stage), are left out; `only` says which items may come back, and k of those do where there are as many.
        The newest commit is searched. With `rerank` the first `candidates` are looked at again: words and pictures (or
        a picture and captions) are read together, which costs more and puts the right one first more often. Raise
        QueryError, UnreadableImage, EncoderMismatch, UnknownReranker, CollectionCorrupt.
        """
        given = [value for value in (text, image, vector) if value is not None]
        if len(given) != 1:
            raise QueryError("A search needs exactly one of text, image and vector.")
        chosen: Query
        if text is not None:
            chosen = TextQuery(text)
        elif image is not None:
            chosen = ImageQuery(Path(image) if isinstance(image, str | os.PathLike) else image)
        else:
            chosen = VectorQuery(np.asarray(vector, dtype=np.float32))
        return self.run(
            chosen,
            target=target,
            k=k,
            min_similarity=min_similarity,
            only=only,
            params=params,
            rerank=rerank,
            candidates=candidates,
        )

    def run(
        self,
        query: Query,
        *,
        target: str = "image",
        k: int = 10,
        min_similarity: float | None = None,
        only: Filter | None = None,
        params: SearchParams | None = None,
        rerank: bool = False,
        candidates: int = CANDIDATES,
    ) -> SearchResult:
        """Return the answers to a query; see `search`."""
        if not rerank:
            (found,) = self.run_batch(
                [query], target=target, k=k, min_similarity=min_similarity, only=only, params=params
            )
            return found
        asked = check_rerankable(query, check_target(target), candidates=candidates)
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}.")
        look = self._reranking()
        if isinstance(asked, ImageQuery):
            asked = replace(asked, image=asked.open(largest_side(self.encoder.min_side, look.min_side)))  # once
        started = time.perf_counter()
        vector, notes = self.encode(asked)
        encoded = time.perf_counter()
        commit, (hits,) = self._found(
            vector[np.newaxis], target, k=max(k, candidates), min_similarity=min_similarity, only=only, params=params
        )
        searched = time.perf_counter()
        seen = look.reorder(asked, vector, hits[:candidates])
        spent = {"encode": encoded - started, "search": searched - encoded, "rerank": time.perf_counter() - searched}
        ordered = (*seen.hits, *hits[candidates:])[:k]
        return SearchResult(ordered, str(query), target, commit, spent, (*notes, *seen.notes))

    def search_batch(
        self,
        queries: Sequence[str] | Float32,
        *,
        target: str = "image",
        k: int = 10,
        min_similarity: float | None = None,
        only: Filter | None = None,
        params: SearchParams | None = None,
    ) -> list[SearchResult]:
        """Return the answers to many texts, or to vectors (nq, dim) of the collection's encoder, in their order.

        All cores search at once, where a single query gets one for its latency. See `search` for the rest.
        """
        asked: list[Query] = [TextQuery(one) if isinstance(one, str) else VectorQuery(one) for one in queries]
        return self.run_batch(asked, target=target, k=k, min_similarity=min_similarity, only=only, params=params)

    def run_batch(
        self,
        queries: Sequence[Query],
        *,
        target: str = "image",
        k: int = 10,
        min_similarity: float | None = None,
        only: Filter | None = None,
        params: SearchParams | None = None,
    ) -> list[SearchResult]:
        """Return the answers to queries of any kind, in their order; see `search_batch`."""
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}.")
        check_target(target)
        if not queries:
            return []
        started = time.perf_counter()
        vectors, notes = self._encode_all(queries)
        encoded = time.perf_counter()
        commit, lists = self._found(vectors, target, k=k, min_similarity=min_similarity, only=only, params=params)
        share = len(queries)
        timings = {"encode": (encoded - started) / share, "search": (time.perf_counter() - encoded) / share}
        return [
            SearchResult(tuple(hits), str(query), target, commit, timings, told)
            for query, hits, told in zip(queries, lists, notes, strict=True)
        ]

    def encode(self, query: Query) -> tuple[Float32, tuple[str, ...]]:
        """Return the unit vector (dim,) of a query, and notes for the user."""
        if isinstance(query, TextQuery):
            return self.encoder.encode_texts([query.text])[0], self.encoder.text_notes(query.text)
        if isinstance(query, ImageQuery):
            picture = query.open(self.encoder.min_side)
            return self.encoder.encode_images(self.encoder.prepare_image(picture)[np.newaxis])[0], ()
        vector = query.vector
        length = float(np.linalg.norm(vector))
        if vector.shape != (self.collection.spec.dim,) or not np.isfinite(length) or length == 0.0:
            raise QueryError(
                f"The query vector must be {self.collection.spec.dim} finite numbers, not all of them zero."
            )
        return (vector / length).astype(np.float32), ()

    def holds(self, target: str) -> bool:
        """Return True when there is anything that a search for that target could find."""
        items = self.collection.catalog.counts().items
        return any(items.values()) if target == "any" else items[Modality(target)] > 0

    def info(self) -> CollectionInfo:
        """Return the numbers of the collection."""
        return self.collection.info()

    def build(self, *, index_kind: IndexKind | None = None, recall: float | None = None) -> list[Modality]:
        """Build the search indexes anew and return for which modalities; small ones need none.

        `index_kind` ("auto", "flat", "ivfpq", "ivfsq8" or a FAISS factory string) and `recall` (of the true ten,
        measured on stored vectors and on text queries) hold from now on. Readers go on with the old ones meanwhile.
        Raise QueryError, CollectionLocked, MissingExtra without FAISS.
        """
        from mmsearch.collection.maintenance import maintain  # a query builds nothing

        if recall is not None and not 0 < recall <= 1:
            raise QueryError(f"The recall must lie between 0 and 1, not be {recall}.")
        kind = None if index_kind is None else parse_kind(index_kind)
        with self.collection.writer() as writer:
            return maintain(
                self.collection, writer, kind=kind, recall=recall, encoder=lambda: self.encoder, rebuild=True
            )

    def compact(self) -> Compaction:
        """Write the collection anew without what was deleted from it; see `mmsearch.collection.compaction`."""
        from mmsearch.collection.compaction import compact
        from mmsearch.collection.maintenance import maintain

        with self.collection.writer() as writer:
            done = compact(self.collection, writer)
            maintain(self.collection, writer, encoder=lambda: self.encoder, purge=True)
            return done

    def items(
        self, modality: Modality = Modality.IMAGE, *, under: str | None = None, with_places: bool = False
    ) -> Iterator[ListedItem]:
        """Yield the items of a modality by path, of those at or below `under`, never all of them in memory.

        `with_places` tells where pictures were taken, too.
        """
        from mmsearch.catalog.listing import listed_items

        return listed_items(self.collection.catalog, modality, under=under, with_places=with_places)

    def remove(self, paths: Sequence[str], *, allow_mass_delete: bool = False) -> RemovalReport:
        """Forget pictures, folders or whole sources, with their captions; see `mmsearch.collection.removal`."""
        from mmsearch.collection.removal import remove

        return remove(self.collection, paths, allow_mass_delete=allow_mass_delete)

    def relocate(self, old: str, new: str, *, missing_ok: bool = False) -> RelocationReport:
        """Rename what was moved on the disk, without embedding it again; see `mmsearch.collection.relocation`."""
        from mmsearch.collection.relocation import relocate

        return relocate(self.collection, old, new, missing_ok=missing_ok)

    def close(self) -> None:
        """Let go of the collection."""
        self.collection.close()

    def __enter__(self) -> SearchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reranking(self) -> SecondLook:
        from mmsearch.encoders.views import views_of
        from mmsearch.engine.reranking import SecondLook  # most queries take one look
        from mmsearch.rerank import load_reranker

        encoder = self.encoder
        with self._lock:
            if self._second_look is None:
                reranker = load_reranker(self._reranker_uri, encoder, device=self._device)
                self._second_look = SecondLook(self.collection, reranker, views_of(encoder))
            return self._second_look

    def _encode_all(self, queries: Sequence[Query]) -> tuple[Float32, list[tuple[str, ...]]]:
        """Return the vectors (nq, dim) of queries and their notes; texts go through the encoder together."""
        texts = [row for row, query in enumerate(queries) if isinstance(query, TextQuery)]
        if len(texts) < 2:
            made = [self.encode(query) for query in queries]
            return np.stack([vector for vector, _ in made]), [notes for _, notes in made]
        vectors = np.empty((len(queries), self.collection.spec.dim), dtype=np.float32)
        notes: list[tuple[str, ...]] = [()] * len(queries)
        vectors[texts] = self.encoder.encode_texts([str(queries[row]) for row in texts])
        for row, query in enumerate(queries):
            if isinstance(query, TextQuery):
                notes[row] = self.encoder.text_notes(query.text)
            else:
                vectors[row], notes[row] = self.encode(query)
        return vectors, notes

    def _found(
        self,
        vectors: Float32,
        target: str,
        *,
        k: int,
        min_similarity: float | None,
        only: Filter | None,
        params: SearchParams | None,
    ) -> tuple[int, list[list[Hit]]]:
        """Return (commit, the k best items for each vector (nq, dim)), of a target merged by rank where it is two."""
        commit = 0
        found: list[list[list[Hit]]] = [[] for _ in vectors]  # of each query, a list for each modality
        for modality in list(Modality) if target == "any" else [Modality(target)]:
            commit, lists = self._nearest(modality, vectors, k, only, params)
            for mine, hits in zip(found, lists, strict=True):
                mine.append([hit for hit in hits if min_similarity is None or hit.similarity >= min_similarity])
        return commit, [merged_by_rank(lists)[:k] for lists in found]

    def _nearest(
        self, modality: Modality, vectors: Float32, k: int, only: Filter | None, params: SearchParams | None
    ) -> tuple[int, list[list[Hit]]]:
        """Return (commit, the k best items for each vector): items of one vector by id.

        A vanished one gives its place to the next.
        """
        commit, index = self.collection.index(modality)
        allowed = None if only is None else self._masks.of(modality, commit, only, end=index.store.end_id)
        wanted = k
        while True:
            found = index.search(vectors, wanted, allowed=allowed, params=params)
            ids = np.unique(found.ids[found.ids >= 0]).tolist()
            items = self.collection.catalog.items_of_vectors(modality, ids, only)
            lists = [_scored(mine, scores, items) for mine, scores in zip(found.ids, found.scores, strict=True)]
            short = [len(hits) < k and bool((mine >= 0).all()) for hits, mine in zip(lists, found.ids, strict=True)]
            if not any(short):
                break
            wanted *= 2
        return commit, [
            [Hit(rank, score, item, score) for rank, (score, item) in enumerate(hits[:k], start=1)] for hits in lists
        ]

    def _checked(self, encoder: Encoder) -> Encoder:
        bound, root = self.collection.spec, self.collection.layout.root
        if encoder.spec.fingerprint != bound.fingerprint:
            raise EncoderMismatch(
                f"The collection {root} {difference(bound, encoder.spec)}: search it with its own encoder, or move it"
                f" to this one with '{reembed_command(root, encoder.spec.uri)}'.",
                bound=bound.uri,
                wanted=encoder.spec.uri,
            )
        return encoder


def _scored(ids: Int64, scores: Float32, items: Mapping[int, Sequence[Item]]) -> list[tuple[float, Item]]:
    """Return the items of vectors with their scores, best first, equal ones by item id."""
    pairs = [
        (score, item)
        for vector_id, score in zip(ids.tolist(), scores.tolist(), strict=True)
        for item in items.get(vector_id, ())
    ]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1].id))


def open_collection(
    collection: str | os.PathLike[str] | None = None, *, device: str | None = None, reranker: str = DEFAULT_RERANKER
) -> SearchEngine:
    """Return a search engine over a collection: a name, a path (with a separator in it), or None for the default.

    `device` is where its encoder runs, as `load_encoder` takes it; it is loaded with the first query. `reranker` names
    what looks again where a search asks for that ("auto": the one that ships for the encoder).
    Raise CollectionNotFound when there is none yet, CollectionCorrupt or UnsupportedFormat when it cannot be read.
    """
    opened = Collection.open(Settings.from_environment().collection_path(collection))
    return SearchEngine(opened, device=device, reranker=reranker)
