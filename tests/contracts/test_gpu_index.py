"""The GPU's calls of FAISS, with CPU indexes in place of the clones where there is no GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmsearch.runtime.threads import BATCH_QUERIES
from mmsearch.types import SearchParams
from mmsearch.vectors import gpu
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.backend import require_faiss
from mmsearch.vectors.index import VectorIndex
from mmsearch.vectors.spec import choose_spec
from mmsearch.vectors.store import Block, VectorStore
from tests.support import random_units

pytestmark = pytest.mark.gpu

DIM, ROWS = 32, 3000
STORED = random_units(ROWS, DIM, seed=11).astype(np.float16)


class Clones:
    """Stands for the calls that only faiss-gpu has, and counts them; a clone refuses what a GPU refuses."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def clone(self, _resources: Any, device: int, index: Any, options: Any) -> Any:
        """Return a stand-in for a GPU index."""
        assert device == 0
        assert options.useFloat16 == (index.code_size >= gpu.FLOAT16_TABLES_FROM)
        made = Clone(require_faiss().clone_index(index))
        self.made.append(made)
        return made


class Clone:
    """A CPU index that takes neither parameters nor more than a GPU does."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.nprobe = 1
        self.searches = self.adds = 0

    def add_with_ids(self, rows: np.ndarray, ids: np.ndarray) -> None:
        """Add, as a GPU index does."""
        self.adds += 1
        self.index.add_with_ids(rows, ids)

    def search(self, queries: np.ndarray, k: int) -> Any:
        """Search, as a GPU index does."""
        assert k <= gpu.MOST
        assert self.nprobe <= gpu.MOST
        self.searches += 1
        self.index.nprobe = self.nprobe
        return self.index.search(queries, k)


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> Clones:
    faiss = require_faiss()
    made = Clones()
    if gpu.count_gpus():
        return made  # the real thing
    monkeypatch.setattr(gpu, "count_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "GpuClonerOptions", lambda: SimpleNamespace(useFloat16=False), raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", made.clone, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda clone: clone.index, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: index, raising=False)
    return made


def built(factory: str) -> tuple[VectorStore, AnnIndex]:
    """Return a store and an index of all of it."""
    store = VectorStore(DIM, [Block(0, STORED)])
    return store, AnnIndex.build(choose_spec(ROWS, DIM, factory), store, np.arange(ROWS))


def test_an_index_built_on_a_gpu_is_a_cpu_index_of_the_same_rows(clones: Clones) -> None:
    _, here = built("IVF32,PQ8np")
    assert len(clones.made) == 1
    assert clones.made[0].adds == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "count_gpus", lambda: 0)
        _, plain = built("IVF32,PQ8np")
    assert len(here) == len(plain) == ROWS
    queries = random_units(10, DIM, seed=12)
    assert here.search(queries, 50, nprobe=32).tolist() == plain.search(queries, 50, nprobe=32).tolist()


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.1])
def test_batches_are_searched_there_under_any_mask(clones: Clones, share: float) -> None:
    store, ann = built("IVF32,PQ8np")
    index = VectorIndex(store, ann=ann, covered=ROWS, nprobe=32)
    queries = random_units(40, DIM, seed=13)
    mask = None if share == 1.0 else np.random.default_rng(1).random(ROWS) < share
    found = index.search(queries, 10, allowed=mask)
    truth = index.search(queries, 10, allowed=mask, params=SearchParams(exact=True))
    assert [clone.searches for clone in clones.made[1:]] == [1] * (share > 0.1)  # below, too many would be fetched
    assert (found.ids >= 0).all()
    assert mask is None or mask[found.ids].all()
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.ids, truth.ids, strict=True)]) > 0.95


def test_what_a_gpu_does_not_take_stays_on_the_cpu(clones: Clones, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = require_faiss()
    for factory in ("IVF32,PQ8x4fs", "IVF32,SQ8", "OPQ8,IVF32,PQ8np", "PCAR16,IVF32,PQ8np"):
        _, ann = built(factory)
        assert not gpu.fits(faiss, ann._index)
        ann.search(random_units(40, DIM), 10, nprobe=4)
    assert clones.made == []
    _, ann = built("IVF32,PQ8np")
    clones.made.clear()
    ann.search(random_units(BATCH_QUERIES - 1, DIM), 10, nprobe=4)  # not worth the way
    assert clones.made == []
    ann.search(random_units(40, DIM), gpu.MOST + 1, nprobe=4)
    assert clones.made == []
    assert choose_spec(1_000_000, 768, on_gpu=True).factory == "IVF4096,PQ96np"


def test_a_mask_is_applied_to_what_comes_back() -> None:
    found = np.array([[5, 1, 9, -1, 2], [7, 7, 1, 0, 3]])
    mask = np.array([1, 0, 1, 0, 0, 1], dtype=np.bool_)
    assert gpu.allowed_first(found, mask).tolist() == [[5, 2, -1, -1, -1], [0, -1, -1, -1, -1]]


def test_a_gpu_that_is_full_leaves_the_work_to_the_cpu(clones: Clones, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("StandardGpuResources: alloc fail type FlatData")

    monkeypatch.setattr(require_faiss(), "index_cpu_to_gpu", full)
    _, ann = built("IVF32,PQ8np")
    assert len(ann) == ROWS
    assert (ann.search(random_units(40, DIM), 10, nprobe=32) >= 0).all()
    assert clones.made == []
