"""What every Reranker keeps to. A new one adds one line to RERANKERS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmsearch.encoders import load_encoder
from mmsearch.errors import UnknownReranker
from mmsearch.rerank import load_reranker
from mmsearch.training import MatchRecipe, train_reranker
from mmsearch.types import Encoder, ExplainingReranker, Float32, Reranker
from tests.shapes import draw_corpus
from tests.support import ToyEncoder, ToyReranker, picture, tuned_encoder
from tests.tiny_models import make_blip, make_model


def learned(folder: Path, encoder: Encoder) -> Reranker:
    """Return a reranker that was learned for an encoder from 120 drawn pictures, in a step or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEARCH_HOME", str(folder / "home"))
        corpus = draw_corpus(folder / "shapes", 120)
        train_reranker(corpus, "mine", encoder=encoder, recipe=MatchRecipe(epochs=1, width=32, layers=1), keep=True)
        return load_reranker("cross_attention:mine", encoder)


def for_open_clip(folder: Path) -> Reranker:
    model = make_model("vit", folder / "model")
    return learned(folder, load_encoder(f"open_clip:local-dir:{model}", device="cpu"))


def for_tuned(folder: Path) -> Reranker:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEARCH_HOME", str(folder / "home"))
        tuned_encoder("mine")
        encoder = load_encoder("tuned:mine")
    return learned(folder, encoder)


RERANKERS: dict[str, Callable[[Path], Reranker]] = {
    "toy": lambda _: ToyReranker(),
    "the one that ships": lambda _: load_reranker("auto", load_encoder("compact")),
    "blip": lambda folder: load_reranker(f"blip:{make_blip(folder)}", ToyEncoder()),
    "learned for OpenCLIP": for_open_clip,
    "learned for a tuned encoder": for_tuned,
}
SIZES = [(1, 1), (7, 900), (320, 240)]
TEXTS = ["a red thing", "something blue that stands on a table beside something green", "日本", "word " * 600]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.needs_clip] if number > 1 else [])
        for number, name in enumerate(RERANKERS)
    ],
)
def reranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    return RERANKERS[request.param](tmp_path_factory.mktemp("blip"))


def states_of(reranker: Reranker, count: int) -> Float32:
    pixels = [reranker.prepare_image(picture(seed, SIZES[seed % len(SIZES)])) for seed in range(count)]
    return reranker.picture_states(np.stack(pixels))


def test_it_is_a_reranker_with_a_description(reranker: Reranker) -> None:
    assert isinstance(reranker, Reranker)
    assert len(reranker.spec.fingerprint) == 64
    assert ":" in reranker.spec.uri
    assert reranker.spec.weight > 0


def test_states_and_scores_have_their_shapes(reranker: Reranker) -> None:
    states = states_of(reranker, 4)
    assert states.ndim == 3
    assert states.dtype == np.float32
    for texts, some in ((TEXTS, states), (TEXTS[:1], states), (TEXTS, states[:1]), (TEXTS[:1], states[:1])):
        scores = reranker.score(texts, some)
        assert scores.shape == (max(len(texts), len(some)),)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()


def test_a_pair_does_not_depend_on_the_others(reranker: Reranker) -> None:
    states = states_of(reranker, 60)
    texts = [TEXTS[number % len(TEXTS)] for number in range(60)]
    together = reranker.score(texts, states)
    for number in (0, 1, 30, 59):
        alone = reranker.score(texts[number : number + 1], states[number : number + 1])
        np.testing.assert_allclose(alone[0], together[number], atol=1e-3)
    np.testing.assert_allclose(reranker.score(texts[:1], states), reranker.score(texts[:1] * 60, states), atol=1e-3)
    np.testing.assert_allclose(states_of(reranker, 3), states[:3], atol=1e-3)


def test_nothing_in_nothing_out(reranker: Reranker) -> None:
    assert reranker.score(TEXTS[:1], states_of(reranker, 2)[:0]).shape == (0,)


def test_the_attention_of_a_word_adds_up_to_one(reranker: Reranker) -> None:
    if not isinstance(reranker, ExplainingReranker):
        return
    try:
        words, shares = reranker.attention("A red-haired woman, smiling!", states_of(reranker, 1))
    except UnknownReranker as error:
        assert "does not tell words" in str(error)
        return
    assert len(words) == len(shares) >= 3
    assert {"woman", "A"} <= {word.strip(",!") for word in words}
    assert shares.ndim == 3
    np.testing.assert_allclose(shares.sum(axis=(1, 2)), 1.0, atol=1e-3)
