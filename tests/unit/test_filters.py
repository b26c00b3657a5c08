"""Filters in the engine, batches, and building with a recall: what comes back, and what never does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import column

import mmsearch
from indexer import index
from mmsearch.catalog.filters import below
from mmsearch.collection.atomic import file_sha256
from mmsearch.engine.engine import SearchEngine
from mmsearch.errors import QueryError
from mmsearch.types import Filter, Modality, SearchParams
from tests.support import ToyEncoder, picture


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SearchEngine:
    """Return an engine over 120 pictures in two folders, a third of them copies, in two formats and sizes."""
    place = tmp_path_factory.mktemp("filtered")
    for number in range(80):
        folder = place / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        size = (64, 48) if number % 5 == 0 else (32, 24)
        path = folder / f"p{number:03d}.{'bmp' if number % 4 == 0 else 'png'}"
        picture(number, size).save(path)
        if number % 2 == 0:
            (place / "odd").mkdir(exist_ok=True)
            (place / "odd" / path.name).write_bytes(path.read_bytes())
        path.with_name(path.name + ".txt").write_text(f"picture {number}")
    toy = ToyEncoder()
    index([place], collection=place / "collection", encoder=toy)
    return SearchEngine(mmsearch.Collection.open(place / "collection"), toy)


def folder(engine: SearchEngine, name: str) -> str:
    return str(engine.collection.layout.root.parent / name)


def test_only_what_lies_in_a_folder(engine: SearchEngine) -> None:
    for name, count in (("even", 40), ("odd", 80), ("none", 0)):
        found = engine.search(image=picture(8), k=200, only=Filter(under=(folder(engine, name),)))
        assert len(found) == count
        assert all(hit.item.uri.startswith(folder(engine, name) + "/") for hit in found)
    both = Filter(under=(folder(engine, "even"), folder(engine, "odd")))
    assert len(engine.search(image=picture(8), k=200, only=both)) == 120
    assert len(engine.search("picture 8", target="text", k=200, only=Filter(under=(folder(engine, "even"),)))) == 40


def test_a_copy_in_another_folder_does_not_come_along(engine: SearchEngine) -> None:
    (hit,) = engine.search(image=picture(8), k=1, only=Filter(under=(folder(engine, "odd"),)))
    assert Path(hit.item.uri).parent.name == "odd"
    assert hit.similarity == pytest.approx(1.0, abs=2e-3)


def test_formats_sizes_and_times(engine: SearchEngine) -> None:
    bmp = engine.search(image=picture(8), k=200, only=Filter(formats=("bmp",)))
    assert {hit.item.format for hit in bmp} == {"BMP"}
    assert len(bmp) == 40
    large = engine.search(image=picture(8), k=200, only=Filter(min_width=64, min_height=48))
    assert {(hit.item.width, hit.item.height) for hit in large} == {(64, 48)}
    stamp = Path(bmp[0].item.uri).stat()
    assert len(engine.search(image=picture(8), k=200, only=Filter(modified_before_ns=1))) == 0
    assert len(engine.search(image=picture(8), k=200, only=Filter(modified_from_ns=1))) == 120
    exact = Filter(min_bytes=stamp.st_size, max_bytes=stamp.st_size + 1)
    assert all(
        Path(hit.item.uri).stat().st_size == stamp.st_size for hit in engine.search(image=picture(8), only=exact)
    )
    assert len(engine.search("picture 8", target="text", only=Filter(formats=("png",)))) == 0, "texts have no format"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    under=st.sampled_from([(), ("even",), ("odd",), ("even", "odd")]),
    formats=st.sampled_from([(), ("BMP",), ("PNG",), ("bmp", "png")]),
    width=st.sampled_from([None, 33, 65]),
    k=st.integers(1, 150),
    seed=st.integers(0, 79),
)
def test_filters_never_starve_and_never_leak(
    engine: SearchEngine, under: tuple[str, ...], formats: tuple[str, ...], width: int | None, k: int, seed: int
) -> None:
    places = tuple(folder(engine, name) for name in under)
    only = Filter(under=places, formats=formats, min_width=width)

    def fits(item: mmsearch.Item) -> bool:
        return (
            (not places or any(item.uri.startswith(place + "/") for place in places))
            and (not formats or item.format in {name.upper() for name in formats})
            and (width is None or (item.width or 0) >= width)
        )

    everything = [hit for hit in engine.search(image=picture(seed), k=1000) if fits(hit.item)]
    found = engine.search(image=picture(seed), k=k, only=only)
    assert [hit.item.id for hit in found] == [hit.item.id for hit in everything[:k]]
    assert [hit.score for hit in found] == [hit.score for hit in everything[:k]]


def test_a_mask_is_found_once_for_each_commit(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    catalog = engine.collection.catalog
    whole = catalog.vectors_matching
    monkeypatch.setattr(catalog, "vectors_matching", lambda *a: asked.append(a) or whole(*a))
    only = Filter(formats=("PNG",), min_bytes=7)
    for _ in range(3):
        engine.search(image=picture(1), only=only)
    assert len(asked) == 1
    for bound in range(40):
        engine.search(image=picture(1), only=Filter(min_bytes=bound))
    assert len(engine._masks._masks) <= 16


def test_new_items_are_seen_by_a_filter_that_was_asked_before(tmp_path: Path) -> None:
    toy = ToyEncoder()
    (tmp_path / "p").mkdir()
    picture(1).save(tmp_path / "p" / "1.png")
    index([tmp_path / "p"], collection=tmp_path / "c", encoder=toy)
    with SearchEngine(mmsearch.Collection.open(tmp_path / "c"), toy) as engine:
        only = Filter(formats=("PNG",))
        assert len(engine.search(image=picture(1), only=only)) == 1
        picture(2).save(tmp_path / "p" / "2.png")
        index([tmp_path / "p"], collection=tmp_path / "c", encoder=toy)
        assert len(engine.search(image=picture(1), only=only)) == 2


def test_a_batch_is_its_queries_one_by_one(engine: SearchEngine) -> None:
    words = [f"picture {n}" for n in range(30)] + ["red", "blue"]
    for target in ("image", "text", "any"):
        only = Filter(under=(folder(engine, "odd"),))
        together = engine.search_batch(words, target=target, k=7, only=only)
        for result, text in zip(together, words, strict=True):
            alone = engine.search(text, target=target, k=7, only=only)
            assert result.query == text
            assert [hit.item.id for hit in result] == [hit.item.id for hit in alone]
            np.testing.assert_allclose([h.score for h in result], [h.score for h in alone], atol=1e-6)
    vectors = ToyEncoder().encode_texts(words)
    by_vector = engine.search_batch(vectors, k=3)
    assert [r[0].item.id for r in by_vector] == [r[0].item.id for r in engine.search_batch(words, k=3)]
    assert engine.search_batch([]) == []
    with pytest.raises(QueryError, match="empty"):
        engine.search_batch(["a dog", " "])


def test_build_measures_both_kinds_of_queries_and_keeps_the_target(engine: SearchEngine) -> None:
    assert engine.build(index_kind="IVF4,PQ16x4fs", recall=0.99) == [Modality.IMAGE, Modality.TEXT]
    info = engine.info().modalities[Modality.IMAGE]
    assert info.index == "IVF4,PQ16x4fs"
    assert info.recall_at_10 is not None
    assert info.recall_across is not None
    assert min(info.recall_at_10, info.recall_across) >= 0.99
    assert "300 everyday queries" in info.across or "text vectors" in info.across
    assert (info.target, info.candidates) == (0.99, 100)
    assert engine.build() == [Modality.IMAGE, Modality.TEXT], "as it was asked for before"
    assert engine.info().modalities[Modality.IMAGE].target == 0.99
    assert engine.build(index_kind="flat") == []
    assert engine.info().modalities[Modality.IMAGE].index == "Flat"
    with pytest.raises(QueryError, match="no index kind 'hnsw'"):
        engine.build(index_kind="hnsw")
    with pytest.raises(QueryError, match="FAISS cannot make IVF4,PQ7x4fs for vectors of 192 numbers"):
        engine.build(index_kind="IVF4,PQ7x4fs")
    assert engine.build() == [], "what cannot be made is not kept"
    with pytest.raises(QueryError, match="between 0 and 1"):
        engine.build(recall=2.0)


def test_a_damaged_index_file_is_not_read_and_is_built_anew(
    engine: SearchEngine, caplog: pytest.LogCaptureFixture
) -> None:
    place = engine.collection.layout.root
    engine.build(index_kind="IVF4,PQ16x4fs")
    for damage in ("flipped", "cut"):
        (file,) = place.glob("ann/image/*/index.faiss")
        data = bytearray(file.read_bytes())
        if damage == "flipped":
            data[len(data) // 2] ^= 1
        else:
            del data[-50:]
        file.write_bytes(data)
        with SearchEngine(mmsearch.Collection.open(place), ToyEncoder()) as opened:
            caplog.clear()
            assert opened.search(image=picture(8), k=1)[0].similarity == pytest.approx(1.0, abs=2e-3)
            assert "is not what the catalog says: run 'mmsearch build'. Until then search is exact." in caplog.text
        index([], collection=place, encoder=ToyEncoder())
        (again,) = place.glob("ann/image/*/index.faiss")
        assert again != file
        with SearchEngine(mmsearch.Collection.open(place), ToyEncoder()) as opened:
            caplog.clear()
            opened.search(image=picture(8), k=1)
            assert caplog.text == ""
    engine.build(index_kind="flat")


@pytest.mark.parametrize(
    ("kind", "is_hashed"),
    [("IVF4,SQ8", False), ("IVF16(PQ48x4fs,RFlat),SQ8", False), ("IVF16(PQ48x4fs,RFlat),PQ16x4fs", True)],
)
def test_only_what_is_read_whole_is_hashed(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch, kind: str, *, is_hashed: bool
) -> None:
    engine.build(index_kind=kind)
    (file,) = engine.collection.layout.root.glob("ann/image/*/index.faiss")
    hashed: list[Path] = []
    monkeypatch.setattr("mmsearch.vectors.ann.MAPPED_BYTES", 1000)

    def sha256(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr("mmsearch.collection.snapshot.file_sha256", sha256)
    with SearchEngine(mmsearch.Collection.open(engine.collection.layout.root), ToyEncoder()) as opened:
        assert opened.search(image=picture(8), k=1)[0].similarity == pytest.approx(1.0, abs=2e-3)
    assert (file in hashed) is is_hashed
    engine.build(index_kind="flat")


def test_tuning_raises_candidates_or_lists_until_both_kinds_are_served() -> None:
    from mmsearch.vectors.ann import AnnIndex
    from mmsearch.vectors.index import VectorIndex, measure_recall
    from mmsearch.vectors.spec import choose_spec, finer
    from mmsearch.vectors.store import Block, VectorStore
    from mmsearch.vectors.tuning import QuerySet, tune
    from tests.support import random_units

    rows = random_units(5000, 32, seed=5)
    store = VectorStore(32, [Block(0, rows.astype(np.float16))])
    ids = np.arange(5000)
    spec = choose_spec(5000, 32, "IVF64,PQ4x4fs")
    indexed = VectorIndex(store, ann=AnnIndex.build(spec, store, ids), covered=5000)
    sets = {"stored": QuerySet(rows[:100], ids[:100]), "across": QuerySet(random_units(100, 32, seed=6))}
    low, high = (tune(indexed, sets, nlist=64, nprobe=1, target=target) for target in (0.3, 0.95))
    assert low.least >= 0.3
    assert high.least >= 0.95
    assert high.nprobe * high.candidates > low.nprobe * low.candidates
    fewer = SearchParams(nprobe=int(high.nprobe / 1.25), candidates=high.candidates, refine_factor=1)
    assert min(measure_recall(indexed, some.rows, params=fewer) for some in sets.values()) < 0.95, "no more than needed"
    assert set(high.recall) == {"stored", "across"}
    alone = tune(indexed, {"stored": sets["stored"]}, nlist=64, nprobe=1, target=0.95)
    assert alone.nprobe <= high.nprobe
    longer = finer(spec, 5000, 32)
    assert longer is not None
    assert longer.factory == "IVF64,PQ16x4fs"
    last = finer(longer, 5000, 32)
    assert last is not None
    assert last.factory == "IVF64,SQ8"
    assert finer(last, 5000, 32) is None
    reduced = choose_spec(1_000_000, 384)
    longer = finer(reduced, 1_000_000, 384)
    assert longer is not None
    lists = "IVF16384(PQ48x4fs,RFlat)"
    assert (reduced.factory, longer.factory) == (f"PCAR192,{lists},PQ48x4fs", f"PCAR192,{lists},PQ96x4fs")
    last = finer(longer, 1_000_000, 384)
    assert last is not None
    assert last.factory == f"{lists},SQ8"


@pytest.mark.parametrize(
    ("n", "kind", "on_gpu", "factory"),
    [
        (1000, "auto", False, "Flat"),
        (1_000_000, "flat", False, "Flat"),
        (300_000, "auto", False, "PCAR256,IVF2048,PQ64x4fs"),
        (1_000_000, "auto", False, "PCAR256,IVF16384(PQ64x4fs,RFlat),PQ64x4fs"),
        (1_000_000, "auto", True, "IVF4096,PQ64np"),
        (1_000_000, "ivfsq8", False, "IVF4096,SQ8"),
        (100_000_000, "auto", False, "PCAR256,IVF262144(PQ64x4fs,RFlat),PQ64x4fs"),
        (1_000_000, "IVF8192(PQ64x4fs,RFlat),PQ64np", False, "IVF8192(PQ64x4fs,RFlat),PQ64np"),
        (1_000_000, "OPQ64,IVF1024,PQ64np", False, "OPQ64,IVF1024,PQ64np"),
        (63, "ivfpq", False, "Flat"),
        (100, "IVF64,PQ8np", False, "Flat"),
    ],
)
def test_the_index_is_chosen_by_size_and_device(n: int, kind: str, on_gpu: bool, factory: str) -> None:
    from mmsearch.vectors.spec import choose_spec, parse_kind

    spec = choose_spec(n, 512, parse_kind(kind), on_gpu=on_gpu)
    assert spec.factory == factory
    assert spec.reason
    assert ("each in two of them" in spec.reason) is ("RFlat" in factory and kind == "auto")
    assert spec.train_size <= n


@pytest.mark.parametrize(
    ("folder", "is_one_range"),
    [
        ("/photos", True),
        ("/photos/", True),
        ("/photos.old", True),
        ("/v1.2/2019.06", True),
        ("/a.jpg/photos", True),
        ("/photos#2", True),
        ("/a.JPG", False),
        ("/s.tar", False),
        ("/s.tar#1.webp", False),
        ("/c.jsonl#alone", False),
        ("/c.csv", False),
        ("/a.txt", False),
    ],
)
def test_a_folder_is_one_range(folder: str, is_one_range: bool) -> None:
    text = str(below(column("uri"), folder).compile(compile_kwargs={"literal_binds": True}))
    prefix = folder.rstrip("/")
    assert f"'{prefix}/'" in text
    assert (f"'{prefix}#'" not in text) is is_one_range
    assert (" OR " not in text) is is_one_range


def test_a_folder_whose_name_has_a_dot_is_told_from_its_neighbours(tmp_path: Path) -> None:
    toy = ToyEncoder()
    for number, name in enumerate(("p.old", "p.old#2", "p.older")):
        (tmp_path / name).mkdir()
        picture(number).save(tmp_path / name / "1.png")
    index([tmp_path / name for name in ("p.old", "p.old#2", "p.older")], collection=tmp_path / "c", encoder=toy)
    with SearchEngine(mmsearch.Collection.open(tmp_path / "c"), toy) as engine:
        found = engine.search(image=picture(0), only=Filter(under=(str(tmp_path / "p.old"),)))
    assert [hit.item.uri for hit in found] == [str(tmp_path / "p.old" / "1.png")]
