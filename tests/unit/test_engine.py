"""The engine over a small collection: every kind of query, and the state it answers from."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from indexer import index
from mmsearch.catalog.rows import NewItem
from mmsearch.collection.collection import Collection
from mmsearch.encoders import difference
from mmsearch.engine.engine import SearchEngine
from mmsearch.engine.fusion import RRF_K, reciprocal_rank_fusion
from mmsearch.engine.query import ImageQuery, TextQuery, parse_query
from mmsearch.errors import CollectionCorrupt, CollectionError, CollectionNotFound, EncoderMismatch, QueryError
from mmsearch.types import EncoderSpec, Hit, Item, Modality
from tests.support import COLOURS, ToyEncoder, make_folder, picture, plain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for name in COLOURS:
        plain(name).save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(f"all {name}")
    return place


@pytest.fixture
def engine(tmp_path: Path, folder: Path, toy: ToyEncoder) -> SearchEngine:
    index([folder], collection=tmp_path / "c", encoder=toy)
    return SearchEngine(Collection.open(tmp_path / "c"), toy)


def names(hits: mmsearch.SearchResult) -> list[str]:
    return [Path(hit.item.uri).stem for hit in hits]


def test_the_four_directions(engine: SearchEngine, folder: Path) -> None:
    assert names(engine.search("red", k=1)) == ["red"]
    assert names(engine.search(image=folder / "blue.png", k=1)) == ["blue"]
    assert names(engine.search(image=str(folder / "blue.png"), k=1)) == ["blue"]
    assert engine.search(image=plain("green"), target="text", k=1)[0].item.text == "all green"
    assert engine.search("all yellow", target="text", k=1)[0].similarity == pytest.approx(1.0, abs=2e-3)


def test_a_vector_is_a_query_of_any_length(engine: SearchEngine, toy: ToyEncoder) -> None:
    vector = toy.encode_texts(["red"])[0]
    assert names(engine.search(vector=3 * vector, k=2)) == names(engine.search("red", k=2))
    for bad in (np.zeros(192), np.ones(3), np.full(192, np.nan)):
        with pytest.raises(QueryError):
            engine.search(vector=bad)


def test_hits_are_ranked_and_hold_what_is_known(engine: SearchEngine) -> None:
    result = engine.search("red", k=4)
    assert len(result) == 4
    assert [hit.rank for hit in result] == [1, 2, 3, 4]
    assert all(a.score >= b.score for a, b in zip(result.hits, result.hits[1:], strict=False))
    item = result[0].item
    assert (item.modality, item.width, item.height, item.format) == (Modality.IMAGE, 32, 24, "PNG")
    assert item.captions == ("all red",)
    assert result.timings.keys() == {"encode", "search"}
    assert (result.commit, result.target, result.query) == (1, "image", "red")


def test_min_similarity_and_notes(engine: SearchEngine) -> None:
    best = engine.search("red", k=1)[0].similarity
    assert len(engine.search("red", k=10, min_similarity=best)) == 1
    assert len(engine.search("red", k=10, min_similarity=0.999)) == 0
    assert engine.search("αβγ").notes == ("toy: that is Greek to me",)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"text": "a", "image": "b.png"}, {"text": "  "}, {"text": "a", "k": 0}, {"text": "a", "target": "video"}],
)
def test_senseless_searches_are_refused(engine: SearchEngine, arguments: dict[str, object]) -> None:
    with pytest.raises(QueryError):
        engine.search(**arguments)  # type: ignore[arg-type]


def test_an_open_engine_sees_every_commit(engine: SearchEngine, folder: Path, tmp_path: Path) -> None:
    assert len(engine.search("red", k=50)) == 6
    plain("red", (64, 64)).save(folder / "another.png")
    make_folder(folder, 3)
    (folder / "black.png").unlink()
    index([folder], collection=tmp_path / "c", encoder=ToyEncoder())
    result = engine.search("red", k=50)
    assert (len(result), result.commit) == (9, 2)
    assert {"red", "another"} == set(names(result)[:2])


def test_searching_while_another_thread_commits_seals_and_builds(
    tmp_path: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.collection.writer.SEAL_ROWS", 40)
    folder = tmp_path / "many"
    make_folder(folder, 100)
    index([folder], collection=tmp_path / "c", encoder=toy)
    engine = SearchEngine(Collection.open(tmp_path / "c"), ToyEncoder())
    stop = threading.Event()
    problems: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert engine.search(image=picture(7), k=1)[0].similarity > 0.99
            except BaseException as error:  # noqa: BLE001 - reported below
                problems.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(1, 7):
        make_folder(folder, 30, first=100 * turn)
        index([folder], collection=tmp_path / "c", encoder=toy, index_kind="ivfpq" if turn % 2 else "flat")
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    engine.close()


def test_other_weights_are_refused(tmp_path: Path, folder: Path, toy: ToyEncoder) -> None:
    index([folder], collection=tmp_path / "c", encoder=toy)
    with pytest.raises(EncoderMismatch, match="other weights"):
        SearchEngine(Collection.open(tmp_path / "c"), ToyEncoder("toy:2"))


@pytest.mark.parametrize(
    ("bound", "here", "told"),
    [
        ("m/x", "m/x", "is bound to m/x, whose weights here are others than those it was made with"),
        ("m/x", "m/y", "is bound to the encoder m/x, and m/y has other weights"),
        ("m/x#a {}", "m/x", "is bound to m/x with the prompt template 'a {}', and here there is none"),
        ("m/x", "m/x#a {}", "is bound to m/x without a prompt template, and here it is 'a {}'"),
        ("m/x#a {}", "m/x#the {}", "is bound to m/x with the prompt template 'a {}', and here it is 'the {}'"),
        ("m/x#a {}", "m/y#the {}", "is bound to the encoder m/x#a {}, and m/y#the {} has other weights"),
        ("a#b", "a", "is bound to the encoder a#b, and a has other weights"),
    ],
)
def test_a_mismatch_names_what_differs(bound: str, here: str, told: str) -> None:
    assert difference(EncoderSpec(bound, 8, 8, "one"), EncoderSpec(here, 8, 8, "two")) == told


def test_a_closed_engine_says_so(tmp_path: Path, folder: Path, toy: ToyEncoder) -> None:
    index([folder], collection=tmp_path / "c", encoder=toy)
    engine = SearchEngine(Collection.open(tmp_path / "c"), toy)
    assert engine.search("red").hits
    engine.close()
    for ask in (lambda: engine.search("red"), engine.info, lambda: list(engine.items()), engine.compact):
        with pytest.raises(CollectionError, match=r"c was closed: open it again"):
            ask()


def test_reciprocal_rank_fusion_is_the_published_formula() -> None:
    def hit(rank: int, number: int) -> Hit:
        return Hit(rank, 0.5, Item(number, Modality.IMAGE, str(number), ""), 0.5)

    fused = reciprocal_rank_fusion([[hit(1, 7), hit(2, 3)], [hit(1, 3), hit(2, 5), hit(3, 7)]])
    assert [item.item.id for _, item in fused] == [3, 7, 5]
    assert fused[0][0] == pytest.approx(1 / (RRF_K + 1) + 1 / (RRF_K + 2))
    tied = reciprocal_rank_fusion([[hit(1, 9)], [hit(1, 4)]])
    assert [item.item.id for _, item in tied] == [4, 9]


def test_what_a_word_on_the_command_line_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(1).save(tmp_path / "a b.png")
    (tmp_path / "words").write_text("")
    monkeypatch.chdir(tmp_path)
    assert parse_query("a b.png") == ImageQuery(Path("a b.png"))
    assert parse_query("missing.png") == TextQuery("missing.png")
    assert parse_query("words") == TextQuery("words")
    assert parse_query("x" * 5000 + ".png") == TextQuery("x" * 5000 + ".png")


def test_the_front_door(home: Path, folder: Path) -> None:
    with pytest.raises(CollectionNotFound):
        mmsearch.open()
    report = mmsearch.index([folder], encoder=ToyEncoder())
    assert report.collection == str(home / "collections" / "default")
    with mmsearch.open() as photos, pytest.raises(mmsearch.errors.UnknownEncoder):
        photos.search("red")
    assert {"index", "open", "errors"} <= set(dir(mmsearch))
    assert all(getattr(mmsearch, name) is not None for name in mmsearch.__all__)
    with pytest.raises(AttributeError):
        mmsearch.nothing  # noqa: B018


def test_a_catalog_of_another_collection_is_refused(tmp_path: Path, toy: ToyEncoder) -> None:
    one = Collection.create(tmp_path / "one", toy.spec)
    two = Collection.create(tmp_path / "two", toy.spec)
    assert one.uuid != two.uuid
    one.close()
    two.close()
    (tmp_path / "one" / "catalog.sqlite3").replace(tmp_path / "two" / "catalog.sqlite3")
    with pytest.raises(CollectionCorrupt, match="belongs to another collection"):
        Collection.open(tmp_path / "two")


def test_a_read_only_folder_can_be_searched(
    engine: SearchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.close()
    monkeypatch.setattr("os.access", lambda *_: False)
    with SearchEngine(Collection.open(tmp_path / "c"), ToyEncoder()) as again:
        assert names(again.search("red", k=1)) == ["red"]
        with pytest.raises(CollectionError, match="read-only"), again.collection.writer():
            pass
        monkeypatch.undo()
        make_folder(tmp_path / "more", 3)
        index([tmp_path / "more"], collection=tmp_path / "c", encoder=ToyEncoder())
        assert len(again.search("red", k=50)) == 9


def test_writer_refuses_vectors_that_are_no_units(collection: Collection) -> None:
    item = NewItem("k", Modality.TEXT, "u", "g", b"h" * 32, 1, 1, 1, text="t")
    with collection.writer() as writer:
        root = writer.root("folder", "/x")
        for bad in (None, np.zeros(192, np.float32), np.ones(3, np.float32), np.full(192, np.nan, np.float32)):
            with pytest.raises(ValueError, match=r"vector"):
                writer.put(item, root, bad)
    with pytest.raises(RuntimeError), collection.writer() as writer:
        writer.put(item, writer.root("folder", "/y"), np.eye(1, 192, dtype=np.float32)[0])
        raise RuntimeError
    assert collection.info().modalities[Modality.TEXT].items == 0
