"""Explanation: which parts of a picture answer which words, from the attention of a reranker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.engine.query import ImageQuery, TextQuery
from mmsearch.errors import UnknownReranker
from mmsearch.rerank import DEFAULT_RERANKER, load_reranker
from mmsearch.types import Encoder, ExplainingReranker, Float32

if TYPE_CHECKING:
    from PIL import Image

_SIDE = 320
_COLUMNS = 4
_BAND = 34
_GAP = 8
_WARM = (255, 90, 0)
_DIMMED = 0.45


@dataclass(frozen=True, slots=True)
class Explanation:
    """The words of a text, and for each its attention (words, rows, columns) over a picture in upright RGB.

    The attention of a word adds up to one. `similarity` is the cosine, `rerank_score` the matching score; `notes` tell
    what the encoder cannot make of the text.
    """

    words: tuple[str, ...]
    attention: Float32
    picture: Image.Image
    similarity: float
    rerank_score: float
    notes: tuple[str, ...] = ()

    def draw(self) -> Image.Image:
        """Return the picture as it is, and once for each word, bright where the word looked."""
        from PIL import Image, ImageDraw, ImageFont

        scale = _SIDE / max(self.picture.size)
        small = self.picture.resize(
            (max(1, round(self.picture.width * scale)), max(1, round(self.picture.height * scale)))
        )
        panels = [
            ("", small),
            *((word, _lit(small, one)) for word, one in zip(self.words, self.attention, strict=True)),
        ]
        columns = min(_COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        width, height = small.width + _GAP, small.height + _BAND
        sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
        for number, (word, panel) in enumerate(panels):
            left, top = _GAP + number % columns * width, _GAP + number // columns * height
            sheet.paste(panel, (left, top))
            title = word or f"cosine {self.similarity:.2f}, match {self.rerank_score:.1f}"
            pen.text((left, top + small.height + 3), title, fill="black", font=font)
        return sheet


def explain(
    text: str,
    image: str | os.PathLike[str] | Image.Image,
    *,
    encoder: Encoder | str = DEFAULT_ENCODER,
    reranker: str = DEFAULT_RERANKER,
) -> Explanation:
    """Return which parts of a picture (path or Pillow image) answer which words.

    Raise QueryError, UnreadableImage, UnknownEncoder, and UnknownReranker where there is none that can tell.
    """
    query = ImageQuery(Path(image) if isinstance(image, str | os.PathLike) else image)
    words = TextQuery(text).text
    towers = load_encoder(encoder) if isinstance(encoder, str) else encoder
    matcher = load_reranker(reranker, towers)
    if not isinstance(matcher, ExplainingReranker):
        raise UnknownReranker(f"{matcher.spec.uri} does not tell where it looks: choose another reranker.")
    picture = query.open(matcher.min_side)
    pixels = matcher.prepare_image(picture)[np.newaxis]
    states = matcher.picture_states(pixels)
    found, attention = matcher.attention(words, states)
    vectors = towers.encode_texts([words])[0], towers.encode_images(towers.prepare_image(picture)[np.newaxis])[0]
    return Explanation(
        words=found,
        attention=attention,
        picture=picture,
        similarity=float(vectors[0] @ vectors[1]),
        rerank_score=float(matcher.score([words], states)[0]),
        notes=towers.text_notes(words),
    )


def _lit(picture: Image.Image, attention: Float32) -> Image.Image:
    """Return the picture dimmed where the attention (rows, columns) is low, and in a warm tone where it is high."""
    from PIL import Image

    strength = attention / max(float(attention.max()), 1e-9)
    grey = Image.fromarray((255 * strength).astype(np.uint8))
    mask = np.asarray(grey.resize(picture.size, Image.Resampling.BICUBIC), dtype=np.float32)[..., np.newaxis] / 255
    pixels = np.asarray(picture, dtype=np.float32)
    lit = pixels * (_DIMMED + (1 - _DIMMED) * mask)
    warm = 0.75 * lit + 0.25 * np.array(_WARM, dtype=np.float32)
    return Image.fromarray(np.clip(lit * (1 - mask) + warm * mask, 0, 255).astype(np.uint8))
