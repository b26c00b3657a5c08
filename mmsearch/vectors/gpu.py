"""FAISS on a GPU: training, adding and unfiltered search of the indexes that a GPU takes; files stay CPU indexes.

What FAISS's documentation tells of its limits (https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU): IVF-PQ
of 8 bits only, of certain code lengths, those from 56 bytes on with float16 tables; k and nprobe up to 2,048; no
selectors; no adding beside a search; 1.5 GB of scratch memory for each `StandardGpuResources`. This is the one home of
all of it, and it has not been run on hardware by us (tests run the same calls with CPU indexes in place of the clones).
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from mmsearch.runtime.threads import BATCH_QUERIES
from mmsearch.types import Float32, Int64, Mask
from mmsearch.vectors.backend import find_faiss

_log = logging.getLogger(__name__)

CODES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Code lengths in bytes that the GPU's IVF-PQ takes."""

FLOAT16_TABLES_FROM = 56
MOST = 2048
"""The most results and lists probed of one search."""


def count_gpus() -> int:
    """Return how many GPUs FAISS sees; 0 without FAISS or with faiss-cpu."""
    faiss = find_faiss()
    return int(faiss.get_num_gpus()) if faiss is not None and hasattr(faiss, "StandardGpuResources") else 0


def train_coarse(faiss: Any, ivf: Any) -> None:
    """Have the centroids of an IVF index found on all GPUs, where FAISS sees any: most of the time of a build.

    `clustering_index` only compares points with centroids while training; the index itself stays on the CPU.
    """
    if count_gpus():
        ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))


def fits(faiss: Any, index: Any) -> bool:
    """Return True for an index that a GPU takes: IVF-PQ of 8-bit codes of one of its lengths, behind no rotation.

    Its lists must be chosen by comparing with every centroid.
    """
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexIVFPQ):
        return False
    if not isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat):
        return False
    return index.pq.nbits == 8 and index.code_size in CODES


def takes(n_queries: int, n: int, nprobe: int, share: float) -> bool:
    """Return True for a search within the limits and worth the way to the GPU; `share` of the rows may come back."""
    return n_queries >= BATCH_QUERIES and max(nprobe, _wanted(n, share)) <= MOST


def clone_of(index: Any) -> GpuClone | None:
    """Return a copy of a trained CPU index on a GPU; None where there is no GPU, or this does not fit on it."""
    faiss = find_faiss()
    if faiss is None or not count_gpus() or not fits(faiss, index):
        return None
    try:
        return GpuClone(faiss, index)
    except RuntimeError as error:
        _log.warning("The index does not fit on the GPU (%s): the CPU does the work.", str(error)[:200])
        return None


class GpuClone:
    """A trained index on a GPU: rows are added there in batches, queries searched without a selector."""

    def __init__(self, faiss: Any, index: Any) -> None:
        """Copy a CPU index that `fits`; the copy holds what it holds. See `clone_of`."""
        options = faiss.GpuClonerOptions()
        options.useFloat16 = faiss.downcast_index(index).code_size >= FLOAT16_TABLES_FROM
        self._resources = faiss.StandardGpuResources()
        self._faiss = faiss
        self._index = faiss.index_cpu_to_gpu(self._resources, 0, index, options)
        self._lock = threading.Lock()

    def add(self, rows: Float32, ids: Int64) -> None:
        """Add rows (n, dim) under their ids (n,)."""
        with self._lock:
            self._index.add_with_ids(rows, ids)

    def to_cpu(self) -> Any:
        """Return a CPU index of all that was added, to be saved and searched anywhere."""
        with self._lock:
            return self._faiss.index_gpu_to_cpu(self._index)

    def search(self, queries: Float32, n: int, *, nprobe: int, mask: Mask | None, share: float) -> Int64:
        """Return ids (nq, n), best first by their codes, padded with −1; only ids where `mask` is True.

        A GPU knows no selectors: more are fetched, by the share of the rows that may come back, and ours is applied to
        them. What is then missing the caller finds by an exact search.
        """
        wanted = _wanted(n, share)
        with self._lock:  # nprobe is the index's, not the search's
            self._index.nprobe = nprobe
            found: Int64 = self._index.search(queries, wanted)[1]
        if mask is None:
            return found[:, :n]
        return allowed_first(found, mask)[:, :n]


def allowed_first(found: Int64, mask: Mask) -> Int64:
    """Return ids (nq, n) with those that a mask lets through first, in their order, and −1 for the others."""
    inside = (found >= 0) & (found < len(mask))
    good = inside & mask[np.where(inside, found, 0)]
    order = np.argsort(~good, axis=1, kind="stable")
    return np.where(np.take_along_axis(good, order, axis=1), np.take_along_axis(found, order, axis=1), -1)


def _wanted(n: int, share: float) -> int:
    """Return how many to fetch so that n of them may come back, and some more for the odds."""
    return n if share >= 1.0 else int(n / max(share, 1e-9) * 1.5) + 16
