"""The words that every part of mmsearch speaks in: values and Protocols, no behaviour.

Vectors are float32 unit rows when they are computed and float16 when they are stored; a `similarity` is always the
cosine of the stored float16 row with the query, computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]
UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Modality(StrEnum):
    """What a vector stands for."""

    IMAGE = "image"
    TEXT = "text"


# --- encoders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What a collection must know of its encoder.

    Two encoders with one `fingerprint` make the same vectors: it covers the weights and the preprocessing.
    """

    uri: str
    dim: int
    image_size: int
    fingerprint: str


@runtime_checkable
class Encoder(Protocol):
    """Two towers that turn pictures and texts into unit vectors of one space."""

    @property
    def spec(self) -> EncoderSpec:
        """The description that a collection is bound to."""

    @property
    def min_side(self) -> int | None:
        """The short side in pixels down to which a JPEG may be decoded at a reduced scale; None: never."""

    @property
    def image_batch(self) -> int:
        """How many pictures to hand to `encode_images` at a time to keep what it runs on busy; it may change."""

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the pixels (3, S, S), uint8, that `encode_images` takes; S is `spec.image_size`. Thread-safe."""

    def encode_images(self, pixels: UInt8) -> Float32:
        """Return unit rows (n, dim) for prepared pictures (n, 3, S, S)."""

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """Return unit rows (n, dim); a text over the context length is cut."""

    def text_notes(self, text: str) -> tuple[str, ...]:
        """Return sentences for the user on what this encoder cannot make of the text; () when all is well."""


@runtime_checkable
class PortableEncoder(Encoder, Protocol):
    """An encoder whose preparation of pictures can be sent to the processes that decode them."""

    @property
    def preparation(self) -> Callable[[Image.Image], UInt8]:
        """A value that can be pickled and does what `prepare_image` does."""


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that also shows the tokens its towers pool."""

    def image_tokens(self, pixels: UInt8) -> Float32:
        """Return the patch tokens (n, patches, width) of prepared pictures (n, 3, S, S), row by row of the grid."""

    def text_tokens(self, texts: Sequence[str]) -> tuple[Float32, Mask]:
        """Return the text tokens (n, tokens, width) and the mask (n, tokens) that is True on real tokens."""


@runtime_checkable
class PieceEncoder(TokenEncoder, Protocol):
    """An encoder that also tells which characters its text tokens stand for."""

    def text_pieces(self, text: str) -> tuple[tuple[int, int], ...]:
        """Return the span of characters of each token that `text_tokens` gives of a text; an empty one for marks."""


# --- rerankers ------------------------------------------------------------------------------------------------------


DEFAULT_BOUND = 2.0
"""So much of a matching score counts between two candidates at most, unless a reranker says otherwise."""


@dataclass(frozen=True, slots=True)
class RerankerSpec:
    """What must be known of a reranker.

    Two with one `fingerprint` make the same states and scores. `weight` is what a matching score counts for beside a
    cosine; differences of matching scores of twice `bound` and more count alike (`mmsearch.rerank.blending`).
    """

    uri: str
    fingerprint: str
    weight: float
    bound: float = DEFAULT_BOUND


@runtime_checkable
class Reranker(Protocol):
    """A second look at few candidates: one matching score for a picture and a text, read together."""

    @property
    def spec(self) -> RerankerSpec:
        """The description."""

    @property
    def min_side(self) -> int | None:
        """The short side in pixels down to which a JPEG may be decoded at a reduced scale; None: never."""

    def prepare_image(self, image: Image.Image) -> UInt8:
        """Return the pixels (3, S, S), uint8, that `picture_states` takes. Thread-safe."""

    def picture_states(self, pixels: UInt8) -> Float32:
        """Return what is kept of prepared pictures (n, 3, S, S): states (n, patches, width). Costs most of the time."""

    def score(self, texts: Sequence[str], states: Float32) -> Float32:
        """Return matching scores (n,) of n pairs, higher for better ones: of texts with states (n, patches, width).

        One text stands for as many as there are states, and one state for as many as there are texts.
        """


@runtime_checkable
class ExplainingReranker(Reranker, Protocol):
    """A reranker that shows where it looked."""

    def attention(self, text: str, states: Float32) -> tuple[tuple[str, ...], Float32]:
        """Return the words of a text, and for each the share (words, rows, columns) of its attention by patch.

        `states` (1, patches, width) is of one picture; the shares of a word add up to one. Raise UnknownReranker where
        the encoder behind it does not tell words.
        """


# --- sources --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One thing that a source offers: a picture file, or a caption.

    `key` names it for ever (a picture's absolute path; a caption's place in its file), `group` ties a picture and its
    captions together, `uri` is what a hit shows. `size` (bytes) and `mtime_ns` are those of the file it stands in.
    """

    key: str
    modality: Modality
    uri: str
    group: str
    size: int
    mtime_ns: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ScanFailure:
    """Something a scan could not read; with `subtree`, nothing under `key` was seen, so nothing there is deleted.

    `missing` says that what the source names is not there, though the folder is in which it ought to be.
    """

    key: str
    reason: str
    subtree: bool = False
    missing: bool = False


class Source(Protocol):
    """A place whose pictures and captions can be listed again and again."""

    @property
    def kind(self) -> str:
        """The kind of the source: "folder", "file", or the format of a corpus."""

    @property
    def root(self) -> str:
        """The absolute path that the source lists; every scan of it covers all that it holds."""

    @property
    def options(self) -> str:
        """How it is read, as it is stored; empty when it needs no telling."""

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield what there is, in a stable order, each key once; failures are values."""


# --- vector search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """Which index to build, and why. `factory` is a FAISS factory string, "Flat" for exact search."""

    factory: str
    nlist: int
    nprobe: int
    train_size: int
    reason: str

    @property
    def exact(self) -> bool:
        """True when no ANN index is needed."""
        return self.factory == "Flat"


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How hard to look: lists probed, candidates at least and per wanted result, or everything (`exact`)."""

    nprobe: int | None = None
    candidates: int | None = None
    refine_factor: int = 10
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items may come back: those that meet all that is set. Pictures have a format, a width and a height.

    `under` are absolute folders (or tar archives), any of which will do, as will any of the Pillow names in `formats`.
    Widths and heights are pixels of the upright picture, sizes bytes, times nanoseconds since 1970 of the file's last
    change; "from" and "min" include their bound, "before" and "max" do not.
    """

    under: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    min_width: int | None = None
    min_height: int | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    modified_from_ns: int | None = None
    modified_before_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Ids and scores, both (nq, k), best first, equal scores by id; padded with −1 and −inf."""

    ids: Int64
    scores: Float32


# --- answers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PictureMetadata:
    """What a picture file tells of itself (EXIF, IPTC, XMP); None and () for what it does not.

    `taken_ns` is when it was taken, in nanoseconds since 1970 (UTC), `taken_offset` the minutes east of UTC of the
    clock that told so, where the file names them. Latitude and longitude are degrees, north and east positive.
    """

    taken_ns: int | None = None
    taken_offset: int | None = None
    camera: str | None = None
    lens: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """A picture or a caption in the catalog. `captions` are the texts that belong to a picture.

    `taken_ns` is when a picture was taken, else when its file was last modified, in nanoseconds since 1970. Where it
    was taken is left out on purpose: an answer travels further than its picture (docs/privacy.md).
    """

    id: int
    modality: Modality
    uri: str
    group: str
    text: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    captions: tuple[str, ...] = ()
    taken_ns: int | None = None
    camera: str | None = None
    lens: str | None = None
    title: str | None = None
    description: str | None = None
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer. `score` is what the list is sorted by (a fused rank for target "any").

    `similarity` is the cosine, after a second look that of all views.
    `rerank_score` is the matching score of a reranker; None where there was no second look: `score` is the cosine then,
    also behind candidates that lost some of theirs to the second look.
    """

    rank: int
    score: float
    item: Item
    similarity: float
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answers to one query, best first, from the state at `commit`; `timings` are seconds by stage."""

    hits: tuple[Hit, ...]
    query: str
    target: str
    commit: int
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, rank: int) -> Hit:
        return self.hits[rank]
