"""Queries as values: TextQuery, ImageQuery, VectorQuery; `parse_query` tells which one a word on a command line is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mmsearch.corpora.places import is_there, open_place
from mmsearch.errors import QueryError
from mmsearch.images import MAX_PIXELS, decode, is_picture_name, to_rgb
from mmsearch.types import Float32, Modality

if TYPE_CHECKING:
    from PIL import Image

Target = Literal["image", "text", "any"]
TARGETS: tuple[str, ...] = get_args(Target)

CANDIDATES = 50
"""How many of the first hits are looked at again unless another number is asked for."""


@dataclass(frozen=True, slots=True)
class TextQuery:
    """Search by words."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise QueryError("The query is empty: say what you are looking for.")
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise QueryError("The query is not valid UTF-8 text: check where it comes from.") from None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Search by a picture: a path, or a Pillow image. A file of more than `max_pixels` is refused."""

    image: Path | Image.Image
    max_pixels: int = MAX_PIXELS

    def __str__(self) -> str:
        return str(self.image) if isinstance(self.image, Path) else "<image>"

    def open(self, min_side: int | None) -> Image.Image:
        """Return the picture in upright RGB; raise QueryError where it is not there, UnreadableImage, ImageTooLarge."""
        if not isinstance(self.image, Path):
            return to_rgb(self.image)
        try:
            with open_place(str(self.image)) as file:
                return decode(file, str(self.image), min_side=min_side, max_pixels=self.max_pixels)[0]
        except OSError as error:
            raise QueryError(f"The picture {self.image} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True, slots=True, eq=False)
class VectorQuery:
    """Search by a vector (dim,) of the collection's own encoder; it is brought to unit length."""

    vector: Float32

    def __str__(self) -> str:
        return "<vector>"


Query = TextQuery | ImageQuery | VectorQuery


def parse_query(words: str) -> TextQuery | ImageQuery:
    """Return an ImageQuery when `words` ends like a picture's name and is a file, else a TextQuery."""
    try:
        if is_picture_name(Path(words).name) and is_there(words):
            return ImageQuery(Path(words))
    except (OSError, ValueError):  # too long, or a NUL in it: no path at all
        pass
    return TextQuery(words)


def looks_like_path(words: str) -> bool:
    """Return True for words that may have been meant as a path: a picture's name, or something that is there."""
    try:
        return is_picture_name(words) or Path(words).exists()
    except (OSError, ValueError):
        return False


def check_target(target: str) -> Target:
    """Return `target` as a Target; raise QueryError for another word."""
    for known in get_args(Target):
        if target == known:
            return known  # type: ignore[no-any-return]
    raise QueryError(f"There is no target {target!r}: choose one of {', '.join(TARGETS)}.")


def check_rerankable(query: Query, target: str, *, candidates: int) -> TextQuery | ImageQuery:
    """Return the query where it is words and the target pictures, or the other way round; else raise QueryError."""
    if candidates < 1:
        raise QueryError(f"candidates must be at least 1, not {candidates}.")
    if isinstance(query, VectorQuery):
        raise QueryError("A vector cannot be reranked: search with words or a picture, or leave the reranking out.")
    wanted = Modality.TEXT if isinstance(query, ImageQuery) else Modality.IMAGE
    if target != wanted:
        raise QueryError(
            "Only words are reranked against pictures, and a picture against captions: leave the reranking out, or"
            f" choose the target {wanted}."
        )
    return query
