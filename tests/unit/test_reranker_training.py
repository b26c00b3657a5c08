"""How a reranker is learned: tokens that are kept, look-alikes, a matcher that learns, and what is written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmsearch
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders import load_encoder
from mmsearch.errors import EncoderError, MissingExtra, QueryError, UnknownReranker, WeightsUnavailable
from mmsearch.evaluation.dataset import Direction, load_eval_set
from mmsearch.evaluation.embed import EmbeddedSet, embed_set
from mmsearch.rerank import load_reranker
from mmsearch.training import MatchRecipe, train_reranker
from mmsearch.training.rerank.feed import Feed, Said, captions_of, look_alikes
from mmsearch.training.rerank.recipe import Pairs
from mmsearch.training.rerank.tokens import TokenSet, read_tokens, sweep
from mmsearch.types import Float32, Mask, TokenEncoder, UInt8
from tests.shapes import draw_corpus
from tests.support import ToyEncoder, random_units

torch = pytest.importorskip("torch", reason="needs the extra [train]")
pytest.importorskip("onnx", reason="needs the extra [train]")

from mmsearch.training.rerank.candidates import Candidates, best_weight, find_candidates, match  # noqa: E402
from mmsearch.training.rerank.export import export_matcher  # noqa: E402
from mmsearch.training.rerank.learner import Learner, shape_of  # noqa: E402
from mmsearch.training.rerank.matcher import Matcher, Shape  # noqa: E402

SMALL = MatchRecipe(group=4, groups=4, at_once=2, width=32, layers=1, rate=3e-3, dropout=0.0, epochs=1)
SIDE, WIDTH, THINGS = 3, 24, 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of 300 drawn pictures of one shape above another."""
    return draw_corpus(tmp_path_factory.mktemp("shapes"), 300)


@pytest.fixture(scope="module")
def tokens(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """Return the tokens of the first twenty pictures."""
    return read_tokens(compact(), embedded(corpus, 20), tmp_path_factory.mktemp("tokens"))


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
    assert np.abs(seen - exact).max() <= np.abs(exact).max() / 250, "eight bits a number"


def test_tokens_are_read_once_and_forgotten_when_told(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = embedded(corpus, 6)
    first = read_tokens(compact(), some, tmp_path)
    expected = first.pictures(np.arange(6))

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("mmsearch.training.rerank.tokens.prepared", never)
    again = read_tokens(compact(), some, tmp_path)
    np.testing.assert_array_equal(again.pictures(np.arange(6)), expected)
    again.forget()
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(first.pictures(np.arange(6)), expected)


# --- groups ---------------------------------------------------------------------------------------------------------


def test_groups_are_of_pictures_that_look_alike() -> None:
    rows = random_units(400, 16)
    rng = np.random.default_rng(0)
    groups = list(look_alikes(rows, among=200, group=8, rng=rng))
    every = np.concatenate(groups)
    assert len(set(every.tolist())) == len(every), "no picture is in two groups"
    assert len(every) > 300
    within = np.mean([(rows[g] @ rows[g].T).mean() for g in groups])
    at_random = np.mean([(rows[g] @ rows[g].T).mean() for g in rng.permutation(400).reshape(-1, 8)])
    assert within > 2 * at_random


def test_an_epoch_depends_on_its_number_alone() -> None:
    rows, kinds = random_units(200, 8), np.repeat([0, 1], 100)

    def draw(which: np.ndarray, _rng: np.random.Generator) -> Pairs:
        return Pairs(which[:, None, None].astype(np.float32), np.empty(0), np.empty(0))

    def seen(number: int) -> list[list[list[int]]]:
        feed = Feed(rows, kinds, draw, SMALL)
        return [[part.pictures.ravel().astype(int).tolist() for part in parts] for parts, _ in feed.epoch(number)]

    assert seen(3) == seen(3)
    assert seen(3) != seen(4)
    assert all(len({kinds[i] for i in part[:4]}) == 1 for parts in seen(3) for part in parts), "groups are of one kind"
    assert len(seen(3)) == Feed(rows, kinds, draw, SMALL).steps() == 12
    assert all(sum(map(len, parts)) == 16 for parts in seen(3)), "what makes no whole step is left for another epoch"
    few = Feed(rows[:9], kinds[:9], draw, SMALL)
    assert (few.steps(), len(list(few.epoch(0)))) == (1, 1)


def test_a_text_that_fits_two_pictures_is_no_negative() -> None:
    said = Said(["A dog.", "a cat", "a  DOG", "a bird"], np.array([0, 0, 1, 2]), 3)
    also = said.also(np.array([0, 1, 2]), np.array([0, 2, 3]))
    assert also.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    rng = np.random.default_rng(0)
    some = drawn(rng, 2)
    whole = replace(some, also=~np.eye(8, dtype=np.bool_))
    assert learner(1).step([whole], rng) == pytest.approx(0.0, abs=1e-5), (
        "nothing is left to tell a picture's text from"
    )
    assert learner(1).step([some], rng) > 1.0


def test_a_recipe_is_sized_by_the_pictures() -> None:
    few, many, given = (
        recipe.sized(count)
        for recipe, count in ((MatchRecipe(), 400), (MatchRecipe(), 30_000), (MatchRecipe(epochs=3, groups=2), 400))
    )
    assert (few.groups, few.epochs) == (4, 33)
    assert (many.groups, many.epochs) == (12, 6)
    assert (given.groups, given.epochs) == (2, 3)


# --- the matcher ----------------------------------------------------------------------------------------------------


def things() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((THINGS, WIDTH)).astype(np.float32)


def drawn(rng: np.random.Generator, groups: int, *, with_wrong: bool = False) -> Pairs:
    """Return groups of four pictures of two things, one in the upper and one in the lower half, and their texts.

    All four hold the same things: which is above tells two from the others, and a third word tells these apart.
    """
    known, size = things(), SIDE**2
    pictures = rng.normal(0, 0.1, (groups * 4, size, WIDTH)).astype(np.float32)
    words = np.zeros((groups * 4, 4, WIDTH), np.float32)
    for group in range(groups):
        one, other, third, fourth = rng.permutation(THINGS)[:4]
        for row, (above, below, beside) in enumerate(
            [(one, other, third), (other, one, third), (one, other, fourth), (other, one, fourth)]
        ):
            number = 4 * group + row
            for thing, places in ((above, [0, 1]), (below, [6, 7]), (beside, [5])):
                pictures[number, places] += known[thing]
            words[number, :3] = known[[above, below, beside]] + 0.5 * np.eye(3, WIDTH, dtype=np.float32)
    mask = np.tile(np.float32([1, 1, 1, 0]), (groups * 4, 1))
    if not with_wrong:
        return Pairs(pictures, words, mask)
    wrong = np.arange(0, groups * 4, 4)
    exchanged = words[wrong][:, [2, 1, 0, 3]]
    return Pairs(pictures, words, mask, wrong=exchanged, wrong_mask=mask[wrong], wrong_of=wrong)


def learner(steps: int, *, seed: int = 0, dropout: float = 0.0) -> Learner:
    begin = drawn(np.random.default_rng(9), 30)
    recipe = replace(SMALL, seed=seed, kept=1.0, dropout=dropout)
    return Learner(shape_of(begin, recipe), recipe, [begin], steps=steps)


def test_it_learns_what_stands_where() -> None:
    rng = np.random.default_rng(0)
    one = learner(150)
    losses = [one.step([drawn(rng, 2), drawn(rng, 2, with_wrong=True)], rng) for _ in range(150)]
    assert losses[0] == pytest.approx(np.log(4), abs=0.3)
    assert np.mean(losses[-20:]) < 0.6, "smoothing leaves 0.25"
    test = drawn(rng, 40)
    matcher = one.averaged()
    with torch.no_grad():
        parts = (torch.from_numpy(part).unflatten(0, (40, 4)) for part in (test.pictures, test.words, test.mask))
        images, texts, mask = parts
        scores = matcher(matcher.picture_states(images), matcher.text_states(texts), mask)
    assert float((scores.argmax(2) == torch.arange(4)).float().mean()) > 0.8, "a quarter is chance"


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def steps(some: Learner, first: int, last: int) -> list[float]:
        found = []
        for number in range(first, last):
            rng = np.random.default_rng(number)
            found.append(some.step([drawn(rng, 2)], rng))
        return found

    whole = learner(8, dropout=0.1)
    steps(whole, 0, 4)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = learner(8, dropout=0.1)
    kept.load_state_dict(state)
    before = torch.random.get_rng_state()
    assert steps(kept, 4, 8) == pytest.approx(steps(whole, 4, 8), abs=1e-4)
    assert torch.equal(torch.random.get_rng_state(), before), "what is drawn elsewhere is left alone"
    with pytest.raises(ValueError, match="has 8 steps, and this one 9"):
        learner(9).load_state_dict(state)


def test_a_pair_scores_the_same_in_every_company() -> None:
    torch.manual_seed(0)
    matcher = Matcher(Shape(WIDTH, WIDTH, SIDE, width=32, layers=2)).eval()
    some = drawn(np.random.default_rng(3), 1)
    images, texts, mask = (torch.from_numpy(part)[None] for part in (some.pictures, some.words, some.mask))
    with torch.no_grad():
        states, read = matcher.picture_states(images), matcher.text_states(texts)
        scores = matcher(states, read, mask)
        alone = matcher(states[:, 2:3], read[:, 1:2, :3], mask[:, 1:2, :3])
        padded = matcher(
            states[:, 2:3],
            torch.cat([read[:, 1:2], 9 * read[:, 1:2]], 2),
            torch.cat([mask[:, 1:2], 0 * mask[:, 1:2]], 2),
        )
    assert float(alone) == pytest.approx(float(scores[0, 1, 2]), abs=1e-4)
    assert float(padded) == pytest.approx(float(scores[0, 1, 2]), abs=1e-4)


def test_the_files_score_as_the_matcher_does(tmp_path: Path) -> None:
    import onnxruntime

    one = learner(3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        one.step([drawn(rng, 2)], rng)
    matcher, some = one.averaged(), drawn(rng, 3)
    graphs = export_matcher(matcher, mean=0.5)
    sessions = {name: onnxruntime.InferenceSession(data) for name, data in graphs.items()}
    (states,) = sessions["picture.onnx"].run(["states"], {"tokens": some.pictures})
    feeds = {"states": states, "words": some.words, "mask": some.mask}
    scores, attention = sessions["match.onnx"].run(["score", "attention"], feeds)
    with torch.no_grad():
        images, texts, mask = (torch.from_numpy(part)[:, None] for part in (some.pictures, some.words, some.mask))
        exact = matcher(matcher.picture_states(images), matcher.text_states(texts), mask)[:, 0, 0].numpy() - 0.5
    np.testing.assert_allclose(scores, exact, atol=1e-4)
    assert attention.shape == (12, 4, SIDE**2)
    np.testing.assert_allclose(attention.sum(axis=2), 1.0, atol=1e-4)
    assert matcher.outer.bias.item() == one.average.outer.bias.item(), "it is left as it was"


def test_tokens_narrower_than_the_matcher_are_read() -> None:
    begin = drawn(np.random.default_rng(0), 30)
    recipe = replace(SMALL, width=64)
    assert np.isfinite(
        Learner(shape_of(begin, recipe), recipe, [begin], steps=2).step(
            [drawn(np.random.default_rng(1), 2)], np.random.default_rng(0)
        )
    )


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
    recipe = MatchRecipe(width=32, layers=1)
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


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shapes_are_learned_and_nonsense_is_not(tmp_path: Path, home: Path) -> None:
    """What stands above what is what a vector forgets: a reranker is learned for the compact encoder in a minute."""
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
    assert load_reranker("auto", encoder).spec.uri == "cross_attention:compact-v2", "the one that ships comes first"
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
        train_reranker(corpus, "compact-v2")
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
        "encoder": {"uri": "compact:v2", "fingerprint": load_encoder("compact").spec.fingerprint},
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
        "f-later": {"format": 2},
    }
    for name, when in newest.items():
        path = own(home, name, **changes.get(name, {}))
        if name == "e-broken":
            path.write_text("{")
        os.utime(path, (when, when))
    assert load_reranker("auto", encoder).spec.uri == "cross_attention:a-new-one"
    assert "e-broken" in caplog.text
    assert load_reranker("cross_attention:c-no-help", encoder).spec.uri == "cross_attention:c-no-help"
    with pytest.raises(UnknownReranker, match="There is no reranker d-foreign for compact:v2"):
        load_reranker("cross_attention:d-foreign", encoder)
    with pytest.raises(WeightsUnavailable, match="make it again with --force"):
        load_reranker("cross_attention:e-broken", encoder)
    with pytest.raises(WeightsUnavailable, match="is of format 2, and this mmsearch reads 1"):
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
