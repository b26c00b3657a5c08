"""How long an exact search takes at the size up to which `choose_spec` leaves it at that, beside the IVF-PQ index.

One thread, synthetic clustered vectors of 384 dimensions. The claim in `choose_spec`: about 10 ms a query.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from mmsearch.types import SearchParams
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.index import VectorIndex, measure_recall
from mmsearch.vectors.spec import EXACT_ELEMENTS, choose_spec
from mmsearch.vectors.store import Block, VectorStore

DIM, QUERIES = 384, 200


def main() -> None:
    """Print the figures."""
    rows = EXACT_ELEMENTS // DIM
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((rows // 50, DIM), dtype=np.float32)
    vectors = centres[rng.integers(0, len(centres), rows)] + 0.7 * rng.standard_normal((rows, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[rng.integers(0, rows, QUERIES)] + 0.02 * rng.standard_normal((QUERIES, DIM), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    store = VectorStore(DIM, [Block(0, vectors.astype(np.float16))])
    exact = VectorIndex(store)
    print(f"exact, {rows:,} × {DIM}       p50 {1000 * p50(exact, queries, None):.1f} ms")
    spec = choose_spec(rows, DIM, "ivfpq")
    started = time.perf_counter()
    ann = AnnIndex.build(spec, store, np.arange(rows))
    built = time.perf_counter() - started
    index = VectorIndex(store, ann=ann, covered=rows, nprobe=spec.nprobe)
    recall = measure_recall(index, queries)
    print(
        f"{spec.factory} nprobe {spec.nprobe}  p50 {1000 * p50(index, queries, SearchParams()):.1f} ms,"
        f" recall@10 {recall:.3f}, built in {built:.0f} s"
    )


def p50(
    index: VectorIndex, queries: np.ndarray[tuple[int, ...], np.dtype[np.float32]], params: SearchParams | None
) -> float:
    """Return the median seconds of single queries, warm."""
    index.search(queries[:1], 10, params=params)
    seconds = []
    for row in range(len(queries)):
        started = time.perf_counter()
        index.search(queries[row : row + 1], 10, params=params)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
