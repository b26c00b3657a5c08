"""The measure of pictures: the vector of the encoder that ships."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mmsearch.encoders import load_encoder
from mmsearch.types import Encoder, Float32
from tests.photograph import PHOTO


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("compact")


@pytest.fixture(scope="module")
def cosine(encoder: Encoder) -> Callable[[Image.Image], float]:
    """Return the likeness of a picture and the photograph: the least cosine of the whole and of parts of it.

    Of a whole picture and its mirror image the encoder says nearly the same, and is meant to. The parts are the left
    and the right half, and the upper right two thirds, where the dogs' heads are.
    """

    def vectors(image: Image.Image) -> Float32:
        width, height = image.size
        halves = ((0, 0, width // 2, height), (width // 2, 0, width, height))
        boxes = ((0, 0, width, height), *halves, (width // 3, 0, width, height * 2 // 3))
        return encoder.encode_images(np.stack([encoder.prepare_image(image.crop(box)) for box in boxes]))

    photo = vectors(PHOTO)
    return lambda image: float((vectors(image) * photo).sum(axis=1).min())
