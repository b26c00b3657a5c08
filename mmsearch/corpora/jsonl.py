"""Captioned corpora as JSON Lines: one object a line.

    {"image": "a.jpg", "captions": ["…", "…"]}     a picture, its path relative to the file, and its captions
    {"image": "a.jpg", "caption": "…"}             the same with one caption
    {"text": "…"}                                  a text of its own

An optional "id" (a string or number) names a record; without one it is named by its picture or its text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsearch.corpora.sidecars import captions_of, clean_captions


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One record, from a line counted from 1.

    `image` is an absolute path without "..", or None for texts of their own; `key` names the record, by its "id" when
    it is `named`, else by its picture or text.
    """

    line: int
    key: str
    named: bool
    image: str | None
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A line (counted from 1) that is no record, and why."""

    line: int
    reason: str


def read_jsonl(path: Path) -> Iterator[CaptionRecord | BadRecord]:
    """Yield the records of a corpus in order; bad lines are values. Raise OSError when the file cannot be read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                yield _record(number, content, path.parent)
            except UnicodeDecodeError:
                yield BadRecord(number, "it is not UTF-8 text")
            except json.JSONDecodeError as error:
                yield BadRecord(number, f"it is not JSON ({error})")
            except RecursionError:
                yield BadRecord(number, "it is nested too deeply")
            except ValueError as error:
                yield BadRecord(number, str(error))


def _record(line: int, content: object, folder: Path) -> CaptionRecord:
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    image, text = content.get("image"), content.get("text")
    if image is None and text is None:
        raise ValueError(f'it has neither "image" nor "text", only {", ".join(map(repr, content)) or "nothing"}')
    if image is not None and not isinstance(image, str):
        raise ValueError('"image" must be a string')
    if text is not None and not isinstance(text, str):
        raise ValueError('"text" must be a string')
    if isinstance(image, str) and "://" in image:
        raise ValueError('"image" is a URL, and only files can be indexed')
    if any(not _storable(name) for name in (image, content.get("id")) if isinstance(name, str)):
        raise ValueError("its name holds a NUL or half of a character")
    captions = clean_captions([*captions_of(content), *([text] if text else [])])
    identity = content.get("id")
    if identity is not None and (not isinstance(identity, str | int) or isinstance(identity, bool)):
        raise ValueError('"id" must be a string or a whole number')
    named = identity is not None
    if image is None:
        if not captions:
            raise ValueError('"text" is empty')
        return CaptionRecord(line, str(identity) if named else captions[0], named, None, captions)
    place = os.path.abspath(folder / image)  # noqa: PTH100 - ".." goes, links stay
    return CaptionRecord(line, str(identity) if named else place, named, place, captions)


def _storable(name: str) -> bool:
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
