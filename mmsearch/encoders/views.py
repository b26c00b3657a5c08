"""Views: parts of a picture that an encoder is asked about besides the whole, and one vector of all of them.

The vector of one view is noisy: of the same picture mirrored, or without its margins, an encoder says something else.
The mean of several finds more than each (multi-crop testing, Krizhevsky et al. 2012). To embed a corpus that way would
take as many times as long; for the few candidates of a second look, and for a picture that is asked with, it does not
matter.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from mmsearch.types import Encoder, Float32, UInt8

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class View:
    """A box of a picture, `left`, `top`, `right` and `bottom` as shares of its sides; `mirrored` left to right."""

    left: float
    top: float
    right: float
    bottom: float
    mirrored: bool

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise ValueError(f"{self} is no box of a picture")

    @property
    def share(self) -> float:
        """The smaller of its two shares of the picture's sides."""
        return min(self.right - self.left, self.bottom - self.top)

    def see(self, image: Image.Image) -> Image.Image:
        """Return what the view shows of a picture, at least a pixel. Thread-safe."""
        from PIL.Image import Transpose

        width, height = image.size
        left, top = min(width - 1, round(self.left * width)), min(height - 1, round(self.top * height))
        right, bottom = max(left + 1, round(self.right * width)), max(top + 1, round(self.bottom * height))
        part = image.crop((left, top, right, bottom))
        return part.transpose(Transpose.FLIP_LEFT_RIGHT) if self.mirrored else part


@runtime_checkable
class MultiViewEncoder(Encoder, Protocol):
    """An encoder that is known to find more with some views."""

    @property
    def views(self) -> tuple[View, ...]:
        """Those besides the whole picture; none where nothing is known of any."""


@dataclass(frozen=True, slots=True)
class Views:
    """The views of an encoder, at least one."""

    encoder: Encoder
    boxes: tuple[View, ...]

    @property
    def fingerprint(self) -> str:
        """Two with one fingerprint make the same sums."""
        recipe = [self.encoder.spec.fingerprint, *map(asdict, self.boxes)]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()

    @property
    def min_side(self) -> int | None:
        """As that of an encoder; a view of half a picture needs twice as many pixels."""
        least = self.encoder.min_side
        return least and math.ceil(least / min(box.share for box in self.boxes))

    def prepare(self, image: Image.Image) -> UInt8:
        """Return the pixels (v, 3, S, S) of the views of an RGB picture. Thread-safe."""
        return np.stack([self.encoder.prepare_image(box.see(image)) for box in self.boxes])

    def sums(self, pixels: UInt8) -> Float32:
        """Return the sums (n, dim) of the vectors of the views of prepared pictures (n, v, 3, S, S)."""
        rows = self.encoder.encode_images(pixels.reshape(-1, *pixels.shape[2:]))
        summed: Float32 = rows.reshape(*pixels.shape[:2], self.encoder.spec.dim).sum(axis=1)
        return summed


def views_of(encoder: Encoder) -> Views | None:
    """Return the views of an encoder, None where it has none."""
    boxes = encoder.views if isinstance(encoder, MultiViewEncoder) else ()
    return Views(encoder, boxes) if boxes else None


def with_views(vectors: Float32, sums: Float32) -> Float32:
    """Return the mean directions (…, dim), of length 1, of whole pictures and their views.

    `vectors` (…, dim) are the unit vectors of the whole, `sums` (…, dim) the sums of those of the views.
    """
    total = vectors + sums
    found: Float32 = total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), np.float32(1e-12))
    return found
