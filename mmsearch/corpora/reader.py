"""`read_corpus`: the records of a captioned corpus in any known format, for the indexer and for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmsearch.corpora.annotations import annotation_kind, read_annotations
from mmsearch.corpora.jsonl import read_jsonl
from mmsearch.corpora.records import BadRecord, CaptionRecord, CorpusOptions
from mmsearch.corpora.tables import read_table
from mmsearch.corpora.webdataset import read_webdataset
from mmsearch.errors import SourceError

KINDS = ("jsonl", "table", "webdataset", "coco", "karpathy", "visual-genome")
"""The formats of a corpus."""

_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "table",
    ".tsv": "table",
    ".txt": "table",
    ".tar": "webdataset",
}


def corpus_kind(path: Path) -> str | None:
    """Return which of `KINDS` a file is, by its name and, for `.json`, by how it begins; None when it is none of them.

    Raise SourceError for a `.json` file that cannot be read or is of another kind.
    """
    suffix = path.suffix.lower()
    if suffix != ".json":
        return _BY_SUFFIX.get(suffix)
    try:
        kind = annotation_kind(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    if kind is None:
        raise SourceError(f"{path} is neither of COCO's captions, nor Karpathy's splits, nor Visual Genome's regions.")
    return kind


def read_corpus(path: Path, kind: str, options: CorpusOptions) -> Iterator[CaptionRecord | BadRecord]:
    """Yield the records of a corpus in order; bad ones are values. Raise OSError or SourceError for the whole file.

    Options that mean nothing to a format are a SourceError: a split that is not looked at would be taken for one.
    """
    if options.split is not None and kind != "karpathy":
        raise SourceError(f"{path} has no splits: --split is for Karpathy's files.")
    columns = (options.image_column, options.caption_column, options.label_column)
    if any(columns) and kind not in ("table", "jsonl"):
        raise SourceError(f"{path} has no columns: --image-column and the like are for tables and JSON Lines.")
    if kind == "jsonl":
        return read_jsonl(path, options)
    if kind == "table":
        return read_table(path, options)
    if kind == "webdataset":
        return read_webdataset(path, options)
    return read_annotations(path, kind, options)
