"""How many threads each engine gets; see the table in `mmsearch.runtime`."""

from __future__ import annotations

from types import ModuleType

BATCH_QUERIES = 16
"""From this many queries on a search is a batch: throughput counts, not latency."""


def set_faiss_threads(faiss: ModuleType, n_queries: int, *, threads: int) -> None:
    """Give FAISS one thread for a few queries, all of ours for a batch or for building an index."""
    faiss.omp_set_num_threads(threads if n_queries >= BATCH_QUERIES else 1)


def set_torch_threads(torch: ModuleType, *, threads: int) -> None:
    """Give the runs of the calling thread on the CPU so many threads.

    Set anew each time: OpenMP keeps the number for each calling thread, MKL for the process.
    """
    torch.set_num_threads(threads)
