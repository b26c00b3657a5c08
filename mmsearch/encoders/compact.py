"""CompactEncoder: a small dual encoder whose weights ship in the wheel. Offline, ONNX Runtime, CPU only.

Image tower EfficientNet-Lite2, text tower all-MiniLM-L6-v2, the last blocks of both tuned, with a trained head inside
the ONNX graphs; two coordinates of the vectors make up for hubs (`mmsearch.encoders.hubs`).
`weights/<version>/MODEL_CARD.md` tells sources, figures and weaknesses, `training/` the recipe.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmsearch.config import Settings
from mmsearch.encoders import DEFAULT_ENCODER
from mmsearch.encoders.hubs import Hubs
from mmsearch.encoders.languages import MULTILINGUAL_ADVICE, is_foreign
from mmsearch.encoders.preprocess import SquareResize
from mmsearch.encoders.views import View
from mmsearch.errors import UnknownEncoder, WeightsUnavailable
from mmsearch.runtime.onnx import OnnxSession, read_verified
from mmsearch.types import EncoderSpec, Float32, Int64, Mask, UInt8

if TYPE_CHECKING:
    from PIL import Image
    from tokenizers import Encoding, Tokenizer

WEIGHTS = Path(__file__).parent / "weights"
SCHEME = "compact"
VIEWS = (View(0.0, 0.0, 1.0, 1.0, True), View(0.2, 0.0, 1.0, 0.8, False), View(0.0, 0.2, 0.8, 1.0, True))
"""Chosen by `training.reranker.views`: the best three that there is time for besides the whole."""

_IMAGE_BATCH = 4
_TEXT_BATCH = 64
_UNKNOWN = "[UNK]"

_log = logging.getLogger(__name__)


def load(version: str = "", _device: str = "cpu") -> CompactEncoder:
    """Return the compact encoder of a version ("" is the latest); raise UnknownEncoder for one that does not ship."""
    latest = DEFAULT_ENCODER.partition(":")[2]
    folder = WEIGHTS / f"{SCHEME}-{version or latest}"
    if not (folder / "manifest.json").is_file():
        versions = sorted(path.name.removeprefix(f"{SCHEME}-") for path in WEIGHTS.glob(f"{SCHEME}-*"))
        shipped = ", ".join(f"{SCHEME}:{one}" for one in versions)
        raise UnknownEncoder(f"There is no encoder '{SCHEME}:{version}': this mmsearch ships {shipped or 'none'}.")
    return CompactEncoder(folder)


class CompactEncoder:
    """The towers in one weights folder. Each is loaded, and its hash checked, when it is first used."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        """Describe the encoder in `folder` from its manifest.json; `threads` defaults to those of `Settings`."""
        self._folder = folder
        self._threads = threads or Settings.from_environment().threads
        try:
            manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        except (OSError, ValueError) as error:
            raise WeightsUnavailable(
                f"{folder / 'manifest.json'} cannot be read ({error}): install mmsearch again."
            ) from error
        self._sha256 = {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
        self._crop = manifest["resize"] == "crop"
        self._max_tokens = int(manifest["max_tokens"])
        recipe = [
            manifest["resize"],
            manifest["interpolation"],
            manifest["image_size"],
            sorted(self._sha256.items()),
        ]
        self._spec = EncoderSpec(
            uri=f"{manifest['name']}:{manifest['version']}",
            dim=int(manifest["dim"]),
            image_size=int(manifest["image_size"]),
            fingerprint=hashlib.sha256(json.dumps(recipe).encode()).hexdigest(),
        )
        self._said_cut = False
        self._sessions: dict[str, OnnxSession] = {}
        self._lock = threading.Lock()

    @property
    def spec(self) -> EncoderSpec:
        """The description that a collection is bound to."""
        return self._spec

    @property
    def min_side(self) -> int:
        """The side of the input."""
        return self._spec.image_size

    @property
    def image_batch(self) -> int:
        """Four runs for each thread."""
        return 4 * _IMAGE_BATCH * self._threads

    @property
    def views(self) -> tuple[View, ...]:
        """The picture mirrored, and two opposite corners of four fifths of it."""
        return VIEWS

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the picture (RGB) resized with Pillow's bicubic filter, (3, S, S) uint8. Thread-safe."""
        return self.preparation(image)

    @property
    def preparation(self) -> Callable[[Image.Image], UInt8]:
        """What `prepare_image` does, as a value."""
        return SquareResize(self._spec.image_size, crop=self._crop).apply

    def encode_images(self, pixels: UInt8) -> Float32:
        """Return unit rows (n, dim) for prepared pictures (n, 3, S, S) uint8."""
        return self._hubs.pictures(self._run_images("embedding", pixels, (self._spec.dim,)))

    def image_tokens(self, pixels: UInt8) -> Float32:
        """Return the patch tokens (n, 81, 1280) before pooling, the 9 × 9 grid row by row."""
        return self._run_images("tokens", pixels, (0, 0))

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """Return unit rows (n, dim); a text over the context length (256 word pieces) is cut, and that is logged."""
        rows = np.empty((len(texts), self._spec.dim), dtype=np.float32)
        for order, ids, mask in self._text_batches(texts):
            found = self._text.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
            rows[order] = self._hubs.texts(found)
        return rows

    def text_tokens(self, texts: Sequence[str]) -> tuple[Float32, Mask]:
        """Return the last hidden states (n, tokens, 384) and the mask (n, tokens) that is True on real tokens."""
        parts = [
            (order, self._text.run(["tokens"], {"input_ids": ids, "attention_mask": mask})[0], mask)
            for order, ids, mask in self._text_batches(texts)
        ]
        longest = max((mask.shape[1] for _, _, mask in parts), default=0)
        width = parts[0][1].shape[2] if parts else 0
        tokens = np.zeros((len(texts), longest, width), dtype=np.float32)
        real = np.zeros((len(texts), longest), dtype=np.bool_)
        for order, states, mask in parts:
            tokens[order, : mask.shape[1]] = states * mask[..., np.newaxis]
            real[order, : mask.shape[1]] = mask.astype(np.bool_)
        return tokens, real

    def text_pieces(self, text: str) -> tuple[tuple[int, int], ...]:
        """Return the spans of characters that the tokens of a text stand for; empty ones for [CLS] and [SEP]."""
        return tuple(self._tokenizer.encode(text).offsets)

    def text_notes(self, text: str) -> tuple[str, ...]:
        """Return a sentence when half or more of the text's tokens are unknown to this English encoder."""
        pieces = [piece for piece in self._tokenizer.encode(text, add_special_tokens=False).tokens if piece.strip()]
        foreign = sum(piece == _UNKNOWN or is_foreign(piece) for piece in pieces)
        if not pieces or 2 * foreign < len(pieces):
            return ()
        return (
            f"{self._spec.uri} reads English and knows {len(pieces) - foreign} of the {len(pieces)} tokens here:"
            f" {MULTILINGUAL_ADVICE}",
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _run_images(self, output: str, pixels: UInt8, empty: tuple[int, ...]) -> Float32:
        size = self._spec.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pixels must be uint8 (n, 3, {size}, {size}), not {pixels.dtype} {pixels.shape}")
        if not len(pixels):
            return np.empty((0, *empty), dtype=np.float32)
        feeds = [{"pixels": pixels[start : start + _IMAGE_BATCH]} for start in range(0, len(pixels), _IMAGE_BATCH)]
        return np.concatenate(self._image.run_each(output, feeds))

    def _text_batches(self, texts: Sequence[str]) -> Iterator[tuple[Int64, Int64, Int64]]:
        """Yield (positions, input_ids, attention_mask), texts of like length together to save padding."""
        if not texts:
            return
        encoded: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        if not self._said_cut and any(item.overflowing for item in encoded):
            self._said_cut = True
            _log.warning("A text is longer than %d word pieces; what comes after them is left out.", self._max_tokens)
        by_length = sorted(range(len(encoded)), key=lambda position: len(encoded[position].ids))
        for start in range(0, len(by_length), _TEXT_BATCH):
            order = by_length[start : start + _TEXT_BATCH]
            longest = max(len(encoded[position].ids) for position in order)
            ids = np.zeros((len(order), longest), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, position in enumerate(order):
                length = len(encoded[position].ids)
                ids[row, :length] = encoded[position].ids
                mask[row, :length] = 1
            yield np.array(order, dtype=np.int64), ids, mask

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self._read("tokenizer.json").decode())

    @cached_property
    def _hubs(self) -> Hubs:
        return Hubs.from_bytes(self._read("hubs.npz"))

    @property
    def _image(self) -> OnnxSession:
        return self._session("image.onnx", threads=1, runs=self._threads)

    @property
    def _text(self) -> OnnxSession:
        return self._session("text.onnx", threads=self._threads, runs=1)

    def _session(self, name: str, *, threads: int, runs: int) -> OnnxSession:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = OnnxSession(self._read(name), threads=threads, runs=runs)
            return self._sessions[name]

    def _read(self, name: str) -> bytes:
        return read_verified(self._folder / name, self._sha256[name])
