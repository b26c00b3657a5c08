"""What every VectorIndex keeps to, whatever lies behind it: exact, IVF-PQ, with tail and dead rows, sealed or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsearch.errors import CollectionCorrupt, QueryError
from mmsearch.types import Float32, Mask, SearchParams
from mmsearch.vectors import exact
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.index import VectorIndex, measure_recall
from mmsearch.vectors.spec import choose_spec
from mmsearch.vectors.store import Block, VectorStore, open_segment, widen, write_segment
from tests.support import random_units, reloaded

DIM, ROWS = 32, 3000
DEAD = np.array([0, 5, 6, 1500, 2999], dtype=np.int64)
VECTORS = random_units(ROWS, DIM, seed=1)
STORED = VECTORS.astype(np.float16)


def store() -> VectorStore:
    return VectorStore(DIM, [Block(0, STORED[:1000]), Block(1000, STORED[1000:2500]), Block(2500, STORED[2500:])])


def exact_index() -> VectorIndex:
    return VectorIndex(store(), dead=DEAD)


def ivf(covered: int, kind: str) -> VectorIndex:
    rows = store()
    ids = np.setdiff1d(np.arange(covered), DEAD)
    ann = AnnIndex.build(choose_spec(len(ids), DIM, kind), rows, ids)
    return VectorIndex(rows, dead=DEAD, ann=ann, covered=covered, nprobe=24)


def compacted(covered: int, kind: str) -> VectorIndex:
    """Return an index whose dead rows have gone from the store, and not yet from the ANN index."""
    blocks = []
    for first, end in ((0, 1000), (1000, 2500), (2500, ROWS)):
        ids = np.setdiff1d(np.arange(first, end), DEAD)
        blocks.append(Block(first, STORED[ids], ids))
    ids = np.arange(covered)
    ann = AnnIndex.build(choose_spec(covered, DIM, kind), store(), ids) if covered else None
    return VectorIndex(VectorStore(DIM, blocks), ann=ann, covered=covered, nprobe=24)


MAKERS: dict[str, Callable[[], VectorIndex]] = {
    "exact": exact_index,
    "ivfpq": lambda: ivf(ROWS, "ivfpq"),
    "ivfpq with a tail": lambda: ivf(2400, "ivfpq"),
    "ivfsq8": lambda: ivf(ROWS, "ivfsq8"),
    "ivfsq8 with a tail": lambda: ivf(2400, "ivfsq8"),
    "8-bit codes": lambda: ivf(ROWS, "IVF32,PQ8np"),
    "behind a PCA": lambda: ivf(2400, "PCAR16,IVF32,PQ8x4fs"),
    "behind a rotation": lambda: ivf(2400, "OPQ8,IVF32,PQ8np"),
    "lists of two levels": lambda: ivf(ROWS, "IVF32(PQ8x4fs,RFlat),PQ8x4fs"),
    "lists of two levels behind a PCA, with a tail": lambda: ivf(2400, "PCAR16,IVF32(PQ4x4fs,RFlat),PQ8x4fs"),
    "lists of two levels, 8-bit codes": lambda: ivf(ROWS, "IVF32(PQ8x4fs,RFlat),PQ8np"),
    "lists of two levels behind a rotation": lambda: ivf(ROWS, "OPQ8,IVF32(PQ8x4fs,RFlat),SQ8"),
    "compacted, exact": lambda: compacted(0, "flat"),
    "compacted, ivfpq": lambda: compacted(ROWS, "ivfpq"),
    "compacted, ivfsq8 with a tail": lambda: compacted(2400, "ivfsq8"),
}


@pytest.fixture(scope="module", params=MAKERS)
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return MAKERS[request.param]()


def brute_force(query: Float32, allowed: Mask | None, k: int) -> tuple[list[int], list[float]]:
    scores = (STORED.astype(np.float64) * query).sum(axis=1)
    live = np.ones(ROWS, dtype=np.bool_)
    live[DEAD] = False
    if allowed is not None:
        live &= allowed
    order = sorted(np.flatnonzero(live), key=lambda i: (-scores[i], i))[:k]
    return [int(i) for i in order], [float(scores[i]) for i in order]


def test_exact_search_is_brute_force(index: VectorIndex) -> None:
    queries = random_units(5, DIM, seed=2)
    found = index.search(queries, 10, params=SearchParams(exact=True))
    for row, query in enumerate(queries):
        ids, scores = brute_force(query, None, 10)
        assert found.ids[row].tolist() == ids
        np.testing.assert_allclose(found.scores[row], scores, atol=1e-6)


def test_a_batch_is_searched_as_its_queries_are(index: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "NUMPY_ROWS", 0)  # one by one they go through FAISS
    queries = random_units(exact.BATCH + 6, DIM, seed=8)
    for params in (SearchParams(exact=True), SearchParams()):
        together = index.search(queries, 10, params=params)
        for row in (0, 5, len(queries) - 1):
            alone = index.search(queries[row : row + 1], 10, params=params)
            assert together.ids[row].tolist() == alone.ids[0].tolist()
            assert together.scores[row].tolist() == alone.scores[0].tolist()


def test_shown_scores_are_the_cosines_of_the_stored_rows(index: VectorIndex) -> None:
    queries = random_units(20, DIM, seed=3)
    found = index.search(queries, 10)
    for row, query in enumerate(queries):
        expected = STORED[found.ids[row]].astype(np.float32) @ query
        np.testing.assert_allclose(found.scores[row], expected, atol=1e-6)
        assert (np.diff(found.scores[row]) <= 0).all()


def test_a_stored_row_finds_itself(index: VectorIndex) -> None:
    ids = np.array([1, 999, 1000, 2399, 2400, 2998])
    found = index.search(VECTORS[ids], 1)
    assert found.ids[:, 0].tolist() == ids.tolist()
    np.testing.assert_allclose(found.scores[:, 0], 1.0, atol=2e-3)


def test_recall_is_what_it_should_be(index: VectorIndex) -> None:
    near = VECTORS[10:110] + 0.05 * random_units(100, DIM, seed=4)
    assert measure_recall(index, near / np.linalg.norm(near, axis=1, keepdims=True)) >= 0.95


def test_dead_rows_never_come_back(index: VectorIndex) -> None:
    assert len(index) == ROWS - len(DEAD)
    everything = index.search(VECTORS[DEAD], ROWS)
    assert not np.isin(everything.ids, DEAD).any()
    assert (np.sort(everything.ids, axis=1)[:, len(DEAD) :] == np.setdiff1d(np.arange(ROWS), DEAD)).all()
    assert (everything.ids[:, -len(DEAD) :] == -1).all()
    assert np.isneginf(everything.scores[:, -len(DEAD) :]).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.sampled_from([0.0, 0.0005, 0.01, 0.05, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 40),
)
def test_filters_never_starve_and_never_leak(index: VectorIndex, share: float, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    allowed = rng.random(ROWS) < share
    found = index.search(random_units(2, DIM, seed=seed % 1000), k, allowed=allowed)
    live = allowed.copy()
    live[DEAD] = False
    for ids in found.ids:
        real = ids[ids >= 0]
        assert live[real].all()
        assert len(real) == len(set(real.tolist())) == min(k, int(live.sum()))


def test_a_short_mask_forbids_what_it_does_not_reach(index: VectorIndex) -> None:
    found = index.search(VECTORS[[2000]], 5, allowed=np.ones(100, dtype=np.bool_))
    assert (found.ids < 100).all()


def test_a_few_allowed_rows_are_searched_exactly(index: VectorIndex) -> None:
    allowed = np.zeros(ROWS, dtype=np.bool_)
    allowed[[7, 1200, 2700]] = True
    query = random_units(1, DIM, seed=9)
    found = index.search(query, 3, allowed=allowed)
    assert found.ids[0].tolist() == brute_force(query[0], allowed, 3)[0]


def test_batches_and_single_queries_agree(index: VectorIndex) -> None:
    queries = random_units(300, DIM, seed=5)
    together = index.search(queries, 5)
    for row in (0, 17, 255, 256, 299):
        alone = index.search(queries[row : row + 1], 5)
        assert alone.ids[0].tolist() == together.ids[row].tolist()
        assert alone.scores[0].tolist() == together.scores[row].tolist()


@pytest.mark.parametrize(
    ("queries", "k"),
    [
        (np.zeros((1, DIM + 1), np.float32), 1),
        (np.zeros(DIM, np.float32), 1),
        (np.zeros((1, DIM), np.float32), 0),
        (np.full((1, DIM), np.nan, np.float32), 1),
    ],
)
def test_senseless_queries_are_refused(index: VectorIndex, queries: Float32, k: int) -> None:
    with pytest.raises(QueryError):
        index.search(queries, k)


def test_equal_rows_come_in_the_order_of_their_ids() -> None:
    rows = np.repeat(STORED[:1], 50, axis=0)
    found = VectorIndex(VectorStore(DIM, [Block(3, rows)])).search(VECTORS[:1], 10)
    assert found.ids[0].tolist() == list(range(3, 13))
    assert len(set(found.scores[0].tolist())) == 1


def test_empty_store_answers_with_padding() -> None:
    found = VectorIndex(VectorStore(DIM, [])).search(VECTORS[:2], 3)
    assert (found.ids == -1).all()
    assert np.isneginf(found.scores).all()


@pytest.mark.parametrize("rows", [exact.NUMPY_ROWS - 1, exact.NUMPY_ROWS + 500])
def test_exact_scan_is_the_same_with_and_without_faiss(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_units(rows, DIM, seed=6)
    blocks = [Block(0, vectors[:200].astype(np.float16)), Block(200, vectors[200:].astype(np.float16))]
    allowed = np.random.default_rng(0).random(rows) < 0.9
    queries = random_units(20, DIM, seed=7)
    with_faiss = VectorIndex(VectorStore(DIM, blocks)).search(queries, 10, allowed=allowed)
    monkeypatch.setattr(exact, "find_faiss", lambda: None)
    without = VectorIndex(VectorStore(DIM, blocks)).search(queries, 10, allowed=allowed)
    assert with_faiss.ids.tolist() == without.ids.tolist()
    assert with_faiss.scores.tolist() == without.scores.tolist()


def test_large_stores_are_searched_past_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "CACHE_BYTES", 1000)
    monkeypatch.setattr(exact, "NUMPY_ROWS", 10)
    index = exact_index()
    for _ in range(2):
        assert index.search(VECTORS[[42]], 1).ids[0, 0] == 42


@pytest.mark.parametrize("kind", ["ivfpq", "PCAR16,IVF32(PQ4x4fs,RFlat),PQ8x4fs"])
def test_saved_index_is_the_same_index(tmp_path: Path, kind: str) -> None:
    rows = store()
    ids = np.arange(ROWS, dtype=np.int64)
    built = AnnIndex.build(choose_spec(ROWS, DIM, kind), rows, ids)
    loaded = reloaded(built, tmp_path / "index.faiss", dim=DIM, vectors=ROWS)
    queries = random_units(10, DIM, seed=8)
    assert loaded.search(queries, 20, nprobe=4).tolist() == built.search(queries, 20, nprobe=4).tolist()
    with pytest.raises(CollectionCorrupt, match="not of this collection"):
        AnnIndex.load(tmp_path / "index.faiss", dim=DIM + 1, vectors=ROWS)
    (tmp_path / "index.faiss").write_bytes(b"no index")
    with pytest.raises(CollectionCorrupt, match="cannot be read"):
        AnnIndex.load(tmp_path / "index.faiss", dim=DIM, vectors=ROWS)


def test_segment_of_another_shape_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "s.npy").open("wb") as file:
        write_segment(file, [STORED[:4], STORED[4:10]])
    assert open_segment(tmp_path / "s.npy", 10, DIM).tolist() == STORED[:10].tolist()
    with pytest.raises(CollectionCorrupt, match="instead of"):
        open_segment(tmp_path / "s.npy", 9, DIM)
    with pytest.raises(CollectionCorrupt, match="cut off"):
        open_segment(tmp_path / "s.npy", 11, DIM)
    (tmp_path / "s.npy").write_bytes(b"short")
    with pytest.raises(CollectionCorrupt, match="cannot be read"):
        open_segment(tmp_path / "s.npy", 10, DIM)


def test_rows_are_widened_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert widen(finite).view(np.uint32).tolist() == finite.astype(np.float32).view(np.uint32).tolist()
    assert widen(STORED[::3].T).tolist() == STORED[::3].T.astype(np.float32).tolist()


def test_a_pca_keeps_inner_products_not_distances() -> None:
    """Rows far from the origin in a direction of their own: FAISS's PCA would subtract what the scores are made of."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((2000, DIM)).astype(np.float32) * np.geomspace(1, 0.01, DIM, dtype=np.float32)
    rows[:, 0] = np.abs(rows[:, 0]) + 1.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store = VectorStore(DIM, [Block(0, rows.astype(np.float16))])
    ann = AnnIndex.build(choose_spec(2000, DIM, "PCAR16,IVF4,Flat"), store, np.arange(2000))
    found = ann.search(rows[:50], 10, nprobe=4)
    truth = np.argsort(-(rows[:50] @ rows.T), axis=1)[:, :10]
    assert np.mean([len(np.intersect1d(some, true)) / 10 for some, true in zip(found, truth, strict=True)]) > 0.9


def test_store_takes_rows_from_every_block() -> None:
    ids = np.array([0, 999, 1000, 2499, 2500, 2999])
    assert store().take(ids).tolist() == STORED[ids].tolist()
    with pytest.raises(KeyError):
        store().take(np.array([ROWS]))
    with pytest.raises(ValueError, match="overlap"):
        VectorStore(DIM, [Block(0, STORED[:10]), Block(9, STORED[:10])])


@pytest.mark.parametrize(
    ("n", "dim", "kind", "factory"),
    [
        (1000, 384, "auto", "Flat"),
        (300_000, 384, "auto", "PCAR192,IVF2048,PQ48x4fs"),
        (1_000_000, 384, "auto", "PCAR192,IVF16384(PQ48x4fs,RFlat),PQ48x4fs"),
        (10_000_000, 32, "auto", "IVF16384,PQ8x4fs"),
        (1_000_000, 384, "flat", "Flat"),
        (10, 384, "ivfpq", "Flat"),
        (100, 30, "ivfpq", "IVF2,PQ6x4fs"),
    ],
)
def test_choice_of_the_index(n: int, dim: int, kind: str, factory: str) -> None:
    spec = choose_spec(n, dim, kind)  # type: ignore[arg-type]
    assert spec.factory == factory
    assert spec.reason
