"""The recipe of the encoder, as far as it needs no torch: several teachers, and pictures that nobody captioned."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from training.compact.common import joined, unit
from training.compact.unlabelled import LONGEST, scaled


def encoded(size: tuple[int, int], kind: str = "PNG", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 77).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_committee_has_its_share_of_a_cosine(share: float) -> None:
    rng = np.random.default_rng(0)
    images, texts = ([unit(rng.normal(size=(n, 8)).astype(np.float32)) for _ in range(3)] for n in (5, 4))
    first, *rest = (a @ b.T for a, b in zip(images, texts, strict=True))

    found = joined(images[0], images[1:], share) @ joined(texts[0], texts[1:], share).T

    np.testing.assert_allclose(found, (1.0 - share) * first + share * np.mean(rest, axis=0), atol=1e-6)
    assert found.dtype == np.float32


def test_without_a_committee_the_teacher_stands_alone() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert joined(rows, [], 0.4) is rows


def test_pictures_are_scaled_down_and_never_up() -> None:
    for size, wanted in (((1000, 500), (LONGEST, 160)), ((200, 150), (200, 150))):
        content = scaled(encoded(size))
        assert content is not None
        image = Image.open(io.BytesIO(content))
        assert (image.format, image.size, image.mode) == ("JPEG", wanted, "RGB")


@pytest.mark.parametrize(
    "content", [encoded((127, 500)), b"", b"no picture", encoded((400, 300), "JPEG")[:300]], ids=str
)
def test_small_and_broken_pictures_are_left_out(content: bytes) -> None:
    assert scaled(content) is None
