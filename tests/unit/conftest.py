"""The measure of pictures: the vector of the encoder that ships."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from mmsearch.encoders import load_encoder
from mmsearch.types import Encoder, Float32
from tests.photograph import (
    PHOTO,
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("compact")


@pytest.fixture(scope="module")
def cosine(encoder: Encoder) -> Callable[[Image.Image], float]:
    """Return the likeness of a picture and the photograph."""

    def vector(image: Image.Image) -> Float32:
        return encoder.encode_images(encoder.prepare_image(image)[None])[0]

    photo = vector(PHOTO)
    return lambda image: float(vector(image) @ photo)
