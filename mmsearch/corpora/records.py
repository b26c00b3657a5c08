"""What the readers of captioned corpora yield (records with a picture, captions, or both), and their options."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsearch.corpora.sidecars import clean_captions

IMAGE_NAMES = (
    "image",
    "image_path",
    "filepath",
    "file_path",
    "file_name",
    "filename",
    "image_name",
    "path",
    "file",
    "img",
)
CAPTION_NAMES = ("caption", "captions", "text", "comment", "sentence", "description", "title", "raw", "phrase")
"""What columns (or members of JSON objects) are called in the corpora that there are."""


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One record, from a line (or element, or member) counted from 1.

    `image` is where its picture is (see `mmsearch.corpora.places`), or None for texts of their own; `key` names the
    record, by its "id" when it is `named`, else by its picture or text. `label` is the name of a class or a group of
    likenesses, where the corpus tells one.
    """

    line: int
    key: str
    named: bool
    image: str | None
    captions: tuple[str, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A line (counted from 1) that is no record, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """How to read a corpus, where it does not tell by itself.

    `images` is the absolute folder that pictures are named from (None: that of the corpus), `split` the part of a
    Karpathy file to take (None: all), `captions_only` leaves the pictures out. The columns are those of a table, or the
    members of JSON Lines.
    """

    images: str | None = None
    split: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    captions_only: bool = False

    def as_text(self) -> str:
        """Return the options that are set, as JSON with sorted keys; empty when none is."""
        told = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(told, sort_keys=True) if told else ""

    @classmethod
    def from_text(cls, text: str) -> CorpusOptions:
        """Return what `as_text` told; an option that this version does not know is passed over."""
        told = json.loads(text) if text else {}
        return cls(**{name: told[name] for name in cls.__dataclass_fields__ if name in told})


def text_hash(text: str) -> bytes:
    """Return the SHA-256 of a text: what makes two captions one content."""
    return hashlib.sha256(text.encode()).digest()


def text_record(line: int, caption: str, label: str | None = None) -> CaptionRecord | BadRecord:
    """Return the record of a text of its own, named by itself."""
    captions = clean_captions([caption])
    if not captions:
        return BadRecord(line, "its caption is empty")
    return CaptionRecord(line, captions[0], False, None, captions, label)


def picture_record(line: int, image: str, captions: list[str], label: str | None = None) -> CaptionRecord | BadRecord:
    """Return the record of a picture at an absolute place, named by it."""
    if not storable(image):
        return BadRecord(line, "its name holds a NUL or half of a character")
    return CaptionRecord(line, image, False, image, clean_captions(captions), label)


def place_below(folder: Path | str, name: str) -> str:
    """Return the path of a name in an absolute folder; ".." goes, links stay."""
    return os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 - Path has no normpath


def first_there(folder: Path | str, names: list[str]) -> str:
    """Return the absolute path of the first of the names that is there, of the first of all where none is."""
    places = [place_below(folder, name) for name in names]
    return next((place for place in places if os.path.exists(place)), places[0])  # noqa: PTH110 - pictures by the 100,000


def storable(name: str) -> bool:
    """Return True for a name that a file and a database can have."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False


def as_label(value: object) -> str | None:
    """Return a label as text; None for none, ValueError for what cannot be one."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('"label" must be a string or a whole number')
    return str(value)


def object_at(content: Any, name: str, kind: type) -> Any:
    """Return content[name]; raise ValueError unless content is an object where it is there and of that kind."""
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    value = content.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f'it has no "{name}" that is {_KINDS[kind]}')
    return value


_KINDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}
