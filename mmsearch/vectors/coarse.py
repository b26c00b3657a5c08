"""Many lists for many vectors: centroids found in two levels, and compared with a query by short codes first.

Finer lists mean fewer rows to look at for the same recall, but comparing a query with a hundred thousand centroids
costs more than it saves. So they are coded with 4 bits for four numbers (FAISS's fast scan), and the best by their
codes are compared exactly (`IndexRefine`). Training is k-means within each cell of a k-means: the number of centroids
that a row is compared with falls to twice its square root. Rows find their lists by the codes as well, more of them
compared exactly. `benchmarks.coarse` prints what both cost, and how many of the nearest they find.

Each row lies in the two lists nearest to it. A query whose answer lies near the border of a list then finds it in
either, and a third to a quarter of the lists are enough for the same recall, each twice as long. `benchmarks.spilling`
compares that with one list, three, and two as SOAR chooses them (Sun et al. 2023, arXiv 2404.00774).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any

import numpy as np

from mmsearch.types import Float16, Float32, Int64
from mmsearch.vectors.store import VectorStore, widen

K_FACTOR = 2.0
"""So many times the lists probed are compared exactly."""

LISTS_PER_ROW = 2
"""In so many lists, the nearest, a row lies."""

K_FACTOR_OF_ROWS = 32.0
"""So many times these lists are compared exactly with a row that is added."""

_ITERATIONS = 10
_FIRST_LEVEL_POINTS = 256
_ROWS = 65_536
_CODE_ROWS = 65_536
_PACKED = 2**18
"""About so many codes get into lists at a time: a few ten megabytes."""


def is_two_level(faiss: Any, index: Any) -> bool:
    """Return True for an IVF index (perhaps behind a rotation) whose lists are chosen by codes, as above."""
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    return isinstance(faiss.downcast_index(ivf.quantizer), faiss.IndexRefine)


def train(faiss: Any, index: Any, store: VectorStore, sample: Int64, *, seed: int) -> None:
    """Train an index that is `is_two_level` on the rows `sample` (n,).

    What is in front of it, a PCA or a rotation, must be trained. The sample lies in a temporary file meanwhile, in
    float16 and as wide as the index sees it.
    """
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    with TemporaryFile() as file:
        rows = _transformed(faiss, index, store, sample, ivf.d, file)
        cells = _first_level(faiss, rows, ivf.nlist, seed)
        centroids = np.concatenate(list(_second_level(faiss, rows, cells, ivf.nlist, seed)))
        some = np.random.default_rng(seed).choice(len(rows), min(_CODE_ROWS, len(rows)), replace=False)
        few = widen(rows[np.sort(some)])
        del rows
    quantizer = faiss.downcast_index(ivf.quantizer)
    faiss.downcast_index(quantizer.base_index).pq.cp.min_points_per_centroid = 1  # else it warns of a few lists
    quantizer.train(centroids)
    quantizer.add(centroids)
    quantizer.k_factor = K_FACTOR
    ivf.train(few)  # the codes alone, for the centroids are there
    index.is_trained = True


@contextmanager
def adding(faiss: Any, index: Any) -> Iterator[Callable[[Float32, Int64], None]]:
    """Give what adds rows (n, dim) with ids (n,) to an index that `is_two_level`, each to `LISTS_PER_ROW` lists.

    Lists for fast scan take no rows for a list that we name: their codes lie in a temporary file meanwhile, and get
    into the lists at the end, `_PACKED` at a time.
    """
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    quantizer = faiss.downcast_index(ivf.quantizer)
    pointer = faiss.swig_ptr
    with TemporaryFile() as file:
        entries = _Entries(faiss, ivf, file) if isinstance(ivf, faiss.IndexIVFPQFastScan) else None

        def add(rows: Float32, ids: Int64) -> None:
            for step in _steps(faiss, index):
                rows = step.apply(rows)
            nearest = quantizer.search(rows, min(LISTS_PER_ROW, ivf.nlist))[1]
            for lists in np.ascontiguousarray(nearest.T):
                if entries is None:
                    ivf.add_core(len(rows), pointer(rows), pointer(ids), pointer(lists))
                else:
                    entries.add(rows, ids, lists)

        quantizer.k_factor = K_FACTOR_OF_ROWS
        try:
            yield add
        finally:
            quantizer.k_factor = K_FACTOR
        if entries is not None:
            entries.pack()
    index.ntotal = ivf.ntotal


class _Entries:
    """Codes for the lists of an IndexIVFPQFastScan, in a file until all are known."""

    def __init__(self, faiss: Any, ivf: Any, file: IO[bytes]) -> None:
        self._faiss, self._ivf, self._file = faiss, ivf, file
        self._type = np.dtype([("list", "<i4"), ("id", "<i8"), ("code", "u1", ivf.code_size)])
        self._sizes = np.zeros(ivf.nlist, dtype=np.int64)

    def add(self, rows: Float32, ids: Int64, lists: Int64) -> None:
        """Write rows (n, dim) with their ids and lists (n,)."""
        entries = np.empty(len(rows), dtype=self._type)
        codes = np.empty((len(rows), self._ivf.code_size), dtype=np.uint8)
        pointer = self._faiss.swig_ptr
        self._ivf.encode_vectors(len(rows), pointer(rows), pointer(lists), pointer(codes))
        entries["list"], entries["id"], entries["code"] = lists, ids, codes
        _write(self._file, entries)
        self._sizes += np.bincount(lists, minlength=len(self._sizes))

    def pack(self) -> None:
        """Fill the lists of the index, which must be empty."""
        if not self._sizes.any():
            return
        entries = np.memmap(self._file, self._type, "r")
        parts = np.cumsum(self._sizes) // _PACKED
        for part in np.unique(parts):
            first, end = np.searchsorted(parts, [part, part + 1])
            some = entries[(entries["list"] >= first) & (entries["list"] < end)]
            packed = self._packed(some[np.argsort(some["list"], kind="stable")])
            self._ivf.invlists.merge_from(packed.invlists, 0)  # only into empty lists: FAISS loses others (1.15)
        self._ivf.ntotal = len(entries)

    def _packed(self, entries: Any) -> Any:
        """Return an index with nothing but these entries (n,), in the order of their lists."""
        ivf, pointer = self._ivf, self._faiss.swig_ptr
        plain = self._faiss.IndexIVFPQ(ivf.quantizer, ivf.d, ivf.nlist, ivf.pq.M, ivf.pq.nbits, ivf.metric_type)
        plain.by_residual, plain.pq, plain.is_trained = ivf.by_residual, ivf.pq, True
        ids, codes = (np.ascontiguousarray(entries[name]) for name in ("id", "code"))
        lists, starts = np.unique(entries["list"], return_index=True)
        for number, start, end in zip(lists.tolist(), starts, [*starts[1:], len(entries)], strict=True):
            plain.invlists.add_entries(number, int(end - start), pointer(ids[start:end]), pointer(codes[start:end]))
        plain.ntotal = len(entries)
        return self._faiss.IndexIVFPQFastScan(plain, ivf.bbs)


def _write(file: IO[bytes], rows: Any) -> None:
    """Append rows to a temporary file; an error of it, which has no name, tells the folder."""
    try:
        file.write(rows.tobytes())  # and not by a map, which a full disk would end with a signal
        file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, gettempdir()) from error


def _transformed(faiss: Any, index: Any, store: VectorStore, sample: Int64, dim: int, file: IO[bytes]) -> Float16:
    """Return rows (n, dim) as the IVF index sees them, mapped from a file that they are written to."""
    for start in range(0, len(sample), _ROWS):
        some = widen(store.take(sample[start : start + _ROWS]))
        for step in _steps(faiss, index):
            some = step.apply(some)
        _write(file, some.astype(np.float16))
    return np.memmap(file, np.float16, "r", shape=(len(sample), dim))


def _steps(faiss: Any, index: Any) -> list[Any]:
    """Return what rows go through before an IVF index sees them."""
    chain = index.chain if isinstance(index, faiss.IndexPreTransform) else None
    return [] if chain is None else [chain.at(number) for number in range(chain.size())]


def _first_level(faiss: Any, rows: Float16, nlist: int, seed: int) -> Int64:
    """Return the cell of each row (n,), of about √nlist."""
    count = 2 ** round(np.log2(nlist) / 2)
    few = np.random.default_rng(seed).permutation(len(rows))[: count * _FIRST_LEVEL_POINTS]
    level = faiss.IndexFlatIP(rows.shape[1])
    level.add(_kmeans(faiss, widen(rows[np.sort(few)]), count, seed))
    cells = [level.search(widen(rows[start : start + _ROWS]), 1)[1][:, 0] for start in range(0, len(rows), _ROWS)]
    return np.concatenate(cells)


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
