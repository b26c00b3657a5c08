"""What several tests need: a small deterministic encoder and pictures made on the spot."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from indexer import IndexReport, index
from mmsearch.collection.collection import Collection
from mmsearch.collection.maintenance import verify
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.encoders.tuned_head import TowerMap, TunedHead
from mmsearch.training.store import write_encoder
from mmsearch.types import DEFAULT_BOUND, Encoder, EncoderSpec, Float32, Modality, RerankerSpec, UInt8
from mmsearch.vectors.ann import AnnIndex

HAS_OPEN_CLIP = find_spec("open_clip") is not None and find_spec("transformers") is not None

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "data" / "photos"

SHIPPED = DEFAULT_ENCODER.replace(":", "-")
"""Where the weights of the encoder that ships lie, and what its reranker is called."""

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "yellow": (230, 230, 20),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
}


class ToyEncoder:
    """Colours in a grid; a text is the colour it names on a faint pattern of its own. Counts what it encodes."""

    def __init__(self, uri: str = "toy:1", *, side: int = 8) -> None:
        fingerprint = hashlib.sha256(uri.encode()).hexdigest()
        self._side = side
        self._spec = EncoderSpec(uri=uri, dim=3 * side * side, image_size=side, fingerprint=fingerprint)
        self.images = 0
        self.texts = 0

    @property
    def spec(self) -> EncoderSpec:
        return self._spec

    @property
    def min_side(self) -> int:
        return self._side

    @property
    def image_batch(self) -> int:
        return 32

    def prepare_image(self, image: Image.Image) -> UInt8:
        small = image.resize((self._side, self._side), Image.Resampling.BOX)
        return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))

    def encode_images(self, pixels: UInt8) -> Float32:
        self.images += len(pixels)
        return unit(pixels.reshape(len(pixels), self._spec.dim).astype(np.float32) - 127.5)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        self.texts += len(texts)
        rows = []
        for text in texts:
            colour = next((rgb for name, rgb in COLOURS.items() if name in text.lower()), (127, 127, 127))
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
            own = np.random.default_rng(seed).normal(0, 20, (3, self._side**2))
            rows.append((np.array(colour)[:, None] - 127.5 + own).reshape(-1))
        return unit(np.array(rows, dtype=np.float32).reshape(len(texts), self._spec.dim))

    def text_notes(self, text: str) -> tuple[str, ...]:
        return ("toy: that is Greek to me",) if any("α" <= char <= "ω" for char in text) else ()


class ToyReranker:
    """Colours of quadrants; a text matches a picture the better the nearer the last is to the colour that it names."""

    min_side: int | None = None

    def __init__(self, *, weight: float = 1.0, bound: float = DEFAULT_BOUND) -> None:
        self.spec = RerankerSpec("toy:reranker", hashlib.sha256(b"toy reranker").hexdigest(), weight, bound)
        self.seen = 0

    def prepare_image(self, image: Image.Image) -> UInt8:
        small = image.resize((2, 2), Image.Resampling.BOX)
        return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))

    def picture_states(self, pixels: UInt8) -> Float32:
        self.seen += len(pixels)
        return pixels.reshape(len(pixels), 3, 4).transpose(0, 2, 1).astype(np.float32) / 255

    def score(self, texts: Sequence[str], states: Float32) -> Float32:
        colours = [next((rgb for name, rgb in COLOURS.items() if name in text), (127, 127, 127)) for text in texts]
        difference = np.array(colours, np.float32) / 255 - states[:, -1]
        return -np.linalg.norm(difference, axis=1).astype(np.float32)

    def attention(self, text: str, states: Float32) -> tuple[tuple[str, ...], Float32]:
        words = tuple(text.split())
        return words, np.full((len(words), 2, 2), 0.25, np.float32)


def reloaded(index: AnnIndex, path: Path, *, dim: int, vectors: int) -> AnnIndex:
    """Return an index as it comes back from a file that it was saved to."""
    with path.open("wb") as file:
        index.save(file)
    return type(index).load(path, dim=dim, vectors=vectors)


def unit(rows: np.ndarray) -> Float32:
    """Return the rows (n, dim) at length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-9)).astype(np.float32)


def random_units(n: int, dim: int, seed: int = 0) -> Float32:
    """Return n clustered unit rows (n, dim)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 20), dim))
    return unit(centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, dim)))


def picture(seed: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """Return a picture of coloured blocks, another one for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def plain(colour: str, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """Return a picture of one colour."""
    return Image.new("RGB", size, COLOURS[colour])


def make_folder(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write `count` different pictures and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"p{number:04d}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        picture(number).save(path)
    return paths


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    """Return a picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def run(place: Path, toy: ToyEncoder, *sources: Path, **options: object) -> IndexReport:
    """Index sources into the collection at `place`, verify it, and return the report."""
    report = index(list(sources), collection=place, encoder=toy, **options)  # type: ignore[arg-type]
    if not report.dry_run:
        with Collection.open(place) as opened:
            assert verify(opened).problems == ()
    return report


def uris(place: Path) -> dict[str, int]:
    """Return the id of every picture by its name."""
    with Collection.open(place) as opened:
        return {
            Path(item.key).name: item.id
            for root in opened.catalog.roots()
            for item in opened.catalog.known_items(root.id)
            if item.modality is Modality.IMAGE
        }


def age(folder: Path) -> None:
    """Make every file look as if it had been written an hour ago."""
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 3_600_000_000_000))


def random_head(dim: int, seed: int = 0) -> TunedHead:
    """Return a head that moves vectors a little."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> Float32:
        return rng.normal(0, 0.02, shape).astype(np.float32)

    maps = [
        TowerMap(np.eye(dim, dtype=np.float32) + some(dim, dim), some(dim, 8), some(8), some(8, dim), some(dim))
        for _ in range(2)
    ]
    return TunedHead(*maps)


def tuned_encoder(name: str) -> Encoder:
    """Write an encoder tuned:NAME over the compact one into the home folder, and return it."""
    base = load_encoder("compact").spec
    write_encoder(name, random_head(base.dim), base, card="a card", told={}, force=True)
    return load_encoder(f"tuned:{name}")
