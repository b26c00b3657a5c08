"""Many lists for many vectors: centroids found in two levels, and compared with a query by short codes first.

Finer lists mean fewer rows to look at for the same recall, but comparing a query with a hundred thousand centroids
costs more than it saves. So they are coded with 4 bits for four numbers (FAISS's fast scan), and the best by their
codes are compared exactly (`IndexRefine`). Training is k-means within each cell of a k-means: the number of centroids
that a row is compared with falls to twice its square root. Rows are given to the lists by a tree of both levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mmsearch.types import Float16, Float32, Int64
from mmsearch.vectors.store import VectorStore, widen

K_FACTOR = 2.0
"""So many times the lists probed are compared exactly."""

_ITERATIONS = 10
_CELLS_SEARCHED = 16  # of the first level: for 95 rows of 100 the nearest centroid of all is in one of them
_FIRST_LEVEL_POINTS = 256
_ROWS = 65_536
_CODE_ROWS = 65_536


def is_two_level(faiss: Any, index: Any) -> bool:
    """Return True for an IVF index (perhaps behind a rotation) whose lists are chosen by codes, as above."""
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    return isinstance(faiss.downcast_index(ivf.quantizer), faiss.IndexRefine)


def train(faiss: Any, index: Any, store: VectorStore, sample: Int64, *, seed: int) -> Any:
    """Train an index that is `is_two_level` on the rows `sample` (n,), and return the tree to add rows by.

    What is in front of it, a PCA or a rotation, must be trained. Holds the sample in float16, as wide as the index
    stores it.
    """
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    rows = _transformed(faiss, index, store, sample, ivf.d)
    rng = np.random.default_rng(seed)
    first, cells = _first_level(faiss, rows, ivf.nlist, seed)
    centroids = np.concatenate(list(_second_level(faiss, rows, cells, ivf.nlist, seed)))
    tree = faiss.IndexIVFFlat(first, ivf.d, first.ntotal, faiss.METRIC_INNER_PRODUCT)
    tree.train(centroids)
    tree.add(centroids)
    tree.nprobe = _CELLS_SEARCHED
    tree.make_direct_map()  # 8-bit codes are of what a row differs from its centroid by
    quantizer = faiss.downcast_index(ivf.quantizer)
    quantizer.train(centroids)
    quantizer.add(centroids)
    quantizer.k_factor = K_FACTOR
    some = np.sort(rng.choice(len(rows), min(_CODE_ROWS, len(rows)), replace=False))
    ivf.train(widen(rows[some]))  # the codes alone, for the centroids are there
    index.is_trained = True
    return tree


@contextmanager
def choosing_lists_by(ivf: Any, tree: Any) -> Iterator[None]:
    """Let rows that are added meanwhile go to the lists that `tree` finds for them."""
    own = ivf.quantizer
    ivf.quantizer = tree
    try:
        yield
    finally:
        ivf.quantizer = own


def _transformed(faiss: Any, index: Any, store: VectorStore, sample: Int64, dim: int) -> Float16:
    """Return rows (n, dim) as the IVF index sees them."""
    chain = index.chain if isinstance(index, faiss.IndexPreTransform) else None
    steps = [chain.at(i) for i in range(chain.size())] if chain is not None else []
    rows = np.empty((len(sample), dim), dtype=np.float16)
    for start in range(0, len(sample), _ROWS):
        some = widen(store.take(sample[start : start + _ROWS]))
        for step in steps:
            some = step.apply(some)
        rows[start : start + len(some)] = some
    return rows


def _first_level(faiss: Any, rows: Float16, nlist: int, seed: int) -> tuple[Any, Int64]:
    """Return a flat index of about √nlist centroids, and the cell of each row (n,)."""
    count = 2 ** round(np.log2(nlist) / 2)
    few = np.random.default_rng(seed).permutation(len(rows))[: count * _FIRST_LEVEL_POINTS]
    level = faiss.IndexFlatIP(rows.shape[1])
    level.add(_kmeans(faiss, widen(rows[np.sort(few)]), count, seed))
    cells = [level.search(widen(rows[start : start + _ROWS]), 1)[1][:, 0] for start in range(0, len(rows), _ROWS)]
    return level, np.concatenate(cells)


def _second_level(faiss: Any, rows: Float16, cells: Int64, nlist: int, seed: int) -> Iterator[Float32]:
    """Yield centroids (k, dim) of each cell, nlist in all."""
    sizes = np.bincount(cells)
    order = np.split(np.argsort(cells, kind="stable"), np.cumsum(sizes)[:-1])
    for members, count in zip(order, shared_out(sizes, nlist), strict=True):
        if count:
            yield _kmeans(faiss, widen(rows[members]), int(count), seed)


def shared_out(sizes: Int64, total: int) -> Int64:
    """Return how many of `total` lists each cell gets, by its size (cells,) and never more than it has rows."""
    wanted = sizes * (total / sizes.sum())
    given: Int64 = np.floor(wanted).astype(np.int64)
    for cell in np.argsort(given - wanted, kind="stable")[: total - int(given.sum())]:
        given[cell] += 1
    return given


def _kmeans(faiss: Any, rows: Float32, count: int, seed: int) -> Float32:
    """Return centroids (count, dim), unit vectors, of rows (n, dim)."""
    means = faiss.Kmeans(
        rows.shape[1], count, niter=_ITERATIONS, spherical=True, seed=seed + 1234, min_points_per_centroid=1
    )
    means.train(rows)
    centroids: Float32 = means.centroids
    return centroids
