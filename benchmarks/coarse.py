"""How an IVF index best chooses its lists: a query compared with every centroid, their codes first, or a graph (HNSW).

Clustered rows of 256 numbers stand for centroids. For each number of lists probed: the time of a query on one thread
that compares with all; the share of the nearest that 4-bit codes of them find, twice as many compared exactly (what
`mmsearch.vectors.coarse` does); and what FAISS's graph finds as it is searched by default (efSearch 16) and with
efSearch as large as that number. Then, on all cores, how rows that are added find their two lists: by the codes, 64
compared exactly, or compared with all.

    python -m benchmarks.coarse [CENTROIDS]
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

from benchmarks.clip_like import blocks, queries
from mmsearch.types import Float32, Int64
from mmsearch.vectors.backend import require_faiss
from mmsearch.vectors.coarse import K_FACTOR, K_FACTOR_OF_ROWS, LISTS_PER_ROW

DIM, QUERIES, M = 256, 100, 32
PROBED = (64, 512, 2048)
ADDED = 8192


def main() -> None:
    """Print a line for each number of lists."""
    faiss = require_faiss()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16_384
    rows, added = np.split(np.concatenate(list(blocks(count + ADDED, DIM))), [count])
    asked = queries("text", QUERIES, DIM)
    every = faiss.IndexFlatIP(DIM)
    every.add(rows)
    codes = faiss.index_factory(DIM, f"PQ{DIM // 4}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    codes.train(rows)
    codes.add(rows)
    codes.k_factor = K_FACTOR
    graph = faiss.IndexHNSWFlat(DIM, M, faiss.METRIC_INNER_PRODUCT)
    graph.add(rows)
    faiss.omp_set_num_threads(1)
    for probed in PROBED:
        truth, all_ms = timed(every, asked, probed)
        told = f"{probed:>5} of {count:,} lists: all compared {all_ms:.2f} ms a query"
        found, codes_ms = timed(codes, asked, probed)
        told += f"; codes first: {shared(truth, found):.3f} of the nearest, {codes_ms:.2f} ms"
        for effort in (16, probed):
            graph.hnsw.efSearch = effort
            found, graph_ms = timed(graph, asked, probed)
            told += f"; graph, efSearch {effort}: {shared(truth, found):.2f}, {graph_ms:.2f} ms"
        print(told, flush=True)
    print_adding(faiss, every, codes, added)


def print_adding(faiss: Any, every: Any, codes: Any, added: Float32) -> None:
    """Print how many of the lists nearest to a row are found by their codes, and in which share of the time."""
    codes.k_factor = K_FACTOR_OF_ROWS
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    found, seconds = [], []
    for index in (every, codes):
        started = time.perf_counter()
        found.append(index.search(added, LISTS_PER_ROW)[1])
        seconds.append(time.perf_counter() - started)
    share, ratio = shared(*found), seconds[1] / seconds[0]
    found_share = f"{share:.3f} of the nearest {LISTS_PER_ROW} lists"
    print(f"added by codes: {found_share}, in {ratio:.2f} of the time of comparing all")


def shared(truth: Int64, found: Int64) -> float:
    """Return the share of the true lists (nq, n) that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(truth, found, strict=True)]))


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
