"""Captioned corpora as JSON Lines: one object a line.

    {"image": "a.jpg", "captions": ["…", "…"]}     a picture, its path relative to the file, and its captions
    {"image": "a.jpg", "caption": "…"}             the same with one caption
    {"text": "…"}                                  a text of its own; {"caption": "…"} without a picture is one too

An optional "id" (a string or number) names a record; without one it is named by its picture or its text. An optional
"label" is its class. Other names of a picture, such as "file_name", are known; `CorpusOptions` names any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mmsearch.corpora.records import (
    IMAGE_NAMES,
    BadRecord,
    CaptionRecord,
    CorpusOptions,
    as_label,
    place_below,
    storable,
)
from mmsearch.corpora.sidecars import captions_of, clean_captions


def read_jsonl(path: Path, options: CorpusOptions) -> Iterator[CaptionRecord | BadRecord]:
    """Yield the records of a corpus in order; bad lines are values. Raise OSError when the file cannot be read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                yield _record(number, content, options.images or str(path.parent), options)
            except UnicodeDecodeError:
                yield BadRecord(number, "it is not UTF-8 text")
            except json.JSONDecodeError as error:
                yield BadRecord(number, f"it is not JSON ({error})")
            except RecursionError:
                yield BadRecord(number, "it is nested too deeply")
            except ValueError as error:
                yield BadRecord(number, str(error))


def _record(line: int, content: object, folder: str, options: CorpusOptions) -> CaptionRecord:
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    image, text = _image_of(content, options), content.get("text")
    captions = list(_captions_of(content, options))
    if image is None and text is None and not captions:
        raise ValueError(f'it has neither "image" nor "text", only {", ".join(map(repr, content)) or "nothing"}')
    if image is not None and not isinstance(image, str):
        raise ValueError('"image" must be a string')
    if text is not None and not isinstance(text, str):
        raise ValueError('"text" must be a string')
    if isinstance(image, str) and "://" in image:
        raise ValueError('"image" is a URL, and only files can be indexed')
    if any(not storable(name) for name in (image, content.get("id")) if isinstance(name, str)):
        raise ValueError("its name holds a NUL or half of a character")
    cleaned = clean_captions([*captions, *([text] if text else [])])
    identity = content.get("id")
    if identity is not None and (not isinstance(identity, str | int) or isinstance(identity, bool)):
        raise ValueError('"id" must be a string or a whole number')
    named = identity is not None
    label = as_label(content.get(options.label_column or "label"))
    if image is None or options.captions_only:
        if not cleaned:
            raise ValueError('"text" is empty' if image is None else "it has no captions")
        return CaptionRecord(line, str(identity) if named else cleaned[0], named, None, cleaned, label)
    place = place_below(folder, image)
    return CaptionRecord(line, str(identity) if named else place, named, place, cleaned, label)


def _image_of(content: dict[str, object], options: CorpusOptions) -> object:
    if options.image_column is not None:
        return content.get(options.image_column)
    return next((content[name] for name in IMAGE_NAMES if content.get(name) is not None), None)


def _captions_of(content: dict[str, object], options: CorpusOptions) -> tuple[str, ...]:
    if options.caption_column is not None:
        return captions_of({"captions": content.get(options.caption_column, ())})
    return captions_of(content)
