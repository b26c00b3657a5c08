"""Views: parts of the best pictures that a reranker looks at, and the similarity of all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import index
from mmsearch.catalog.catalog import Catalog
from mmsearch.collection.collection import Collection
from mmsearch.encoders import load_encoder
from mmsearch.encoders.views import View, Views, views_of, with_views
from mmsearch.engine.engine import SearchEngine
from mmsearch.evaluation.dataset import Direction
from mmsearch.evaluation.reranked import RerankedSystem
from mmsearch.evaluation.runner import evaluate
from mmsearch.evaluation.systems import CollectionSystem
from mmsearch.rerank.multiview import VIEWED, multi_view_similarity
from mmsearch.types import Float32, RerankerSpec
from tests.support import COLOURS, ToyEncoder, ToyReranker, picture, plain, random_units, tuned_encoder


class ToyViewed(ToyEncoder):
    """A toy encoder with one view, the mirrored picture."""

    views = (View(0, 0, 1, 1, True),)


class Indifferent(ToyReranker):
    """A reranker to which all pairs match alike."""

    def score(self, texts: Sequence[str], states: Float32) -> Float32:
        return np.zeros(max(len(texts), len(states)), np.float32)


@pytest.fixture
def toy() -> ToyViewed:
    return ToyViewed()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return pictures of blocks, and what to call them."""
    place = tmp_path / "pictures"
    place.mkdir()
    for number, name in enumerate(COLOURS):
        image = plain(name, (32, 32))
        image.paste(picture(number, (16, 32)), (0, 0))
        image.save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(f"half of it is {name}")
    return place


@pytest.fixture
def engine(tmp_path: Path, folder: Path, toy: ToyViewed) -> SearchEngine:
    index([folder], collection=tmp_path / "c", encoder=toy)
    return SearchEngine(Collection.open(tmp_path / "c"), toy)


@pytest.fixture
def reranker(monkeypatch: pytest.MonkeyPatch) -> Indifferent:
    """Return the reranker that every engine and evaluation of a test gets."""
    made = Indifferent()
    for place in ("mmsearch.rerank.load_reranker", "mmsearch.evaluation.runner.load_reranker"):
        monkeypatch.setattr(place, lambda _uri, _encoder, device=None: made)
    return made


def exact(toy: ToyViewed, path: Path) -> Float32:
    """Return the mean direction (dim,) of a picture and its mirror image, worked out here."""
    with Image.open(path) as image:
        rows = toy.encode_images(
            np.stack([toy.prepare_image(one) for one in (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))])
        )
    total = rows.sum(axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


# --- boxes and vectors ----------------------------------------------------------------------------------------------


def test_a_view_shows_its_box() -> None:
    image = picture(3, (80, 60))
    seen = View(0.25, 0, 1, 0.5, False).see(image)
    assert seen.size == (60, 30)
    assert seen.tobytes() == image.crop((20, 0, 80, 30)).tobytes()
    turned = View(0.25, 0, 1, 0.5, True).see(image)
    assert turned.tobytes() == seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert View(0, 0, 1, 1, False).see(image).tobytes() == image.tobytes()
    assert View(0.2, 0.4, 0.8, 1, False).share == pytest.approx(0.6)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2, 1)])
def test_a_view_of_the_smallest_pictures_is_a_pixel(size: tuple[int, int]) -> None:
    for box in ((0.9, 0.9, 1, 1), (0, 0, 0.1, 0.1), (0.4, 0.4, 0.6, 0.6)):
        assert min(View(*box, True).see(picture(1, size)).size) >= 1


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.2), (0, float("nan"), 1, 1)])
def test_a_box_outside_of_the_picture_is_none(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="is no box of a picture"):
        View(*box, False)


def test_the_vector_of_all_views_has_their_mean_direction() -> None:
    rows, more = random_units(5, 16, seed=1), random_units(10, 16, seed=2).reshape(5, 2, 16)
    found = with_views(rows, more.sum(axis=1))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    mean = (rows + more.sum(axis=1)) / 3
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(with_views(rows, np.zeros_like(rows)), rows, atol=1e-6)
    assert np.isfinite(with_views(rows, -rows)).all(), "views that cancel the whole out"


def test_the_best_by_both_scores_are_looked_at_closer() -> None:
    rng = np.random.default_rng(0)
    seen, query = random_units(30, 8, seed=4), random_units(1, 8, seed=5)[0]
    similarity, matched = random_units(30, 8, seed=3) @ query, rng.standard_normal(30).astype(np.float32)
    asked: list[int] = []

    def vectors_of(best: Sequence[int]) -> dict[int, Float32]:
        asked.extend(best)
        return {place: seen[place] for place in best if place % 2}  # the others are gone

    spec = RerankerSpec("toy:1", "", weight=0.5, bound=50.0)
    found = multi_view_similarity(similarity, matched, spec, query=query, vectors_of=vectors_of)
    blended = similarity + 0.5 * matched  # the bound of 50 is far away
    assert sorted(asked) == sorted(np.argsort(-blended)[:VIEWED].tolist())
    for place in range(30):
        looked_at = place in asked and place % 2
        expected = seen[place] @ query if looked_at else similarity[place]
        assert found[place] == pytest.approx(float(expected), abs=1e-6)
    assert similarity is not found, "what the caller has stays as it was"


def test_without_a_picture_to_look_at_all_stays() -> None:
    similarity, matched, query = np.float32([0.3, 0.2]), np.zeros(2, np.float32), np.ones(4, np.float32)
    spec = RerankerSpec("toy:1", "", 1.0)
    found = multi_view_similarity(similarity, matched, spec, query=query, vectors_of=lambda _best: {})
    assert found.tolist() == similarity.tolist()


# --- searching ------------------------------------------------------------------------------------------------------


def test_pictures_have_the_similarity_of_all_their_views(
    engine: SearchEngine, reranker: Indifferent, toy: ToyViewed, folder: Path
) -> None:
    words = toy.encode_texts(["red"])[0]
    plainly = {hit.item.uri: hit.similarity for hit in engine.search("red")}
    found = engine.search("red", rerank=True)
    assert len(found) == len(COLOURS) <= VIEWED
    for hit in found:
        expected = float(exact(toy, Path(hit.item.uri)) @ words)
        assert hit.similarity == pytest.approx(expected, abs=2e-3), "stored vectors have sixteen bits a number"
        assert hit.score == pytest.approx(hit.similarity), "all of them match alike"
        assert abs(plainly[hit.item.uri] - expected) > 5e-3, "which is another one than before"
    assert [hit.similarity for hit in found] == sorted((hit.similarity for hit in found), reverse=True)


def test_captions_have_the_similarity_with_all_views_of_the_picture(
    engine: SearchEngine, reranker: Indifferent, toy: ToyViewed, folder: Path
) -> None:
    picture_asked = folder / "blue.png"
    plainly = {hit.item.text: hit.similarity for hit in engine.search(image=picture_asked, target="text")}
    found = engine.search(image=picture_asked, target="text", rerank=True)
    for hit in found:
        expected = float(exact(toy, picture_asked) @ toy.encode_texts([hit.item.text or ""])[0])
        assert hit.similarity == pytest.approx(expected, abs=2e-3)
        assert abs(plainly[hit.item.text] - expected) > 5e-3, "which is another one than before"
    assert [hit.similarity for hit in found] == sorted((hit.similarity for hit in found), reverse=True)
    assert reranker.seen == 1


def test_views_are_kept_and_only_the_best_are_looked_at(
    engine: SearchEngine, reranker: Indifferent, toy: ToyViewed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.rerank.multiview.VIEWED", 2)
    plainly = engine.search("green")
    toy.images = 0
    first = engine.search("green", rerank=True)
    assert toy.images == 2, "one view of two pictures"
    changed = [hit.item.uri for hit in first if hit.similarity not in {one.similarity for one in plainly}]
    assert sorted(changed) == sorted(hit.item.uri for hit in plainly[:2])
    for path in folder.glob("*.png"):
        path.unlink()
    again = engine.search("green", rerank=True)
    assert again.hits == first.hits, "to the last digit, cached or not"
    assert (toy.images, reranker.seen) == (2, len(COLOURS))
    monkeypatch.setattr("mmsearch.rerank.multiview.VIEWED", 3)
    third = engine.search("green", rerank=True)
    by_path = {hit.item.uri: hit for hit in third}
    assert by_path[plainly[2].item.uri].similarity == plainly[2].similarity, "its file is gone: the whole counts"
    assert by_path[plainly[2].item.uri].rerank_score is not None


def test_what_has_lost_its_vector_meanwhile_keeps_its_cosine(
    engine: SearchEngine, reranker: Indifferent, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = engine.search("green"), engine.search(image=folder / "red.png", target="text")
    contents = Catalog.contents_of_items

    def moved(catalog: Catalog, item_ids: Iterable[int]) -> dict[int, tuple[int, bytes]]:
        return {item: (10**6 + vector, content) for item, (vector, content) in contents(catalog, item_ids).items()}

    monkeypatch.setattr(Catalog, "contents_of_items", moved)
    pictures, captions = (
        engine.search("green", rerank=True),
        engine.search(image=folder / "red.png", target="text", rerank=True),
    )
    for before, after in zip(plainly, (pictures, captions), strict=True):
        assert [(hit.item, hit.similarity) for hit in after] == [(hit.item, hit.similarity) for hit in before]
    assert {hit.rerank_score for hit in pictures} == {0.0}
    assert {hit.rerank_score for hit in captions} == {None}, "their cosines with the views are not known"


def test_copies_are_one_picture(
    tmp_path: Path, reranker: Indifferent, toy: ToyViewed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.rerank.multiview.VIEWED", 2)
    for number in range(3):
        shutil.copy(folder / "green.png", folder / f"copy-{number}.png")
    index([folder], collection=tmp_path / "c", encoder=toy)
    engine = SearchEngine(Collection.open(tmp_path / "c"), toy)
    (folder / "green.png").unlink()
    toy.images = 0
    first = engine.search("green", rerank=True)
    assert (reranker.seen, toy.images) == (len(COLOURS), 2), "each picture once, and two of them in views"
    alike = [hit for hit in first if Path(hit.item.uri).stem.startswith(("copy", "green"))]
    assert len(alike) == 4
    assert len({(hit.similarity, hit.score, hit.rerank_score) for hit in alike}) == 1
    assert alike[0].rerank_score is not None, "one copy is enough to look at"
    assert engine.search("green", rerank=True).hits == first.hits
    assert first.notes == ()


def test_a_picture_that_changed_after_its_states_were_kept(
    engine: SearchEngine, reranker: Indifferent, toy: ToyViewed, folder: Path
) -> None:
    engine.search("green", rerank=True)
    views = views_of(toy)
    assert views is not None
    shutil.rmtree(engine.collection.layout.views(views.fingerprint))
    plain("black", (32, 32)).save(folder / "green.png")
    found = {Path(hit.item.uri).stem: hit for hit in engine.search("green", rerank=True)}
    plainly = {Path(hit.item.uri).stem: hit for hit in engine.search("green")}
    assert found["green"].similarity == plainly["green"].similarity
    assert found["green"].rerank_score is not None
    assert found["blue"].similarity != plainly["blue"].similarity


def test_another_engine_reads_what_was_kept_of_views(
    engine: SearchEngine, reranker: Indifferent, toy: ToyViewed
) -> None:
    first = engine.search("green", rerank=True)
    toy.images = 0
    with SearchEngine(Collection.open(engine.collection.layout.root), toy) as other, ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: other.search("green", rerank=True), range(8)):
            assert again.hits == first.hits
    assert toy.images == 0


def test_the_threshold_is_that_of_the_first_stage(engine: SearchEngine, reranker: Indifferent) -> None:
    plainly = engine.search("green")
    least = plainly[2].similarity
    found = engine.search("green", rerank=True, min_similarity=least)
    assert {hit.item.uri for hit in found} == {hit.item.uri for hit in plainly[:3]}


def test_eval_scores_as_a_search_does(
    engine: SearchEngine, reranker: Indifferent, toy: ToyViewed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsearch.rerank.multiview.VIEWED", 3)
    corpus = folder / "captions.jsonl"
    corpus.write_text(
        "".join(json.dumps({"image": f"{name}.png", "captions": [f"half of it is {name}"]}) + "\n" for name in COLOURS)
    )
    with evaluate(corpus, encoder=toy, cache=False, rerank="auto") as alone:
        through_index = RerankedSystem(
            CollectionSystem(engine, alone.system.data), reranker, candidates=50, views=views_of(toy)
        )
        for system in (alone.system, through_index):
            assert len(system.tasks) == 2
            for task in system.tasks:
                near = system.nearest(task, [0], 6)
                if task.direction is Direction.TEXT_IMAGE:
                    hits = engine.search(system.data.captions[int(task.queries[0])], rerank=True)
                else:
                    path = system.data.pictures[int(task.queries[0])]
                    hits = engine.search(image=path, target="text", rerank=True)
                np.testing.assert_allclose(near.scores[0], [hit.score for hit in hits], atol=2e-3)
                named = system.describe(task, near.ids[0].tolist())
                assert [named[one][1] for one in near.ids[0].tolist()] == [
                    hit.item.text or hit.item.uri for hit in hits
                ]


# --- encoders -------------------------------------------------------------------------------------------------------


def test_compact_sums_the_vectors_of_its_views() -> None:
    encoder = load_encoder("compact")
    views = views_of(encoder)
    assert views is not None
    assert len(views.boxes) == 3
    images = [picture(seed, (300, 200)) for seed in range(2)]
    sums = views.sums(np.stack([views.prepare(image) for image in images]))
    for image, found in zip(images, sums, strict=True):
        seen = np.stack([encoder.prepare_image(box.see(image)) for box in views.boxes])
        np.testing.assert_allclose(found, encoder.encode_images(seen).sum(axis=0), atol=1e-4)
    assert views.min_side == 325, "260 pixels in four fifths of a picture"


def test_a_tuned_encoder_has_the_views_of_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path))
    tuned_encoder("mine")
    tuned, base = views_of(load_encoder("tuned:mine")), views_of(load_encoder("compact"))
    assert tuned is not None and base is not None
    assert tuned.boxes == base.boxes
    assert tuned.fingerprint != base.fingerprint, "its vectors are others"
    pixels = np.stack([tuned.prepare(picture(1, (300, 200)))])
    assert np.abs(tuned.sums(pixels) - base.sums(pixels)).max() > 1e-3


def test_views_have_a_fingerprint() -> None:
    toy, mirror = ToyEncoder(), View(0, 0, 1, 1, True)
    made = Views(toy, (mirror,))
    assert made.fingerprint == Views(ToyEncoder(), (mirror,)).fingerprint
    assert made.fingerprint != Views(toy, (View(0, 0, 1, 1, False),)).fingerprint
    assert made.fingerprint != Views(toy, (mirror, mirror)).fingerprint
    assert (made.min_side, Views(toy, (View(0, 0, 0.5, 1, False),)).min_side) == (8, 16)
    assert views_of(toy) is None, "nothing is known of any"
