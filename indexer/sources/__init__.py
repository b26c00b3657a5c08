"""Where pictures and captions come from: `make_source` tells by the path which reader it needs."""

from __future__ import annotations

import os
from pathlib import Path

from indexer.sources.folder import FileSource, FolderSource
from indexer.sources.jsonl import JsonlSource
from mmsearch.errors import SourceError
from mmsearch.images import is_picture_name
from mmsearch.types import Source

__all__ = ["FileSource", "FolderSource", "JsonlSource", "make_source"]


def make_source(path: str | os.PathLike[str]) -> Source:
    """Return the source at a path: a folder, a `.jsonl` corpus or one picture; raise SourceError for anything else."""
    place = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - no symlink is to be resolved
    if place.is_dir():
        return FolderSource(place)
    if not place.exists():
        raise SourceError(f"{place} is not there: check the spelling, or whether its disk is mounted.")
    if place.suffix.lower() == ".jsonl":
        return JsonlSource(place)
    if is_picture_name(place.name):
        return FileSource(place)
    raise SourceError(f"{place} is neither a folder, nor a .jsonl corpus, nor a picture of a known format.")
