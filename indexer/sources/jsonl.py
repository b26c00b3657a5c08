"""JsonlSource: a captioned corpus in one `.jsonl` file (see `mmsearch.corpora.jsonl`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from indexer.paths import stamps
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
        """Yield the records in order; a bad line, a missing picture and an "id" used twice are failures.

        Records without an "id" that name the same picture, as in corpora with one caption a line, are one.
        """
        try:
            stamp = stamps(self._path.stat())
            pictures: set[str] = set()
            texts: dict[str, list[str]] = {}  # by the name of their record
            for record in read_jsonl(self._path):
                if isinstance(record, BadRecord):
                    yield ScanFailure(f"{self._path}:{record.line}", record.reason)
                    continue
                if record.named and record.key in texts:
                    reason = f'its "id" {record.key!r} is that of an earlier line: give each record its own'
                    yield ScanFailure(f"{self._path}:{record.line}", reason)
                    continue
                if record.image is not None and record.image not in pictures:
                    pictures.add(record.image)
                    yield _picture(record.image)
                prefix = f"{self._path}#{record.key}"
                place = record.image or prefix
                known = texts.setdefault(record.key, [])
                for caption in record.captions:
                    if caption not in known:
                        known.append(caption)
                        yield SourceEntry(f"{prefix}#{len(known)}", Modality.TEXT, place, place, *stamp, caption)
        except OSError as error:
            yield ScanFailure(str(self._path), f"the corpus cannot be read: {error.strerror}", subtree=True)


def _picture(path: str) -> SourceEntry | ScanFailure:
    if not is_picture_name(Path(path).name):
        return ScanFailure(path, "its name does not end like that of a picture of a known format")
    entry = picture_entry(path)
    if isinstance(entry, ScanFailure) and not Path(path).exists() and Path(path).parent.is_dir():
        return replace(entry, missing=True)
    return entry
