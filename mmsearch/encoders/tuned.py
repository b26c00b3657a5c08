"""TunedEncoder: another encoder and the head that `mmsearch train` learned for it. NumPy beside what the base needs.

    <home>/encoders/NAME/
      manifest.json     what it is built on (URI, fingerprint), the SHA-256 of the head, figures
      head.npz          a `TunedHead`
      MODEL_CARD.md     for people

URI: tuned:NAME. Its fingerprint is made of those of the base and of the head.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.config import Settings
from mmsearch.encoders import load_encoder
from mmsearch.encoders.tuned_head import TunedHead
from mmsearch.encoders.views import MultiViewEncoder, View
from mmsearch.errors import MmsearchError, QueryError, UnknownEncoder, WeightsUnavailable
from mmsearch.types import Encoder, EncoderSpec, Float32, Mask, PortableEncoder, TokenEncoder, UInt8

if TYPE_CHECKING:
    from PIL import Image

SCHEME = "tuned"
FORMAT = 1
MANIFEST, HEAD, CARD = "manifest.json", "head.npz", "MODEL_CARD.md"

_log = logging.getLogger(__name__)


def load(name: str, device: str = "auto") -> TunedEncoder:
    """Return a tuned encoder by its name.

    Raise UnknownEncoder, WeightsUnavailable for a head that is damaged or whose base is not here or has other weights,
    and what else loading the base raises.
    """
    manifest = read_manifest(name)
    settings = Settings.from_environment()
    asked = None if device == settings.device else device  # a base that runs on the CPU alone passes over the settings
    again = f"bring them back, or tune again with 'mmsearch train … --name {name} --force'."
    try:
        base = load_encoder(manifest.base, device=asked)
    except UnknownEncoder as error:
        raise WeightsUnavailable(
            f"{SCHEME}:{name} was tuned on {manifest.base}, whose weights are not here: {again}"
        ) from error
    if base.spec.fingerprint != manifest.base_fingerprint:
        raise WeightsUnavailable(
            f"{SCHEME}:{name} was tuned on {manifest.base}, whose weights here are others than those it was made with:"
            f" {again}"
        )
    return TunedEncoder(base, manifest.head(), uri=f"{SCHEME}:{name}", head_sha256=manifest.sha256)


@dataclass(frozen=True, slots=True)
class TunedManifest:
    """What the manifest of a tuned encoder says: its folder, its base, digest and size of its head, its widths."""

    name: str
    folder: Path
    base: str
    base_fingerprint: str
    sha256: str
    bytes: int
    dim: int
    image_size: int

    def head(self) -> TunedHead:
        """Return the head; raise WeightsUnavailable unless it is there and has the hash."""
        path = self.folder / HEAD
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WeightsUnavailable(
                f"The head {path} cannot be read ({error.strerror}): {_advice(self.name)}"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise WeightsUnavailable(
                f"The head {path} does not have the SHA-256 of its manifest: it is damaged, {_advice(self.name)}"
            )
        try:
            head = TunedHead.from_bytes(data)
        except ValueError as error:
            raise WeightsUnavailable(f"The head {path} is none ({error}): {_advice(self.name)}") from error
        if head.dim != self.dim:
            raise WeightsUnavailable(f"The head {path} is {head.dim} wide and not {self.dim}: {_advice(self.name)}")
        return head


def read_manifest(name: str) -> TunedManifest:
    """Return what is known of a tuned encoder; raise UnknownEncoder where there is none, WeightsUnavailable."""
    try:
        folder = Settings.from_environment().encoder_path(name)
    except QueryError as error:
        raise UnknownEncoder(f"There is no encoder '{SCHEME}:{name}': {error}") from error
    path = folder / MANIFEST
    if not path.is_file():
        there = ", ".join(f"{SCHEME}:{manifest.name}" for manifest in list_tuned())
        raise UnknownEncoder(
            f"There is no encoder '{SCHEME}:{name}': {f'there are {there}' if there else 'mmsearch train makes one'}."
        )
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["format"] > FORMAT:
            raise WeightsUnavailable(
                f"{path} has format {content['format']}, this mmsearch knows up to {FORMAT}: update it."
            )
        manifest = TunedManifest(
            name=name,
            folder=folder,
            base=str(content["base"]["uri"]),
            base_fingerprint=str(content["base"]["fingerprint"]),
            sha256=str(content["files"][HEAD]["sha256"]),
            bytes=int(content["files"][HEAD]["bytes"]),
            dim=int(content["dim"]),
            image_size=int(content["image_size"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error}): {_advice(name)}") from error
    if manifest.base.startswith(f"{SCHEME}:"):  # nothing that `mmsearch train` makes; it might even go in a circle
        raise WeightsUnavailable(f"{path} builds on {manifest.base}, which is tuned itself: {_advice(name)}")
    return manifest


def list_tuned() -> Iterator[TunedManifest]:
    """Yield the tuned encoders of the home folder in the order of their names; broken ones are logged."""
    folder = Settings.from_environment().home / "encoders"
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("."):  # one that is being written
            continue
        try:
            yield read_manifest(path.parent.name)
        except MmsearchError as error:
            _log.warning("%s", error)


def _advice(name: str) -> str:
    return f"restore it, or tune again with 'mmsearch train … --name {name} --force'."


class TunedEncoder:
    """An encoder whose vectors a head maps on. What its base offers beyond an Encoder it offers, too.

    Pictures are prepared, and tokens made, by the base.
    """

    preparation: Callable[[Image.Image], UInt8]
    image_tokens: Callable[[UInt8], Float32]
    text_tokens: Callable[[Sequence[str]], tuple[Float32, Mask]]

    def __init__(self, base: Encoder, head: TunedHead, *, uri: str, head_sha256: str) -> None:
        """Put a head behind an encoder of the same width."""
        self.base = base
        self._head = head
        recipe = json.dumps([SCHEME, FORMAT, base.spec.fingerprint, head_sha256])
        self._spec = EncoderSpec(
            uri=uri,
            dim=head.dim,
            image_size=base.spec.image_size,
            fingerprint=hashlib.sha256(recipe.encode()).hexdigest(),
        )
        if isinstance(base, PortableEncoder):
            self.preparation = base.preparation
        if isinstance(base, TokenEncoder):
            self.image_tokens, self.text_tokens = base.image_tokens, base.text_tokens

    @property
    def spec(self) -> EncoderSpec:
        """The description that a collection is bound to."""
        return self._spec

    @property
    def min_side(self) -> int | None:
        """That of the base."""
        return self.base.min_side

    @property
    def views(self) -> tuple[View, ...]:
        """Those of the base."""
        return self.base.views if isinstance(self.base, MultiViewEncoder) else ()

    @property
    def image_batch(self) -> int:
        """That of the base."""
        return self.base.image_batch

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the pixels (3, S, S) as the base prepares them. Thread-safe."""
        return self.base.prepare_image(image)

    def encode_images(self, pixels: UInt8) -> Float32:
        """Return unit rows (n, dim) for prepared pictures (n, 3, S, S) uint8."""
        return self._head.image.apply(self.base.encode_images(pixels))

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """Return unit rows (n, dim)."""
        return self._head.text.apply(self.base.encode_texts(texts))

    def text_notes(self, text: str) -> tuple[str, ...]:
        """Return what the base says of a text."""
        return self.base.text_notes(text)
