"""Where pictures and captions come from: `make_source` tells by the path which reader it needs."""

from __future__ import annotations

import os
from pathlib import Path

from indexer.patterns import FolderOptions
from indexer.sources.corpus import CorpusSource
from indexer.sources.folder import FileSource, FolderSource
from mmsearch.config import plain_path
from mmsearch.corpora.reader import corpus_kind
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import SourceError
from mmsearch.images import is_picture_name
from mmsearch.types import Source

__all__ = ["CorpusSource", "FileSource", "FolderSource", "known_source", "make_source"]


def make_source(
    path: str | os.PathLike[str], options: CorpusOptions | None = None, folder: FolderOptions | None = None
) -> Source:
    """Return the source at a path: a folder, a corpus or one picture; raise SourceError for anything else.

    `options` tell how corpora among the sources are read, `folder` how folders are; the others pass over them.
    """
    name = os.fspath(path)
    if not name:
        raise SourceError("A path to index is empty: name a folder, a corpus of captions or a picture.")
    place = plain_path(name)
    try:
        str(place).encode()
    except UnicodeEncodeError:
        raise SourceError(f"The name of {str(place)!a} is not UTF-8: rename it, or a folder above it.") from None
    if place.is_dir():
        return FolderSource(place, folder)
    if not place.exists():
        raise SourceError(f"{place} is not there: check the spelling, or whether its disk is mounted.")
    if place.is_file() and is_picture_name(place.name):
        return FileSource(place)
    if place.is_file() and (kind := corpus_kind(place)) is not None:
        return CorpusSource(place, kind, options or CorpusOptions())
    raise SourceError(
        f"{place} is neither a folder, nor a corpus of captions (.jsonl, .csv, .tsv, .json, .tar), nor a picture of a"
        " known format."
    )


def known_source(kind: str, path: str, options: str) -> Source:
    """Return a source that was indexed before, to be read as it was then.

    Raise SourceError when it is not there (a picture may be gone).
    """
    place = Path(path)
    if kind == "file" and not place.exists() and place.parent.is_dir():
        return FileSource(place)
    if kind == "folder":
        return make_source(path, folder=FolderOptions.from_text(options))
    return make_source(path, CorpusOptions.from_text(options))
