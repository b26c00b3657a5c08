"""What a mask costs: a million CLIP-like vectors, of which half, 5 %, 0.5 % or 0.01 % may come back.

Recall@10 against exact search under the same mask, and p50 of single queries on one thread with the mask given. Bars:
recall ≥ 0.95, at most three times as long as without a mask or 10 ms.

    python -m benchmarks.masks [ROWS]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.clip_like import queries
from benchmarks.common import verdict
from benchmarks.million import DIM, KINDS, K, store, write_vectors
from mmsearch.types import Float32, Mask, SearchParams
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.spec import choose_spec
from mmsearch.vectors.tuning import QuerySet, tune

SHARES = (0.5, 0.05, 0.005, 0.0001)
QUERIES = 200


def main() -> None:
    """Print the figures."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("MMSEARCH_BENCH_DIR")) as folder:
        write_vectors(Path(folder), rows)
        vectors = store(Path(folder))
        ids = vectors.ids()
        spec = choose_spec(rows, DIM, "ivfpq")
        ann = AnnIndex.build(spec, vectors, ids)
        sets = {kind: QuerySet(queries(kind, 600, DIM)[300:]) for kind in KINDS}
        built = VectorIndex(vectors, ann=ann, covered=rows)
        tuned = tune(built, sets, nlist=ann.nlist, nprobe=spec.nprobe, target=0.95)
        index = VectorIndex(vectors, ann=ann, covered=rows, nprobe=tuned.nprobe, candidates=tuned.candidates)
        asked = {kind: queries(kind, QUERIES, DIM) for kind in KINDS}
        plain = {kind: measured(index, some, None)[1] for kind, some in asked.items()}
        print(
            f"{spec.factory}, nprobe {tuned.nprobe}; without a mask p50 {plain['image']:.2f} / {plain['text']:.2f} ms"
        )
        for share in SHARES:
            mask = np.random.default_rng(1).random(rows) < share
            for kind, some in asked.items():
                recall, p50 = measured(index, some, mask)
                good = recall >= 0.95 and p50 <= max(3 * plain[kind], 10.0)
                told = f"{share:7.2%} of the vectors, {kind:<5} queries: recall@10 {recall:.3f}, p50 {p50:.2f} ms"
                print(f"{told} {verdict(good)}")


def measured(index: VectorIndex, asked: Float32, mask: Mask | None) -> tuple[float, float]:
    """Return recall@10 and the p50 in milliseconds under a mask."""
    truth = index.search(asked, K, allowed=mask, params=SearchParams(exact=True))
    seconds, hits = [], 0
    for row, true in zip(asked, truth.ids, strict=True):
        started = time.perf_counter()
        found = index.search(row[np.newaxis], K, allowed=mask)
        seconds.append(time.perf_counter() - started)
        hits += len(np.intersect1d(found.ids[0][found.ids[0] >= 0], true[true >= 0]))
    return hits / max(1, int((truth.ids >= 0).sum())), 1000 * float(np.median(seconds))


if __name__ == "__main__":
    main()
