"""AnnIndex: one FAISS IVF index over vector ids; it proposes candidates, it never decides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmsearch.errors import CollectionCorrupt, QueryError
from mmsearch.runtime.threads import BATCH_QUERIES
from mmsearch.types import Float32, IndexSpec, Int64, Mask
from mmsearch.vectors import coarse, gpu
from mmsearch.vectors.backend import require_faiss, search_parameters, use_threads
from mmsearch.vectors.store import VectorStore, widen

MAPPED_BYTES = 64 << 20
"""From this size on the lists of an index file stay on the disk, where its codes allow that (fast scan does not)."""

_ADD_ROWS = 65_536
_ROTATION_ROWS = 131_072
_ONE_BY_ONE = 10
"""FAISS's number for scanning list by list, without preparing blocks of queries (IndexIVFFastScan.h, `implem`)."""


def is_mapped(factory: str, size: int) -> bool:
    """Return whether the lists of an index file of `size` bytes stay on the disk, as those for fast scan never do.

    What codes the centroids does not matter: of `IVF16384(PQ64x4fs,RFlat),PQ64np` they do.
    """
    return size >= MAPPED_BYTES and "x4fs" not in factory.rpartition(",")[2]


class AnnIndex:
    """A trained and filled FAISS IVF index, perhaps behind a rotation (OPQ), whose ids are our vector ids."""

    def __init__(self, index: Any, *, vectors: int) -> None:
        """Take over a FAISS IVF index of that many vectors, perhaps in an IndexPreTransform; see `build` and `load`."""
        faiss = require_faiss()
        self._index = index
        self._vectors = vectors
        self._copies = max(1, index.ntotal // max(1, vectors))  # lists that a vector lies in
        self._ivf = faiss.extract_index_ivf(index)
        self._is_wrapped = isinstance(index, faiss.IndexPreTransform)
        ivf = faiss.downcast_index(self._ivf)
        self._fast_scan = ivf if isinstance(ivf, faiss.IndexIVFFastScan) else None
        self._clone: gpu.GpuClone | None = None
        self._has_cloned = not gpu.count_gpus()  # or tried to: there is nothing to be had without one
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._vectors

    @property
    def nlist(self) -> int:
        """The number of inverted lists."""
        return int(self._ivf.nlist)

    @classmethod
    def build(cls, spec: IndexSpec, store: VectorStore, ids: Int64, *, seed: int = 0) -> AnnIndex:
        """Return an index of the rows `ids` (n,), ascending, trained on `spec.train_size` of them, by a seed.

        Raise QueryError for a factory string that does not fit the width of the rows. Needs memory for the codes and a
        fixed buffer, wherever the rows lie.
        """
        faiss = require_faiss()
        use_threads(faiss, len(ids))
        sample = np.sort(np.random.default_rng(seed).choice(ids, size=min(spec.train_size, len(ids)), replace=False))
        try:
            index = faiss.index_factory(store.dim, spec.factory, faiss.METRIC_INNER_PRODUCT)
            _prepare(faiss, index, seed)
            _train(faiss, index, store, sample, seed)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise QueryError(
                f"FAISS cannot make {spec.factory} for vectors of {store.dim} numbers ({reason[:200]}): choose another"
                " index."
            ) from error
        clone = gpu.clone_of(index)
        with _adding(faiss, index if clone is None else clone) as add:
            for start in range(0, len(ids), _ADD_ROWS):
                part = ids[start : start + _ADD_ROWS]
                add(widen(store.take(part)), part)
        return cls(index if clone is None else clone.to_cpu(), vectors=len(ids))

    def search(self, queries: Float32, n: int, *, nprobe: int, mask: Mask | None = None) -> Int64:
        """Return ids (nq, n), best first by their codes, padded with −1; only ids where `mask` is True."""
        faiss = require_faiss()
        nprobe = min(nprobe, self.nlist)
        if len(queries) >= BATCH_QUERIES and (self._clone is not None or not self._has_cloned):
            share = 1.0 if mask is None else np.count_nonzero(mask) / max(1, len(self))
            if gpu.takes(len(queries), n, nprobe, share) and (clone := self._on_gpu()) is not None:
                return clone.search(queries, n, nprobe=nprobe, mask=mask, share=share)
        use_threads(faiss, len(queries))
        if self._fast_scan is not None:  # of its ways this is a tenth faster for a query by itself; both find the same
            self._fast_scan.implem = _ONE_BY_ONE if len(queries) < BATCH_QUERIES else 0
        parameters, owner = search_parameters(faiss, mask, nprobe=nprobe, behind_transform=self._is_wrapped)
        ids: Int64 = self._index.search(queries, n * self._copies, params=parameters)[1]
        del owner
        return ids if self._copies == 1 else _distinct(ids, n)

    def _on_gpu(self) -> gpu.GpuClone | None:
        """Return the copy on the GPU, made with the first batch; None where it cannot be had."""
        with self._lock:
            if not self._has_cloned:
                self._clone, self._has_cloned = gpu.clone_of(self._index), True
            return self._clone

    def save(self, file: BinaryIO) -> None:
        """Write the index in FAISS's own format."""
        faiss = require_faiss()
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))

    @classmethod
    def load(cls, path: Path, *, dim: int, vectors: int) -> AnnIndex:
        """Return the index in a file, mapped where that is possible and it is large.

        Raise FileNotFoundError, or CollectionCorrupt when it is not an index of `vectors` vectors of that width.
        """
        faiss = require_faiss()
        if not path.is_file():
            raise FileNotFoundError(path)
        try:
            flags = faiss.IO_FLAG_MMAP if path.stat().st_size >= MAPPED_BYTES else 0
            index = faiss.read_index(str(path), flags)
        except RuntimeError as error:
            raise CollectionCorrupt(f"The index file {path} cannot be read: run 'mmsearch build'.") from error
        ivf = faiss.try_extract_index_ivf(index)
        copies = coarse.LISTS_PER_ROW if ivf is not None and coarse.is_two_level(faiss, ivf) else 1
        if ivf is None or index.d != dim or index.ntotal not in (vectors, copies * vectors):
            raise CollectionCorrupt(f"The index file {path} is not of this collection: run 'mmsearch build'.")
        return cls(index, vectors=vectors)


def _distinct(ids: Int64, n: int) -> Int64:
    """Return the first n distinct ids (nq, n) of ids (nq, m), in their order, padded with −1."""
    distinct = np.full((len(ids), n), -1, dtype=np.int64)
    for row, some in zip(distinct, ids, strict=True):
        first = some[np.sort(np.unique(some, return_index=True)[1])]
        first = first[first >= 0][:n]
        row[: len(first)] = first
    return distinct


def _train(faiss: Any, index: Any, store: VectorStore, sample: Int64, seed: int) -> None:
    """Train an index on the rows `sample` (n,), on a GPU where there is one."""
    if not coarse.is_two_level(faiss, index):
        gpu.train_coarse(faiss, faiss.downcast_index(faiss.extract_index_ivf(index)))
        rows = widen(store.take(sample))
        _train_rotation(faiss, index, rows)
        index.train(rows)
        return
    _train_rotation(faiss, index, widen(store.take(sample[:: -(-len(sample) // _ROTATION_ROWS)])))
    coarse.train(faiss, index, store, sample, seed=seed)


def _adding(faiss: Any, index: Any) -> AbstractContextManager[Callable[[Float32, Int64], None]]:
    """Return what gives a function that adds rows (n, dim) with ids (n,) to a trained index or its copy on a GPU."""
    if isinstance(index, gpu.GpuClone):
        return nullcontext(index.add)
    return coarse.adding(faiss, index) if coarse.is_two_level(faiss, index) else nullcontext(index.add_with_ids)


def _train_rotation(faiss: Any, index: Any, rows: Float32) -> None:
    """Train a rotation or a PCA in front of an index on rows (n, dim), so that it keeps inner products as it can.

    FAISS's own PCA subtracts the mean from rows and queries alike. That is right for distances; of an inner product it
    takes away row · mean, which differs from row to row.
    """
    if not isinstance(index, faiss.IndexPreTransform):
        return
    first = faiss.downcast_VectorTransform(index.chain.at(0))
    first.train(rows)
    if isinstance(first, faiss.PCAMatrix):
        faiss.copy_array_to_vector(np.zeros(first.d_out, dtype=np.float32), first.b)


def _prepare(faiss: Any, index: Any, seed: int) -> None:
    """Make training repeatable and quiet."""
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    ivf.cp.seed = seed + 1234
    # With few points per centroid FAISS warns on C's stdout, which is for results; `choose_spec` knows the limits.
    for clustering in (ivf.cp, *([ivf.pq.cp] if hasattr(ivf, "pq") else [])):
        clustering.min_points_per_centroid = 1
