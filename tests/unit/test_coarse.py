"""Lists of two levels: as many as were asked for, rows near their centroids, the same index from the same seed."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.errors import CollectionCorrupt
from mmsearch.types import Float32, SearchParams
from mmsearch.vectors import coarse
from mmsearch.vectors.ann import AnnIndex
from mmsearch.vectors.backend import require_faiss
from mmsearch.vectors.index import VectorIndex, recall_of
from mmsearch.vectors.spec import choose_spec
from mmsearch.vectors.store import Block, VectorStore
from tests.support import random_units, reloaded

DIM, ROWS, LISTS = 32, 4000, 64


@pytest.fixture(scope="module")
def built() -> tuple[Float32, AnnIndex]:
    rows = clustered()
    return rows, build(rows)


def clustered() -> Float32:
    centres = random_units(40, DIM, seed=3)
    rows = centres[np.arange(ROWS) % 40] + 0.4 * random_units(ROWS, DIM, seed=4)
    normed: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return normed


def build(rows: Float32, *, seed: int = 0, codes: str = "PQ16x4fs") -> AnnIndex:
    store = VectorStore(DIM, [Block(0, rows.astype(np.float16))])
    spec = choose_spec(ROWS, DIM, f"IVF{LISTS}(PQ16x4fs,RFlat),{codes}")
    return AnnIndex.build(spec, store, np.arange(ROWS), seed=seed)


def ivf_of(index: AnnIndex) -> Any:
    """Return the IVF index inside, which lives as long as `index`."""
    faiss = require_faiss()
    return faiss.downcast_index(faiss.extract_index_ivf(index._index))


def centroids_of(ivf: Any) -> Float32:
    faiss = require_faiss()
    found: Float32 = faiss.downcast_index(faiss.downcast_index(ivf.quantizer).refine_index).reconstruct_n(0, ivf.nlist)
    return found


def test_there_are_as_many_lists_as_were_asked_for(built: tuple[Float32, AnnIndex]) -> None:
    rows, index = built
    ivf = ivf_of(index)
    assert coarse.is_two_level(require_faiss(), ivf)
    assert ivf.quantizer.ntotal == ivf.nlist == LISTS
    assert np.linalg.norm(centroids_of(ivf), axis=1) == pytest.approx(np.ones(LISTS), abs=1e-5)
    sizes = [ivf.invlists.list_size(number) for number in range(LISTS)]
    assert sum(sizes) == ivf.ntotal == coarse.LISTS_PER_ROW * len(rows) == coarse.LISTS_PER_ROW * len(index)
    assert max(sizes) < 4 * coarse.LISTS_PER_ROW * ROWS / LISTS


@pytest.mark.parametrize("codes", ["PQ16x4fs", "SQ8"])
def test_a_row_lies_in_the_two_lists_nearest_to_it(codes: str) -> None:
    rows = clustered()
    index = build(rows, codes=codes)
    ivf = ivf_of(index)
    faiss = require_faiss()
    own = np.zeros((ROWS, LISTS), dtype=np.bool_)
    for number in range(LISTS):
        ids = faiss.rev_swig_ptr(ivf.invlists.get_ids(number), ivf.invlists.list_size(number))
        assert len(np.unique(ids)) == len(ids)
        own[ids, number] = True
    assert (own.sum(axis=1) == coarse.LISTS_PER_ROW).all()
    nearest = np.argsort(-(rows @ centroids_of(ivf).T), axis=1)[:, : coarse.LISTS_PER_ROW]
    assert np.take_along_axis(own, nearest, axis=1).mean() > 0.95


@pytest.mark.parametrize("at_a_time", [2**18, 500])
def test_packed_codes_are_those_that_faiss_packs(monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    monkeypatch.setattr(coarse, "LISTS_PER_ROW", 1)
    monkeypatch.setattr(coarse, "_PACKED", at_a_time)
    rows = clustered()
    index = build(rows)
    faiss = require_faiss()
    by_faiss = faiss.clone_index(index._index)
    by_faiss.reset()
    quantizer = faiss.downcast_index(faiss.extract_index_ivf(by_faiss).quantizer)
    faiss.downcast_index(quantizer).k_factor = coarse.K_FACTOR_OF_ROWS
    by_faiss.add_with_ids(rows, np.arange(ROWS))
    faiss.downcast_index(quantizer).k_factor = coarse.K_FACTOR
    assert faiss.serialize_index(by_faiss).tobytes() == faiss.serialize_index(index._index).tobytes()


def test_many_are_asked_for_and_as_many_distinct_come(built: tuple[Float32, AnnIndex]) -> None:
    rows, index = built
    for count in (10, 300, ROWS):
        for ids in index.search(rows[:20], count, nprobe=LISTS):
            assert len(np.unique(ids[ids >= 0])) == len(ids) == count
    for ids in index.search(rows[:20], 2 * ROWS, nprobe=LISTS):
        assert sorted(ids[:ROWS].tolist()) == list(range(ROWS))
        assert set(ids[ROWS:].tolist()) == {-1}


def test_an_index_whose_rows_lie_in_one_list_each_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(coarse, "LISTS_PER_ROW", 1)
        index = build(clustered())
    loaded = reloaded(index, tmp_path / "index.faiss", dim=DIM, vectors=ROWS)
    queries = random_units(10, DIM, seed=8)
    assert loaded.search(queries, 20, nprobe=8).tolist() == index.search(queries, 20, nprobe=8).tolist()
    with pytest.raises(CollectionCorrupt, match="not of this collection"):
        AnnIndex.load(tmp_path / "index.faiss", dim=DIM, vectors=ROWS - 1)


def test_lists_by_codes_are_those_that_comparing_with_all_finds(built: tuple[Float32, AnnIndex]) -> None:
    ivf = ivf_of(built[1])
    queries = random_units(100, DIM, seed=5)
    found = ivf.quantizer.search(queries, 16)[1]
    truth = np.argsort(-(queries @ centroids_of(ivf).T), axis=1)[:, :16]
    shares = [len(np.intersect1d(some, true)) / 16 for some, true in zip(found, truth, strict=True)]
    assert np.mean(shares) > 0.95


def test_the_same_seed_makes_the_same_index(built: tuple[Float32, AnnIndex]) -> None:
    rows, index = built
    ivf = ivf_of(index)
    again, other = build(rows), build(rows, seed=1)
    assert centroids_of(ivf_of(again)).tolist() == centroids_of(ivf).tolist()
    assert centroids_of(ivf_of(other)).tolist() != centroids_of(ivf).tolist()


def test_looking_harder_ends_when_adding_fails(built: tuple[Float32, AnnIndex]) -> None:
    faiss = require_faiss()
    quantizer = faiss.downcast_index(ivf_of(built[1]).quantizer)
    with pytest.raises(OSError, match="gone"), coarse.adding(faiss, built[1]._index):
        assert quantizer.k_factor > coarse.K_FACTOR
        raise OSError("gone")
    assert quantizer.k_factor == coarse.K_FACTOR


def test_a_filter_reaches_far_enough_into_fine_lists() -> None:
    """With as many lists more as the square root of the share says, this finds 0.89 of them."""
    count = 20_000
    centres = random_units(400, DIM, seed=3)
    rows = centres[np.arange(count) % 400] + 0.8 * random_units(count, DIM, seed=4)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store = VectorStore(DIM, [Block(0, rows.astype(np.float16))])
    ann = AnnIndex.build(choose_spec(count, DIM, "IVF512(PQ16x4fs,RFlat),PQ16x4fs"), store, np.arange(count))
    index = VectorIndex(store, ann=ann, covered=count, nprobe=4)
    queries = rows[:100] + 0.6 * random_units(100, DIM, seed=5)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    mask = np.random.default_rng(1).random(count) < 0.2
    found = index.search(queries, 10, allowed=mask)
    truth = index.search(queries, 10, allowed=mask, params=SearchParams(exact=True))
    assert recall_of(found, truth) > 0.95


def test_training_on_few_lists_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    build(clustered())
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_told_with_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(coarse, "TemporaryFile", Full)
    with pytest.raises(OSError, match="No space left") as caught:
        build(clustered())
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == gettempdir()


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40).filter(any), st.data())
def test_lists_are_shared_out_by_size(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(1, sum(sizes)))
    given_out = coarse.shared_out(np.array(sizes), total)
    assert given_out.sum() == total
    assert (given_out <= sizes).all()
    assert np.abs(given_out - np.array(sizes) * total / sum(sizes)).max() <= 1
