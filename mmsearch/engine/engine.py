"""SearchEngine: what `mmsearch.open()` returns."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.collection.collection import Collection, CollectionInfo
from mmsearch.config import Settings
from mmsearch.corpora.places import open_place
from mmsearch.encoders import load_encoder
from mmsearch.engine.fusion import reciprocal_rank_fusion
from mmsearch.engine.query import ImageQuery, Query, TextQuery, VectorQuery, check_target
from mmsearch.errors import EncoderMismatch, QueryError
from mmsearch.images import decode, to_rgb
from mmsearch.types import Encoder, Float32, Hit, Modality, SearchParams, SearchResult

if TYPE_CHECKING:
    from PIL import Image


class SearchEngine:
    """Searches one collection. The encoder is loaded once, when first needed. Safe to use from several threads."""

    def __init__(self, collection: Collection, encoder: Encoder | None = None, *, device: str | None = None) -> None:
        """Search `collection` with its own encoder on `device`, or with one that has the same fingerprint."""
        self.collection = collection
        self._device = device
        self._lock = threading.Lock()
        self._encoder = None if encoder is None else self._checked(encoder)

    @property
    def encoder(self) -> Encoder:
        """The collection's encoder; raise EncoderMismatch when the one installed has other weights."""
        with self._lock:
            if self._encoder is None:
                self._encoder = self._checked(load_encoder(self.collection.spec.uri, device=self._device))
            return self._encoder

    def search(
        self,
        text: str | None = None,
        *,
        image: str | os.PathLike[str] | Image.Image | None = None,
        vector: Float32 | None = None,
        target: str = "image",
        k: int = 10,
        min_similarity: float | None = None,
        params: SearchParams | None = None,
    ) -> SearchResult:
        """Return the k best items for a text, a picture (path or Pillow image) or a vector (dim,): exactly one of them.

        `target` is "image", "text", or "any" for both, merged by rank. Hits below `min_similarity`, a cosine, are left
        out. The newest commit is searched. Raise QueryError, UnreadableImage, EncoderMismatch, CollectionCorrupt.
        """
        given = [value for value in (text, image, vector) if value is not None]
        if len(given) != 1:
            raise QueryError("A search needs exactly one of text, image and vector.")
        if text is not None:
            return self.run(TextQuery(text), target=target, k=k, min_similarity=min_similarity, params=params)
        query = (
            ImageQuery(Path(image) if isinstance(image, str | os.PathLike) else image) if image is not None else None
        )
        chosen: Query = query or VectorQuery(np.asarray(vector, dtype=np.float32))
        return self.run(chosen, target=target, k=k, min_similarity=min_similarity, params=params)

    def run(
        self,
        query: Query,
        *,
        target: str = "image",
        k: int = 10,
        min_similarity: float | None = None,
        params: SearchParams | None = None,
    ) -> SearchResult:
        """Return the answers to a query; see `search`."""
        if k < 1:
            raise QueryError(f"k must be at least 1, not {k}.")
        modalities = list(Modality) if check_target(target) == "any" else [Modality(target)]
        started = time.perf_counter()
        vector, notes = self.encode(query)
        encoded = time.perf_counter()
        commit = 0
        lists = []
        for modality in modalities:
            commit, hits = self._nearest(modality, vector, k, params)
            lists.append([hit for hit in hits if min_similarity is None or hit.similarity >= min_similarity])
        merged = lists[0]
        if len(lists) > 1:
            fused = reciprocal_rank_fusion(lists)
            merged = [replace(hit, rank=rank, score=score) for rank, (score, hit) in enumerate(fused, start=1)]
        done = time.perf_counter()
        timings = {"encode": encoded - started, "search": done - encoded}
        return SearchResult(tuple(merged[:k]), str(query), target, commit, timings, notes)

    def encode(self, query: Query) -> tuple[Float32, tuple[str, ...]]:
        """Return the unit vector (dim,) of a query, and notes for the user."""
        if isinstance(query, TextQuery):
            return self.encoder.encode_texts([query.text])[0], self.encoder.text_notes(query.text)
        if isinstance(query, ImageQuery):
            image = query.image
            min_side = self.encoder.min_side
            picture = _open_query(image, min_side, query.max_pixels) if isinstance(image, Path) else to_rgb(image)
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

    def close(self) -> None:
        """Let go of the collection."""
        self.collection.close()

    def __enter__(self) -> SearchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nearest(
        self, modality: Modality, vector: Float32, k: int, params: SearchParams | None
    ) -> tuple[int, list[Hit]]:
        """Return (commit, the k best items): items of one vector by id; a vanished one gives its place to the next."""
        commit, index = self.collection.index(modality)
        wanted = k
        while True:
            found = index.search(vector[np.newaxis], wanted, params=params)
            ids = [int(vector_id) for vector_id in found.ids[0] if vector_id >= 0]
            items = self.collection.catalog.items_of_vectors(modality, ids)
            scored = [
                (float(score), item)
                for vector_id, score in zip(ids, found.scores[0], strict=False)
                for item in items.get(vector_id, ())
            ]
            if len(scored) >= k or len(ids) < wanted:
                break
            wanted *= 2
        scored.sort(key=lambda pair: (-pair[0], pair[1].id))
        return commit, [Hit(rank, score, item, score) for rank, (score, item) in enumerate(scored[:k], start=1)]

    def _checked(self, encoder: Encoder) -> Encoder:
        bound = self.collection.spec
        if encoder.spec.fingerprint != bound.fingerprint:
            raise EncoderMismatch(
                f"The collection {self.collection.layout.root} was made with {bound.uri} of other weights than those of"
                f" {encoder.spec.uri} here: index its pictures again into a new collection.",
                bound=bound.uri,
                wanted=encoder.spec.uri,
            )
        return encoder


def open_collection(collection: str | os.PathLike[str] | None = None, *, device: str | None = None) -> SearchEngine:
    """Return a search engine over a collection: a name, a path (with a separator in it), or None for the default.

    `device` is where its encoder runs, as `load_encoder` takes it; it is loaded with the first query.
    Raise CollectionNotFound when there is none yet, CollectionCorrupt or UnsupportedFormat when it cannot be read.
    """
    return SearchEngine(Collection.open(Settings.from_environment().collection_path(collection)), device=device)


def _open_query(path: Path, min_side: int | None, max_pixels: int) -> Image.Image:
    try:
        with open_place(str(path)) as file:
            return decode(file, str(path), min_side=min_side, max_pixels=max_pixels)[0]
    except OSError as error:
        raise QueryError(f"The picture {path} cannot be read: {error.strerror}.") from error
