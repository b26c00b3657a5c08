"""Captions beside pictures: `a.txt`, `a.jpg.txt`, `a.json` or `a.jpg.json` for `a.jpg`.

A text file holds one caption a line. A JSON file is an object with "caption" (a string) or "captions" (a list of them);
one with neither is some other program's and holds no captions.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Collection
from pathlib import Path

MAX_BYTES = 64 * 1024
"""A sidecar larger than this is not a caption."""


def sidecar_names(picture: str, names: Collection[str]) -> list[str]:
    """Return which of the names in a folder are sidecars of the picture of that name, in a fixed order."""
    stem = picture.rpartition(".")[0]
    candidates = (f"{stem}.txt", f"{picture}.txt", f"{stem}.json", f"{picture}.json")
    return [name for name in candidates if name in names]


def read_sidecar(path: Path) -> tuple[str, ...]:
    """Return the captions in a sidecar; raise OSError, or ValueError with the reason when it cannot be understood."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"it has over {MAX_BYTES // 1024} KiB, too much for a caption")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if path.suffix.lower() != ".json":
        return clean_captions(text.splitlines())
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
    return captions_of(content) if isinstance(content, dict) else ()


def captions_of(record: dict[str, object]) -> tuple[str, ...]:
    """Return the captions in an object with "caption" or "captions"; raise ValueError where they are no strings."""
    found = record.get("captions", record.get("caption", ()))
    captions = [found] if isinstance(found, str) else found
    if not isinstance(captions, list | tuple) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError('"captions" must be a list of strings')
    return clean_captions(captions)


def clean_captions(captions: Collection[str]) -> tuple[str, ...]:
    """Return the captions without white space around them, empty ones and repetitions left out."""
    stored = (caption.encode("utf-8", "replace").decode() for caption in captions)  # lone surrogates become "?"
    return tuple(dict.fromkeys(text for caption in stored if (text := " ".join(caption.split()))))
