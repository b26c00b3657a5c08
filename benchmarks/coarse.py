"""How an IVF index best chooses its lists: a query compared with every centroid, or FAISS's graph over them (HNSW).

Clustered rows of 256 numbers stand for centroids. For each number of lists probed: the share of the nearest that
the graph returns, as FAISS searches it by default (efSearch 16) and with efSearch as large as that number, and the
time of a query on one thread beside that of comparing with all.

    python -m benchmarks.coarse [CENTROIDS]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from benchmarks.clip_like import blocks, queries
from mmsearch.types import Float32, Int64
from mmsearch.vectors.backend import require_faiss

DIM, QUERIES, M = 256, 100, 32
PROBED = (64, 512, 2048)


def main() -> None:
    """Print a line for each number of lists."""
    faiss = require_faiss()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16_384
    rows = np.concatenate(list(blocks(count, DIM)))
    asked = queries("text", QUERIES, DIM)
    every = faiss.IndexFlatIP(DIM)
    every.add(rows)
    graph = faiss.IndexHNSWFlat(DIM, M, faiss.METRIC_INNER_PRODUCT)
    graph.add(rows)
    faiss.omp_set_num_threads(1)
    for probed in PROBED:
        truth, all_ms = timed(every, asked, probed)
        told = f"{probed:>5} of {count:,} lists: all compared {all_ms:.2f} ms a query"
        for effort in (16, probed):
            graph.hnsw.efSearch = effort
            found, graph_ms = timed(graph, asked, probed)
            share = np.mean([len(np.intersect1d(a, b)) / probed for a, b in zip(truth, found, strict=True)])
            told += f"; graph, efSearch {effort}: {share:.2f} of the nearest, {graph_ms:.2f} ms"
        print(told, flush=True)


def timed(coarse: Any, asked: Float32, probed: int) -> tuple[Int64, float]:
    """Return the lists (nq, probed) that queries (nq, dim), one at a time, are answered with, and the p50 in ms."""
    found, seconds = [], []
    for query in asked:
        started = time.perf_counter()
        found.append(coarse.search(query[np.newaxis], probed)[1][0])
        seconds.append(time.perf_counter() - started)
    return np.stack(found), 1e3 * float(np.median(seconds))


if __name__ == "__main__":
    main()
