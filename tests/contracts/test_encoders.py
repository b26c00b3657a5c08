"""What every Encoder keeps to. A new backend adds one line to ENCODERS."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.encoders.views import views_of
from mmsearch.types import Encoder, TokenEncoder
from tests.support import HAS_OPEN_CLIP, ToyEncoder, picture, tuned_encoder
from tests.tiny_models import FAMILIES


def open_clip(family: str) -> Callable[[Path], Encoder]:
    return lambda folder: load_encoder(f"open_clip:local-dir:{folder / family}", device="cpu")


ENCODERS: dict[str, Callable[[Path], Encoder]] = {
    "toy": lambda _: ToyEncoder(),
    DEFAULT_ENCODER: lambda _: load_encoder(DEFAULT_ENCODER),
    "tuned:contract": lambda _: tuned_encoder("contract"),
    **{f"open_clip {family}": open_clip(family) for family in FAMILIES},
}
SIZES = [(1, 1), (7, 900), (320, 240), (260, 260), (2000, 3)]
TEXTS = ["a dog", "", "a small red car on a street in the evening", "日本", "word " * 600]


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if not request.param.startswith("open_clip"):
        return ENCODERS[request.param](Path())
    if not HAS_OPEN_CLIP:
        pytest.skip("needs the extra [clip]")
    return ENCODERS[request.param](request.getfixturevalue("models"))


def test_it_is_an_encoder_with_a_description(encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    spec = encoder.spec
    assert spec.dim > 0
    assert spec.image_size > 0
    assert len(spec.fingerprint) == 64
    assert ":" in spec.uri
    assert encoder.image_batch > 0
    assert encoder.min_side is None or encoder.min_side >= spec.image_size


def test_prepared_pictures_have_one_shape(encoder: Encoder) -> None:
    size = encoder.spec.image_size
    for shape in SIZES:
        pixels = encoder.prepare_image(picture(1, shape))
        assert pixels.shape == (3, size, size)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous


def test_rows_are_float32_units(encoder: Encoder) -> None:
    pixels = np.stack([encoder.prepare_image(picture(seed, shape)) for seed, shape in enumerate(SIZES)])
    for rows, count in ((encoder.encode_images(pixels), len(SIZES)), (encoder.encode_texts(TEXTS), len(TEXTS))):
        assert rows.shape == (count, encoder.spec.dim)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-4)


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    size = encoder.spec.image_size
    assert encoder.encode_images(np.empty((0, 3, size, size), np.uint8)).shape == (0, encoder.spec.dim)
    assert encoder.encode_texts([]).shape == (0, encoder.spec.dim)


def test_a_row_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    pixels = np.stack([encoder.prepare_image(picture(seed)) for seed in range(20)])
    together = encoder.encode_images(pixels)
    texts = [f"{word} thing number {seed}" for seed, word in enumerate(["red", "small"] * 40)]
    all_texts = encoder.encode_texts(texts)
    atol = 1e-4 if getattr(encoder, "dtype", "float32") == "float32" else 1e-2  # bfloat16 has eight bits
    for row in (0, 7, 19):
        np.testing.assert_allclose(encoder.encode_images(pixels[row : row + 1])[0], together[row], atol=atol)
        np.testing.assert_allclose(encoder.encode_texts([texts[row]])[0], all_texts[row], atol=1e-4)


def test_views_are_boxes_with_vectors_of_the_encoder(encoder: Encoder) -> None:
    views = views_of(encoder)
    if views is None:
        return
    pixels = np.stack([views.prepare(picture(1, shape)) for shape in SIZES])
    size = encoder.spec.image_size
    assert pixels.shape == (len(SIZES), len(views.boxes), 3, size, size)
    sums = views.sums(pixels)
    assert sums.shape == (len(SIZES), encoder.spec.dim)
    assert sums.dtype == np.float32
    assert (np.linalg.norm(sums, axis=1) <= len(views.boxes) + 1e-3).all(), "of unit rows"
    np.testing.assert_allclose(views.sums(pixels[2:3]), sums[2:3], atol=1e-4)
    assert views.sums(pixels[:0]).shape == (0, encoder.spec.dim)


def test_threads_may_share_it(encoder: Encoder) -> None:
    pictures = [picture(seed) for seed in range(8)]
    alone = [encoder.encode_images(encoder.prepare_image(p)[None])[0] for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda p: encoder.encode_images(encoder.prepare_image(p)[None])[0], pictures))
    np.testing.assert_allclose(shared, alone, atol=1e-4)


def test_fingerprint_is_stable(encoder: Encoder) -> None:
    if encoder.spec.uri.startswith("tuned:"):
        tuned_encoder("contract")  # every test has a home folder of its own
    again = ToyEncoder() if encoder.spec.uri.startswith("toy") else load_encoder(encoder.spec.uri)
    assert again.spec == encoder.spec


def test_tokens_fit_the_rows(encoder: Encoder) -> None:
    if not isinstance(encoder, TokenEncoder):
        assert not hasattr(encoder, "image_tokens")
        return
    pixels = np.stack([encoder.prepare_image(picture(seed)) for seed in range(3)])
    patches = encoder.image_tokens(pixels)
    assert patches.ndim == 3
    assert len(patches) == 3
    assert np.isfinite(patches).all()
    tokens, mask = encoder.text_tokens(TEXTS)
    assert tokens.shape[:2] == mask.shape == (len(TEXTS), tokens.shape[1])
    assert mask.dtype == np.bool_
    assert mask.any(axis=1).all()
    assert (tokens[~mask] == 0).all()
    assert mask.sum(axis=1)[4] > mask.sum(axis=1)[0], "a longer text has more tokens"
    assert encoder.image_tokens(pixels[:0]).shape[0] == 0
