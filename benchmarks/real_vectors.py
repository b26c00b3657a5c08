"""Recall of index kinds on real vectors: all shared pictures and captions, encoded by the compact encoder.

The pictures are indexed into a collection first (about eight minutes), unless the folder of one is named. Queries are
300 stored pictures, each without itself, and 500 captions. Last, lists as large collections have them
(`mmsearch.vectors.coarse`), each row in two, of which fewer are probed.

    python -m benchmarks.real_vectors [COLLECTION]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import SHARDS
from mmsearch.types import IndexSpec, Modality, SearchParams
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.index import VectorIndex, recall_of, without_own
from mmsearch.vectors.store import VectorStore, widen

LISTS = 512
CODES = ("PQ96x4fs", "PQ48x4fs")
PICTURES, CAPTIONS = 300, 500


def main() -> None:
    """Print a line for each kind and setting."""
    from mmsearch.collection.collection import Collection

    if len(sys.argv) > 1:
        with Collection.open(Path(sys.argv[1])) as collection:
            compare(collection.snapshot().store(Modality.IMAGE), collection.snapshot().store(Modality.TEXT))
        return
    import mmsearch

    with tempfile.TemporaryDirectory() as folder:
        mmsearch.index(sorted(SHARDS.glob("*.tar")), collection=Path(folder) / "all")
        with Collection.open(Path(folder) / "all") as collection:
            compare(collection.snapshot().store(Modality.IMAGE), collection.snapshot().store(Modality.TEXT))


def compare(pictures: VectorStore, captions: VectorStore) -> None:
    """Build each index over the pictures, and print what it finds."""
    rng = np.random.default_rng(1)
    own = np.sort(rng.choice(pictures.ids(), PICTURES, replace=False))
    asked = np.sort(rng.choice(captions.ids(), CAPTIONS, replace=False))
    images, texts = widen(pictures.take(own)), widen(captions.take(asked))
    exact = SearchParams(exact=True)
    plain = VectorIndex(pictures)
    true_images = without_own(plain.search(images, 11, params=exact), own)
    true_texts = plain.search(texts, 10, params=exact)
    print(f"{len(pictures):,} pictures, {len(captions):,} captions, {pictures.dim} numbers each")
    half = f"PCAR{pictures.dim // 2},"
    settings = [(64, 100), (64, 400)]
    tried = [(f"{before}IVF{LISTS},{codes}", settings) for codes in CODES for before in ("", half)]
    coarse = f"PQ{pictures.dim // 8}x4fs"
    tried.append((f"{half}IVF{LISTS}({coarse},RFlat),{CODES[-1]}", [(16, 100), (32, 100), (64, 100), (64, 400)]))
    for factory, some in tried:
        ann = AnnIndex.build(IndexSpec(factory, LISTS, 1, 39 * LISTS, ""), pictures, pictures.ids())
        index = VectorIndex(pictures, ann=ann, covered=pictures.end_id)
        for nprobe, candidates in some:
            params = SearchParams(nprobe=nprobe, candidates=candidates, refine_factor=1)
            on_images = recall_of(without_own(index.search(images, 11, params=params), own), true_images)
            on_texts = recall_of(index.search(texts, 10, params=params), true_texts)
            print(
                f"{factory:<40} nprobe {nprobe}, {candidates} candidates: recall@10 {on_images:.3f} image,"
                f" {on_texts:.3f} text",
                flush=True,
            )


if __name__ == "__main__":
    main()
