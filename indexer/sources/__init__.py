"""Where pictures and captions come from: `make_source` tells by the path which reader it needs."""

from __future__ import annotations

import os
from pathlib import Path

from indexer.sources.folder import FileSource, FolderSource
from indexer.sources.jsonl import JsonlSource
from mmsearch.errors import SourceError
from mmsearch.images import is_picture_name
from mmsearch.types import Source

__all__ = ["FileSource", "FolderSource", "JsonlSource", "known_source", "make_source"]


def make_source(path: str | os.PathLike[str]) -> Source:
    """Return the source at a path: a folder, a `.jsonl` corpus or one picture; raise SourceError for anything else."""
    name = os.fspath(path)
    if not name:
        raise SourceError("A path to index is empty: name a folder, a .jsonl corpus or a picture.")
    place = Path(os.path.abspath(os.path.expanduser(name)))  # noqa: PTH100, PTH111 - no link is resolved, "~x" may be a name
    try:
        str(place).encode()
    except UnicodeEncodeError:
        raise SourceError(f"The name of {str(place)!a} is not UTF-8: rename it, or a folder above it.") from None
    if place.is_dir():
        return FolderSource(place)
    if not place.exists():
        raise SourceError(f"{place} is not there: check the spelling, or whether its disk is mounted.")
    if place.is_file() and place.suffix.lower() == ".jsonl":
        return JsonlSource(place)
    if place.is_file() and is_picture_name(place.name):
        return FileSource(place)
    raise SourceError(f"{place} is neither a folder, nor a .jsonl corpus, nor a picture of a known format.")


def known_source(kind: str, path: str) -> Source:
    """Return a source that was indexed before; raise SourceError when it is not there (a picture may be gone)."""
    place = Path(path)
    if kind == "file" and not place.exists() and place.parent.is_dir():
        return FileSource(place)
    return make_source(path)
