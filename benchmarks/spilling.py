"""How many lists must be probed when a row lies in one list, the nearest two or three, or two as SOAR chooses them.

An index as `choose_spec` makes it of CLIP-like vectors gives the centroids. For each way, and queries of both kinds:
into how many lists one has to look so that 95, 97, 98 and 99 % of the true ten lie in one of them. SOAR (Sun et al.
2023, arXiv 2404.00774) takes as the second list the one whose residual is short and not parallel to that of the first.

    python -m benchmarks.spilling [ROWS]          (370,000 at least, else no lists of two levels are chosen)
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.million import DIM, KINDS, store, write_vectors
from mmsearch.types import Float32, Int64
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.backend import require_faiss
from mmsearch.vectors.spec import choose_spec
from mmsearch.vectors.store import widen

SHARES = (0.95, 0.97, 0.98, 0.99)
NEAR = 64
PARALLEL = 1.0
"""What SOAR adds for a residual parallel to the first (its λ)."""


def main() -> None:
    """Print a line for each kind of query and way to choose lists."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    faiss = require_faiss()
    with tempfile.TemporaryDirectory(dir=os.environ.get("MMSEARCH_BENCH_DIR")) as folder:
        place = Path(folder)
        write_vectors(place, rows)
        vectors = store(place)
        spec = choose_spec(rows, DIM, "ivfpq")
        with (place / "index.faiss").open("wb") as file:
            AnnIndex.build(spec, vectors, vectors.ids()).save(file)
        index = faiss.read_index(str(place / "index.faiss"))
        ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
        every = faiss.downcast_index(faiss.downcast_index(ivf.quantizer).refine_index)
        centroids: Float32 = every.reconstruct_n(0, ivf.nlist)
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        print(f"{spec.factory}; lists for {', '.join(f'{share:.0%}' for share in SHARES)} of the true ten")
        for kind in KINDS:
            asked = rotation.apply(np.load(place / f"{kind}.npy")) @ centroids.T
            truth: Int64 = np.load(place / f"{kind}-truth.npy")
            distinct, where = np.unique(truth, return_inverse=True)
            answers = rotation.apply(widen(vectors.take(distinct)))
            ranks = np.argsort(np.argsort(-asked, axis=1), axis=1)[np.repeat(np.arange(len(truth)), truth.shape[1])]
            for way, lists in ways(answers, centroids).items():
                best = np.take_along_axis(ranks, lists[where.ravel()], axis=1).min(axis=1)
                needed = 1 + np.quantile(best, SHARES, method="higher")
                print(f"{kind:<5} queries, {way:<19} {', '.join(map(str, needed.tolist()))}", flush=True)


def ways(rows: Float32, centroids: Float32) -> dict[str, Int64]:
    """Return the lists (n, l) of rows (n, dim) by the name of the way they are chosen."""
    scores = rows @ centroids.T
    near = np.argpartition(-scores, NEAR, axis=1)[:, :NEAR]
    near = np.take_along_axis(near, np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1), axis=1)
    residuals = rows[:, np.newaxis] - centroids[near]
    first = residuals[:, 0] / np.linalg.norm(residuals[:, 0], axis=1, keepdims=True)
    parallel = np.einsum("nld,nd->nl", residuals, first)
    cost = (residuals**2).sum(axis=2) + PARALLEL * parallel**2
    cost[:, 0] = np.inf
    soar = np.take_along_axis(near, cost.argmin(axis=1, keepdims=True), axis=1)
    return {
        "the nearest list": near[:, :1],
        "the two nearest": near[:, :2],
        "the three nearest": near[:, :3],
        "two by SOAR": np.concatenate([near[:, :1], soar], axis=1),
    }


if __name__ == "__main__":
    main()
