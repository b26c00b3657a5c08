"""A second look: the new order, what is kept of pictures, and what happens to candidates that cannot be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer import index
from mmsearch.collection.collection import Collection
from mmsearch.collection.states import StateCache, pack, unpack
from mmsearch.engine import query as query_module
from mmsearch.engine.engine import SearchEngine
from mmsearch.engine.explaining import Explanation
from mmsearch.engine.reranking import reordered
from mmsearch.errors import QueryError, UnknownReranker
from mmsearch.evaluation.dataset import Direction
from mmsearch.evaluation.runner import evaluate
from mmsearch.rerank import load_reranker
from mmsearch.rerank.blending import blend
from mmsearch.types import Filter, Hit, Item, Modality, SearchResult
from tests.support import COLOURS, SHIPPED, ToyEncoder, ToyReranker, plain


@pytest.fixture
def reranker(monkeypatch: pytest.MonkeyPatch) -> ToyReranker:
    """Return the reranker that every engine of a test gets."""
    toy = ToyReranker()
    monkeypatch.setattr("mmsearch.rerank.load_reranker", lambda _uri, _encoder, device=None: toy)
    return toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return pictures of one colour whose last quarter has another, so that encoder and reranker differ."""
    place = tmp_path / "pictures"
    place.mkdir()
    names = list(COLOURS)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        image = plain(name)
        image.paste(COLOURS[other], (image.width // 2, image.height // 2, image.width, image.height))
        image.save(place / f"{name}-{other}.png")
        (place / f"{name}-{other}.txt").write_text(f"all {other}")
    return place


@pytest.fixture
def engine(tmp_path: Path, folder: Path, toy: ToyEncoder) -> SearchEngine:
    index([folder], collection=tmp_path / "c", encoder=toy)
    return SearchEngine(Collection.open(tmp_path / "c"), toy)


def stems(result: SearchResult) -> list[str]:
    return [Path(hit.item.uri).stem for hit in result]


def test_words_find_what_is_read_together_with_them(engine: SearchEngine, reranker: ToyReranker) -> None:
    assert stems(engine.search("green", k=1)) == ["green-blue"]
    found = engine.search("green", k=6, rerank=True)
    assert stems(found)[0] == "red-green"
    assert [hit.rank for hit in found] == [1, 2, 3, 4, 5, 6]
    matched = np.float32([hit.rerank_score for hit in found])
    blended = blend(np.float32([hit.similarity for hit in found]), matched, reranker.spec.weight)
    assert [hit.score for hit in found] == pytest.approx(blended.tolist())
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert found.timings["rerank"] > 0
    assert found.notes == ()


def test_a_picture_finds_its_caption(engine: SearchEngine, reranker: ToyReranker, folder: Path) -> None:
    found = engine.search(image=folder / "red-green.png", target="text", k=2, rerank=True)
    assert found[0].item.text == "all green"
    assert engine.search(image=folder / "red-green.png", target="text", k=1)[0].item.text == "all red"


def test_the_second_time_no_picture_is_opened(engine: SearchEngine, reranker: ToyReranker, folder: Path) -> None:
    first = engine.search("green", rerank=True)
    assert reranker.seen == len(COLOURS)
    for path in folder.glob("*.png"):
        path.unlink()
    again = engine.search("green", rerank=True)
    assert reranker.seen == len(COLOURS)
    assert again.hits == first.hits, "to the last digit, cached or not"
    assert SearchEngine(engine.collection, engine.encoder).search("green", rerank=True).hits == first.hits


def test_what_is_gone_or_another_picture_by_now_keeps_its_place(
    engine: SearchEngine, reranker: ToyReranker, folder: Path
) -> None:
    before = engine.search("green")
    (folder / "green-blue.png").unlink()
    changed = next(place for place in range(2, 6) if stems(before)[place] != "red-green")
    plain("black").save(folder / f"{stems(before)[changed]}.png")
    found = engine.search("green", rerank=True)
    for place in (0, changed):
        assert found[place].item == before[place].item
        assert found[place].rerank_score is None
    assert stems(found)[1] == "red-green", "the first of those that could be looked at"
    assert sorted(stems(found)) == sorted(stems(before))
    (note,) = found.notes
    assert note.startswith("2 candidates kept the place of the first stage")


def test_only_the_candidates_move(engine: SearchEngine, reranker: ToyReranker) -> None:
    before = engine.search("green", k=6)
    found = engine.search("green", k=6, rerank=True, candidates=2)
    assert reranker.seen == 2
    assert stems(found)[2:] == stems(before)[2:]
    assert [hit.rerank_score is None for hit in found] == [False, False, True, True, True, True]
    assert len(engine.search("green", k=1, rerank=True)) == 1


def test_filters_and_limits_hold(engine: SearchEngine, reranker: ToyReranker, folder: Path) -> None:
    only = Filter(under=(str(folder / "blue-yellow.png"),))
    assert stems(engine.search("green", rerank=True, only=only)) == ["blue-yellow"]
    enough = engine.search("green")[2].similarity
    assert len(engine.search("green", rerank=True, min_similarity=enough)) == 3


def test_what_makes_no_pair_is_refused(engine: SearchEngine, reranker: ToyReranker, folder: Path) -> None:
    with pytest.raises(QueryError, match="target image"):
        engine.search("green", target="any", rerank=True)
    with pytest.raises(QueryError, match="target text"):
        engine.search(image=folder / "red-green.png", rerank=True)
    with pytest.raises(QueryError):
        engine.search(vector=engine.encoder.encode_texts(["red"])[0], rerank=True)
    with pytest.raises(QueryError):
        engine.search("green", rerank=True, candidates=0)


def test_an_encoder_without_one_is_told(engine: SearchEngine) -> None:
    with pytest.raises(UnknownReranker, match="There is no reranker for toy:1"):
        engine.search("green", rerank=True)
    with pytest.raises(UnknownReranker, match="known are auto"):
        load_reranker("magic", engine.encoder)
    with pytest.raises(UnknownReranker, match=f"there are cross_attention:{SHIPPED}"):
        load_reranker("cross_attention:nothing", engine.encoder)


def test_equal_scores_are_in_order_of_item_id() -> None:
    hits = [Hit(n, 0.5, Item(9 - n, Modality.IMAGE, str(n), str(n)), 0.5) for n in (1, 2, 3)]
    alike = np.ones(3, np.float32)
    assert [hit.item.id for hit in reordered(hits, range(3), alike, alike, ToyReranker(weight=0.1).spec)] == [6, 7, 8]


def test_how_far_a_match_brings_a_hit_is_bounded_by_the_reranker() -> None:
    hits = [Hit(n, cosine, Item(n, Modality.IMAGE, str(n), str(n)), cosine) for n, cosine in ((1, 0.5), (2, 0.25))]
    for bound, first in ((2.0, 1), (50.0, 2)):
        spec = ToyReranker(weight=0.1, bound=bound).spec
        found = reordered(hits, range(2), np.float32([0.5, 0.25]), np.float32([0.0, 10.0]), spec)
        assert found[0].item.id == first
        assert [hit.rank for hit in found] == [1, 2]


def test_a_picture_is_opened_once_for_both_stages(
    engine: SearchEngine, reranker: ToyReranker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    plainly = query_module.decode
    monkeypatch.setattr(query_module, "decode", lambda *a, **k: opened.append(a) or plainly(*a, **k))
    found = engine.search(image=folder / "red-green.png", target="text", rerank=True)
    assert len(opened) == 1
    assert found.query == str(folder / "red-green.png")


def test_compact_leaves_nothing_of_what_was_seen(engine: SearchEngine, reranker: ToyReranker, tmp_path: Path) -> None:
    engine.search("green", rerank=True)
    assert list((tmp_path / "c" / "cache").rglob("*.npy"))
    engine.compact()
    assert not (tmp_path / "c" / "cache").exists()
    assert stems(engine.search("green", rerank=True))[0] == "red-green"


def test_a_collection_that_cannot_be_written_is_reranked_all_the_same(
    engine: SearchEngine, reranker: ToyReranker, tmp_path: Path
) -> None:
    (tmp_path / "c" / "cache").write_text("a file where the folder would be")
    assert stems(engine.search("green", rerank=True))[0] == "red-green"


# --- what is kept ---------------------------------------------------------------------------------------------------


def states(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((9, 16)).astype(np.float32)


def test_states_come_back_nearly_as_they_were(tmp_path: Path) -> None:
    cache = StateCache(tmp_path / "states")
    assert cache.get(1) is None
    put = cache.put(1, states(1))
    kept = cache.get(1)
    assert kept is not None
    np.testing.assert_array_equal(kept, put)
    np.testing.assert_array_equal(kept, unpack(pack(states(1))))
    assert np.abs(kept - states(1)).max() <= np.abs(states(1)).max() / 254 + 1e-6
    np.testing.assert_array_equal(unpack(pack(np.zeros((2, 4), np.float32))), np.zeros((2, 4)))


def test_vectors_are_kept_with_sixteen_bits(tmp_path: Path) -> None:
    cache = StateCache(tmp_path / "views", half=True)
    vector = states(1)[0]
    kept = cache.put(1, vector)
    np.testing.assert_array_equal(kept, vector.astype(np.float16))
    np.testing.assert_array_equal(cache.get(1), kept)
    (path,) = (tmp_path / "views").iterdir()
    for other in (pack(states(1)), states(1)):
        np.save(path, other)
        assert cache.get(1) is None, "states are no vector"


def test_the_oldest_go_first(tmp_path: Path) -> None:
    cache = StateCache(tmp_path / "states", limit=5_000)
    for number in range(40):
        cache.put(number, states(number))
    held = sorted(int(path.stem) for path in (tmp_path / "states").iterdir())
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "states").iterdir()) <= 5_000
    assert held[-1] == 39
    assert 0 not in held


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"not an array", None])
def test_a_damaged_file_is_no_file(tmp_path: Path, content: bytes | None) -> None:
    cache = StateCache(tmp_path / "states")
    cache.put(7, states(7))
    (path,) = (tmp_path / "states").iterdir()
    if content is None:
        np.save(path, np.zeros((3, 4), np.float32))
    else:
        path.write_bytes(content)
    assert cache.get(7) is None
    cache.put(7, states(7))
    assert cache.get(7) is not None


# --- evaluating and explaining --------------------------------------------------------------------------------------


def test_eval_measures_the_second_look(folder: Path, toy: ToyEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = ToyReranker(weight=1.0, bound=50.0)  # with the bound of 2 one of six does not get past the others
    monkeypatch.setattr("mmsearch.evaluation.runner.load_reranker", lambda _uri, _encoder, device=None: reranker)
    corpus = folder / "captions.jsonl"
    corpus.write_text(
        "".join(f'{{"image": "{p.name}", "captions": ["all {p.stem.split("-")[1]}"]}}\n' for p in folder.glob("*.png"))
    )
    told: list[tuple[int, int]] = []
    with (
        evaluate(corpus, encoder=toy, cache=False) as before,
        evaluate(
            corpus, encoder=toy, cache=False, rerank="auto", candidates=6, reranking=lambda *n: told.append(n)
        ) as after,
        evaluate(corpus, encoder=toy, cache=False, rerank="auto", candidates=1) as barely,
    ):
        for direction in (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT):
            assert before.report()[direction]["R@1"] == 0.0
            assert after.report()[direction]["R@1"] == 1.0
            assert barely.report()[direction]["R@1"] == 0.0
            assert barely.report()[direction]["MRR"] == pytest.approx(before.report()[direction]["MRR"])
        assert after.report(worst=2).worst[0].rank == 1
        assert "toy:reranker over 6" in after.report().system
    assert (6, 6) in told
    assert reranker.seen == 12, "each picture once for each evaluation"


def test_a_map_has_a_panel_for_every_word() -> None:
    shares = np.full((5, 3, 3), 1 / 9, np.float32)
    drawn = Explanation(("a", "b", "c", "d", "e"), shares, plain("red", (640, 320)), 0.5, 1.0).draw()
    assert drawn.width > 4 * 320
    assert drawn.height > 2 * 160
    assert drawn.getpixel((20, 20)) == COLOURS["red"], "the picture itself comes first"
