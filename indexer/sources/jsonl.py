"""JsonlSource: a captioned corpus in one `.jsonl` file (see `mmsearch.corpora.jsonl`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from indexer.sources.folder import picture_entry
from mmsearch.corpora.jsonl import BadRecord, read_jsonl
from mmsearch.images import is_picture_name
from mmsearch.types import Modality, ScanFailure, SourceEntry


class JsonlSource:
    """The pictures and captions that a corpus names. A record's pictures and captions are one group."""

    def __init__(self, path: Path) -> None:
        """`path` is absolute."""
        self._path = path

    @property
    def kind(self) -> str:
        """The kind of the source."""
        return "jsonl"

    @property
    def root(self) -> str:
        """The absolute path."""
        return str(self._path)

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield the records in order; a bad line, a missing picture and a repeated record are failures."""
        try:
            corpus = self._path.stat()
            records = read_jsonl(self._path)
            pictures: set[str] = set()
            keys: set[str] = set()
            for record in records:
                if isinstance(record, BadRecord):
                    yield ScanFailure(f"{self._path}:{record.line}", record.reason)
                    continue
                if record.image is not None and str(record.image) not in pictures:
                    pictures.add(str(record.image))
                    yield _picture(record.image)
                if record.key in keys and record.image is None:
                    continue  # the same text again
                prefix = f"{self._path}#{record.key}"
                if record.key in keys:
                    yield ScanFailure(prefix, 'another record has the same name: give each an "id" of its own')
                    continue
                keys.add(record.key)
                place = str(record.image) if record.image is not None else prefix
                for number, caption in enumerate(record.captions, start=1):
                    yield SourceEntry(
                        f"{prefix}#{number}",
                        Modality.TEXT,
                        place,
                        place,
                        corpus.st_size,
                        corpus.st_mtime_ns,
                        caption,
                    )
        except OSError as error:
            yield ScanFailure(str(self._path), f"the corpus cannot be read: {error.strerror}", subtree=True)


def _picture(path: Path) -> SourceEntry | ScanFailure:
    if not is_picture_name(path.name):
        return ScanFailure(str(path), "its name does not end like that of a picture of a known format")
    return picture_entry(str(path))
