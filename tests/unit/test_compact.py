"""The encoder that ships: canonical vectors, verified weights, notes on what it cannot read."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import shard
from mmsearch.encoders import load_encoder
from mmsearch.encoders.compact import WEIGHTS, CompactEncoder
from mmsearch.errors import UnknownEncoder, WeightsUnavailable
from mmsearch.images import decode, open_image
from mmsearch.types import Float32
from tests.support import PHOTOS

V6 = WEIGHTS / "compact-v6"
WITHOUT_HUBS, WITH_HUBS = slice(None, -2), slice(None)  # of the numbers of a vector
c, y, x = np.indices((3, 260, 260))
GOLDEN_PICTURES = {
    "(x * (c + 1) + 2 * y) % 256": (x * (c + 1) + 2 * y) % 256,
    "(x * y // (c + 1)) % 256": (x * y // (c + 1)) % 256,
    "(x // 20 + y // 20 + c) % 3 * 100": (x // 20 + y // 20 + c) % 3 * 100,
}
"""The pictures of golden.json by their formula there, on channel c, row y and column x."""


@pytest.fixture(scope="module")
def compact() -> CompactEncoder:
    encoder = load_encoder("compact")
    assert isinstance(encoder, CompactEncoder)
    return encoder


def test_canonical_vectors(compact: CompactEncoder) -> None:
    golden = json.loads((V6 / "golden.json").read_text())
    texts = compact.encode_texts([entry["text"] for entry in golden["texts"]])
    for row, entry in zip(texts, golden["texts"], strict=True):
        assert float(row @ np.array(entry["embedding"], np.float32)) >= 0.999
    assert len(golden["pictures"]) >= 3
    for entry in golden["pictures"]:
        pixels = GOLDEN_PICTURES[entry["formula"]].astype(np.uint8)
        row = compact.encode_images(pixels[None])[0]
        assert float(row @ np.array(entry["embedding"], np.float32)) >= 0.999


def test_pictures_and_words_meet(compact: CompactEncoder) -> None:
    names = ["red-car.jpg", "tabby-cat.jpg", "night-bridge.jpg", "coffee-cup.jpg"]
    words = ["a red car", "a cat", "a bridge at night", "a cup of coffee"]
    pixels = np.stack([compact.prepare_image(open_image(PHOTOS / name)) for name in names])
    similarity = compact.encode_texts(words) @ compact.encode_images(pixels).T
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_reduced_decoding_hardly_moves_the_vector(compact: CompactEncoder, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    open_image(PHOTOS / "tabby-cat.jpg").resize((4000, 3000)).save(large, quality=92)
    rows = [
        compact.encode_images(compact.prepare_image(open_image(large, min_side=side))[None])[0]
        for side in (None, compact.spec.image_size)
    ]
    assert float(rows[0] @ rows[1]) > 0.98


def test_weights_fit_and_are_accounted_for() -> None:
    assert sum(path.stat().st_size for path in V6.iterdir()) <= 40_000_000
    manifest = json.loads((V6 / "manifest.json").read_text())
    assert set(manifest["files"]) == {"image.onnx", "text.onnx", "hubs.npz", "tokenizer.json"}
    card = (V6 / "MODEL_CARD.md").read_text()
    assert all(word in card for word in ("EfficientNet-Lite2", "all-MiniLM-L6-v2", "COCO", "Flickr8k", "Apache-2.0"))
    assert all(source["sha256"] and source["licence"] for source in manifest["sources"])


def test_pictures_come_first_for_about_as_many_texts(compact: CompactEncoder) -> None:
    rows = [json.loads(line) for line in (PHOTOS / "captions.jsonl").read_text().splitlines()]
    pixels = np.stack([compact.prepare_image(open_image(PHOTOS / row["image"])) for row in rows])
    pictures, texts = compact.encode_images(pixels), compact.encode_texts([t for row in rows for t in row["captions"]])
    without, with_hubs = (skewness_of(texts[:, some] @ pictures[:, some].T) for some in (WITHOUT_HUBS, WITH_HUBS))
    assert with_hubs < without / 2


def skewness_of(scores: Float32) -> float:
    """Return that of how often a picture is among a text's first ten: how hubs are told (Radovanović et al. 2010)."""
    often = np.bincount(np.argsort(-scores, axis=1)[:, :10].ravel(), minlength=scores.shape[1])
    return float((((often - often.mean()) / often.std()) ** 3).mean())


@pytest.mark.needs_shared
def test_hubs_are_made_up_for(compact: CompactEncoder) -> None:
    """Recall at 1, the mean of both directions, is two points higher. (87 photographs are too few to tell.)"""
    samples = list(shard("flickr8k-dev-000"))
    pixels = [compact.prepare_image(decode(io.BytesIO(one.data), one.name)[0]) for one in samples]
    parts = [pixels[start : start + compact.image_batch] for start in range(0, len(pixels), compact.image_batch)]
    pictures = np.concatenate([compact.encode_images(np.stack(part)) for part in parts])
    texts = compact.encode_texts([caption for one in samples for caption in one.captions])
    owner = np.repeat(np.arange(len(samples)), [len(one.captions) for one in samples])
    found = []
    for some in (WITHOUT_HUBS, WITH_HUBS):
        scores = texts[:, some] @ pictures[:, some].T
        to_image = (scores.argmax(axis=1) == owner).mean()
        found.append((to_image + (owner[scores.argmax(axis=0)] == np.arange(len(samples))).mean()) / 2)
    without, with_hubs = found
    assert with_hubs > without + 0.02


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(V6, tmp_path / "w")
    data = bytearray((tmp_path / "w" / "text.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "w" / "text.onnx").write_bytes(data)
    encoder = CompactEncoder(tmp_path / "w")
    with pytest.raises(WeightsUnavailable, match="SHA-256"):
        encoder.encode_texts(["x"])
    (tmp_path / "w" / "image.onnx").unlink()
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        encoder.encode_images(np.zeros((1, 3, 260, 260), np.uint8))
    (tmp_path / "w" / "manifest.json").write_text("{")
    with pytest.raises(WeightsUnavailable, match="install mmsearch again"):
        CompactEncoder(tmp_path / "w")


def test_wrong_pixels_are_refused(compact: CompactEncoder) -> None:
    for bad in (np.zeros((1, 3, 224, 224), np.uint8), np.zeros((1, 3, 260, 260), np.float32)):
        with pytest.raises(ValueError, match="pixels must be uint8"):
            compact.encode_images(bad)


@pytest.mark.parametrize("text", ["红色的汽车", "красная машина", "赤い車", "سيارة حمراء", "qué 红色的汽车"])
def test_foreign_scripts_get_a_note(compact: CompactEncoder, text: str) -> None:
    (note,) = compact.text_notes(text)
    assert "multilingual OpenCLIP model" in note


@pytest.mark.parametrize("text", ["a red car", "über café", "", "?!", "2024", "a car named 红 in a street at night"])
def test_english_gets_none(compact: CompactEncoder, text: str) -> None:
    assert compact.text_notes(text) == ()


def test_long_texts_are_cut_and_that_is_logged(compact: CompactEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        one, other = compact.encode_texts(["dog " * 300, "dog " * 400])
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert "longer than 256 word pieces" in caplog.text


def test_versions_that_do_not_ship(tmp_path: Path) -> None:
    with pytest.raises(UnknownEncoder, match="ships compact:v6"):
        load_encoder("compact:v9")
    assert load_encoder("compact").spec == load_encoder("compact:v6").spec
