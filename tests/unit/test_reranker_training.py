"""How a reranker is trained: tokens that are kept, candidates of the first stage, and what is written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.errors import EncoderError, MissingExtra, QueryError, UnknownReranker, WeightsUnavailable
from mmsearch.evaluation.dataset import Direction, load_eval_set
from mmsearch.evaluation.embed import EmbeddedSet, embed_set
from mmsearch.rerank import load_reranker
from mmsearch.rerank.cells import colour_cells, with_cells
from mmsearch.training import MatchRecipe, train_reranker
from mmsearch.training.rerank.feed import captions_of
from mmsearch.training.rerank.tokens import TokenSet, read_tokens, sweep
from mmsearch.training.store import write_reranker
from mmsearch.types import Float32, Mask, TokenEncoder, UInt8
from tests.shapes import draw_corpus
from tests.support import SHIPPED, ToyEncoder

torch = pytest.importorskip("torch", reason="needs the extra [train]")
pytest.importorskip("onnx", reason="needs the extra [train]")
judging = pytest.importorskip("mmsearch.training.rerank.candidates")
Candidates, best_weight = judging.Candidates, judging.best_weight
find_candidates, match = judging.find_candidates, judging.match
exporting = pytest.importorskip("mmsearch.training.rerank.export")
learning = pytest.importorskip("mmsearch.training.rerank.learner")
Learner, shape_of = learning.Learner, learning.shape_of


CELLS = 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of 300 drawn pictures of one shape above another."""
    return draw_corpus(tmp_path_factory.mktemp("shapes"), 300)


@pytest.fixture(scope="module")
def tokens(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """Return the tokens of the first twenty pictures."""
    return read_tokens(compact(), embedded(corpus, 20), tmp_path_factory.mktemp("tokens"), cells=CELLS)


def compact() -> TokenEncoder:
    encoder = load_encoder("compact")
    assert isinstance(encoder, TokenEncoder)
    return encoder


def embedded(corpus: Path, limit: int) -> EmbeddedSet:
    return embed_set(compact(), load_eval_set(corpus, CorpusOptions(), limit=limit), cache=None)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_encoder(corpus: Path, tokens: TokenSet) -> None:
    encoder = compact()
    data = tokens.embedded.data
    which = np.array([7, 0, 19])
    words, mask = tokens.words(which)
    exact, real = encoder.text_tokens([data.captions[number] for number in which])
    np.testing.assert_array_equal(mask, real.astype(np.float32))
    np.testing.assert_allclose(words, exact, atol=5e-3)
    seen = tokens.pictures(which)
    assert seen.shape[0] == 3
    from PIL import Image

    pixels = np.stack([encoder.prepare_image(Image.open(data.pictures[number]).convert("RGB")) for number in which])
    exact = encoder.image_tokens(pixels)
    assert np.abs(seen[:, :, : exact.shape[2]] - exact).max() <= np.abs(exact).max() / 250, "eight bits a number"
    colours = with_cells(exact, colour_cells(pixels, side=9, cells=CELLS))[:, :, exact.shape[2] :]
    np.testing.assert_array_equal(seen[:, :, exact.shape[2] :], colours)
    assert colours.shape[2] == 3 * CELLS**2


def test_tokens_are_read_once_and_forgotten_when_told(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = embedded(corpus, 6)
    first = read_tokens(compact(), some, tmp_path, cells=CELLS)
    expected = first.pictures(np.arange(6))

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("mmsearch.training.rerank.tokens.prepared", never)
    again = read_tokens(compact(), some, tmp_path, cells=CELLS)
    np.testing.assert_array_equal(again.pictures(np.arange(6)), expected)
    again.forget()
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(first.pictures(np.arange(6)), expected)


def test_colours_of_tokens_that_are_kept_run_no_tower(
    corpus: Path, tokens: TokenSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, encoder = embedded(corpus, 20), compact()
    read_tokens(encoder, some, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(encoder, "image_tokens", never)
    every = np.arange(20)
    found = read_tokens(encoder, some, tmp_path, cells=CELLS)
    np.testing.assert_array_equal(found.pictures(every), tokens.pictures(every))


def test_tokens_that_another_run_drops_meanwhile_are_read_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = embedded(corpus, 6)
    expected = read_tokens(compact(), some, tmp_path / "quiet", cells=CELLS)
    dropped: set[str] = set()

    def write(path: Path, rows: np.ndarray) -> None:
        path.parent.mkdir(exist_ok=True)
        if path.name in dropped:
            np.save(path, rows)
        dropped.add(path.name)  # the first time another run deletes it before it can be opened

    monkeypatch.setattr("mmsearch.training.rerank.tokens._write", write)
    found = read_tokens(compact(), some, tmp_path / "busy", cells=CELLS)
    assert len(dropped) == 4
    every = np.arange(6)
    np.testing.assert_array_equal(found.pictures(every), expected.pictures(every))
    np.testing.assert_array_equal(found.words(every)[0], expected.words(every)[0])


# --- candidates -----------------------------------------------------------------------------------------------------


def test_candidates_are_what_the_first_stage_brings(tokens: TokenSet) -> None:
    some = tokens.embedded
    found = find_candidates(tokens, Direction.TEXT_IMAGE, most=7, count=5)
    assert found.near.shape == (7, 5)
    for query, near, right in zip(found.queries, found.near, found.right, strict=True):
        scores = some.texts[query] @ some.images.T
        assert near.tolist() == np.argsort(-scores, kind="stable")[:5].tolist()
        assert right.tolist() == (near == some.data.owners[query]).tolist()
    found = find_candidates(tokens, Direction.IMAGE_TEXT, most=100, every=slice(1, None, 2))
    assert found.queries.tolist() == list(range(1, 20, 2))
    assert found.near.shape == (10, 20)


def test_the_best_weight_is_the_one_that_ranks_best() -> None:
    right = np.array([[False, True], [True, False]])
    some = Candidates(
        Direction.TEXT_IMAGE,
        np.arange(2),
        np.arange(2),
        np.zeros((2, 2), int),
        np.float32([[0.5, 0.48], [0.5, 0.4]]),
        right,
    )
    matched = np.float32([[0, 2], [0, 3]])  # helps the first from 0.01 on, harms the second beyond 0.033
    weight, gain = best_weight([some], [matched])
    assert 0.01 < weight < 0.034
    assert gain == 1.0
    assert some.recalls(matched, 0.0)["R@1"].tolist() == [0.0, 1.0]
    assert some.ranks(matched, 0.1).tolist() == [1, 2]


def test_what_a_matcher_says_of_candidates(tokens: TokenSet) -> None:
    recipe = MatchRecipe(width=32, layers=1, cells=CELLS)
    begin = captions_of(tokens)(np.arange(20), np.random.default_rng(0))
    matcher = Learner(shape_of(begin, recipe), recipe, [begin], steps=1).averaged()
    for direction in (Direction.TEXT_IMAGE, Direction.IMAGE_TEXT):
        some = find_candidates(tokens, direction, most=4, count=6)
        scores = match(matcher, tokens, some)
        query, near = int(some.queries[1]), int(some.near[1, 3])
        picture, text = (near, query) if direction is Direction.TEXT_IMAGE else (query, near)
        words, mask = (torch.from_numpy(part) for part in tokens.words(np.array([text])))
        with torch.no_grad():
            images = matcher.picture_states(torch.from_numpy(tokens.pictures(np.array([picture]))))
            exact = matcher(images[None], matcher.text_states(words)[None], mask[None])
        assert scores[1, 3] == pytest.approx(float(exact), abs=0.05), "computed in bfloat16"


def test_states_are_what_was_learned_on(tokens: TokenSet, home: Path) -> None:
    """What a reranker makes of pixels is what its matcher made of tokens that were read from files."""
    recipe = MatchRecipe(width=32, layers=1, cells=CELLS)
    begin = captions_of(tokens)(np.arange(20), np.random.default_rng(0))
    matcher = Learner(shape_of(begin, recipe), recipe, [begin], steps=1).averaged()
    graphs = exporting.export_matchers([matcher], mean=0.0)
    told = {"helped": True}
    write_reranker("mine", graphs, compact().spec, weight=0.05, cells=CELLS, card="", told=told, force=False)
    reranker = load_reranker("cross_attention:mine", compact())
    from PIL import Image

    pictures = tokens.embedded.data.pictures[:6]
    pixels = np.stack([reranker.prepare_image(Image.open(place).convert("RGB")) for place in pictures])
    with torch.no_grad():
        exact = matcher.picture_states(torch.from_numpy(tokens.pictures(np.arange(6)))).numpy()
    np.testing.assert_allclose(reranker.picture_states(pixels), exact, atol=0.1)
    assert reranker.picture_states(pixels[:0]).size == 0


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shapes_are_learned_and_nonsense_is_not(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands above what is what a vector forgets: a reranker is learned for the compact encoder in a minute."""
    monkeypatch.setenv("MMSEARCH_THREADS", "1")  # beside another worker threads wait for one another
    corpus = draw_corpus(tmp_path / "shapes", 500)
    report = train_reranker(corpus, "shapes", recipe=MatchRecipe(epochs=10, width=96))
    assert report.helped, report.summary
    assert report.summary.startswith("It helped: on 50 held-out pictures recall@1 went from ")
    assert report.verdict.gain.difference > 0.1
    assert report.weight > 0
    folder = home / "rerankers" / "shapes"
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "picture.onnx", "match.onnx", "MODEL_CARD.md"}
    assert "# cross_attention:shapes" in (folder / "MODEL_CARD.md").read_text()
    assert not list((home / "cache" / "training" / "tokens").iterdir()), "what was read is let go of"

    encoder = load_encoder("compact")
    assert load_reranker("auto", encoder).spec.uri == f"cross_attention:{SHIPPED}", "the one that ships comes first"
    dev = draw_corpus(tmp_path / "dev", 100, seed=1)
    directions = [Direction.TEXT_IMAGE]
    before, after = (
        mmsearch.evaluate(dev, encoder=encoder, directions=directions, rerank=uri).report()["text→image"]["R@1"]
        for uri in (None, "cross_attention:shapes")
    )
    assert after > before + 0.1
    with pytest.raises(EncoderError, match="is there already"):
        train_reranker(corpus, "shapes")

    nonsense = draw_corpus(tmp_path / "nonsense", 200, shuffled=True)
    report = train_reranker(nonsense, "nonsense", recipe=MatchRecipe(epochs=2))
    assert (report.helped, report.folder) == (False, None)
    assert report.summary.endswith("nothing was written.")
    with pytest.raises(UnknownReranker):
        load_reranker("cross_attention:nonsense", encoder)


def test_what_cannot_be_learned_from_is_told(corpus: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QueryError, match="cannot name a reranker"):
        train_reranker(corpus, "../mine")
    with pytest.raises(EncoderError, match="ships with mmsearch"):
        train_reranker(corpus, SHIPPED)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"\[cpu,train\]"):
        train_reranker(corpus, "mine")


class Oblong(ToyEncoder):
    """Eight patches, which are no square."""

    def image_tokens(self, pixels: UInt8) -> Float32:
        return np.zeros((len(pixels), 8, 4), np.float32)

    def text_tokens(self, texts: Sequence[str]) -> tuple[Float32, Mask]:
        return np.zeros((len(texts), 2, 4), np.float32), np.ones((len(texts), 2), np.bool_)


def test_an_encoder_that_will_not_do_is_refused_before_anything_is_embedded(corpus: Path, home: Path) -> None:
    for encoder, why in ((ToyEncoder(), "does not show its tokens"), (Oblong(), "8 patches, which are no square grid")):
        with pytest.raises(EncoderError, match=why):
            train_reranker(corpus, "mine", encoder=encoder)
        assert encoder.images == 0


def own(home: Path, name: str, **changes: object) -> Path:
    """Write the manifest of a reranker for the compact encoder, with changes, and return it."""
    path = home / "rerankers" / name / "manifest.json"
    path.parent.mkdir(parents=True)
    content = {
        "format": 1,
        "name": name,
        "encoder": {"uri": DEFAULT_ENCODER, "fingerprint": load_encoder("compact").spec.fingerprint},
        "weight": 0.02,
        "helped": True,
        "files": {"picture.onnx": {"sha256": "0"}, "match.onnx": {"sha256": "0"}},
    }
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_the_newest_of_ones_own_that_helped_is_taken_where_none_ships(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mmsearch.rerank.cross_attention.WEIGHTS", tmp_path / "none ships")
    encoder = load_encoder("compact")
    with pytest.raises(UnknownReranker, match="make one with 'mmsearch train CAPTIONS --reranker"):
        load_reranker("auto", encoder)
    newest = {"a-new-one": 3, "b-old-one": 2, "c-no-help": 4, "d-foreign": 5, "e-broken": 6, "f-later": 7}
    changes: dict[str, dict[str, object]] = {
        "c-no-help": {"helped": False},
        "d-foreign": {"encoder": {"uri": "x:y", "fingerprint": "0"}},
        "f-later": {"format": 3},
    }
    for name, when in newest.items():
        path = own(home, name, **changes.get(name, {}))
        if name == "e-broken":
            path.write_text("{")
        os.utime(path, (when, when))
    assert load_reranker("auto", encoder).spec.uri == "cross_attention:a-new-one"
    assert "e-broken" in caplog.text
    assert load_reranker("cross_attention:c-no-help", encoder).spec.uri == "cross_attention:c-no-help"
    with pytest.raises(
        UnknownReranker, match=f"d-foreign was made for x:y with other weights than those of {DEFAULT_ENCODER}"
    ):
        load_reranker("cross_attention:d-foreign", encoder)
    with pytest.raises(WeightsUnavailable, match="make it again with --force"):
        load_reranker("cross_attention:e-broken", encoder)
    with pytest.raises(WeightsUnavailable, match="has format 3, this mmsearch knows up to 2: update it"):
        load_reranker("cross_attention:f-later", encoder)
    with pytest.raises(UnknownReranker, match="there are cross_attention:a-new-one, cross_attention:b-old-one, "):
        load_reranker("cross_attention:nobody", encoder)


def test_what_was_given_up_is_swept(tmp_path: Path) -> None:
    for name, days in (("old", 8), ("new", 6)):
        (tmp_path / name).write_text("x")
        when = time.time() - days * 86400
        os.utime(tmp_path / name, (when, when))
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
