"""CorpusSource: a captioned corpus in one file, of any format that `mmsearch.corpora` reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from indexer.paths import stamps
from indexer.sources.folder import picture_entry
from mmsearch.corpora.places import split_place
from mmsearch.corpora.reader import read_corpus
from mmsearch.corpora.records import BadRecord, CorpusOptions
from mmsearch.errors import SourceError
from mmsearch.images import is_picture_name
from mmsearch.types import Modality, ScanFailure, SourceEntry


class CorpusSource:
    """The pictures and captions that a corpus names. A record's pictures and captions are one group."""

    def __init__(self, path: Path, kind: str, options: CorpusOptions) -> None:
        """`path` is absolute, `kind` one of `mmsearch.corpora.reader.KINDS`."""
        self._path = path
        self._kind = kind
        self._options = options

    @property
    def kind(self) -> str:
        """The format."""
        return self._kind

    @property
    def root(self) -> str:
        """The absolute path."""
        return str(self._path)

    @property
    def options(self) -> str:
        """How it is read, as stored."""
        return self._options.as_text()

    def check(self) -> None:
        """Raise SourceError unless the corpus can be understood, as far as its first record."""
        try:
            next(iter(read_corpus(self._path, self._kind, self._options)), None)
        except OSError as error:
            raise SourceError(f"The corpus {self._path} cannot be read: {error.strerror}.") from error

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield the records in order; a bad line, a missing picture and an "id" used twice are failures.

        Records without an "id" that name the same picture, as in corpora with one caption a line, are one. A corpus
        that cannot be understood at all is a failure of its own, and nothing of it is deleted; see `check`.
        """
        try:
            stamp = stamps(self._path.stat())
            pictures: set[str] = set()
            texts: dict[str, dict[str, None]] = {}  # captions, in order, by the name of their record
            for record in read_corpus(self._path, self._kind, self._options):
                if isinstance(record, BadRecord):
                    yield ScanFailure(f"{self._path}:{record.line}", record.reason)
                    continue
                if record.named and record.key in texts:
                    reason = f'its "id" {record.key!r} is that of an earlier line: give each record its own'
                    yield ScanFailure(f"{self._path}:{record.line}", reason)
                    continue
                if record.image is not None and record.image not in pictures:
                    pictures.add(record.image)
                    yield _picture(record.image, stamp)
                prefix = f"{self._path}#{record.key}"
                place = record.image or prefix
                known = texts.setdefault(record.key, {})
                for caption in record.captions:
                    if caption not in known:
                        known[caption] = None
                        yield SourceEntry(f"{prefix}#{len(known)}", Modality.TEXT, place, place, *stamp, caption)
        except SourceError as error:
            yield ScanFailure(str(self._path), str(error), subtree=True)
        except OSError as error:
            yield ScanFailure(str(self._path), f"the corpus cannot be read: {error.strerror}", subtree=True)


def _picture(place: str, stamp: tuple[int, int]) -> SourceEntry | ScanFailure:
    path, member = split_place(place)
    if not is_picture_name(Path(member or path).name):
        return ScanFailure(place, "its name does not end like that of a picture of a known format")
    if member is not None:  # of this very archive: its stamps are those of its members
        return SourceEntry(place, Modality.IMAGE, place, place, *stamp)
    entry = picture_entry(path)
    if isinstance(entry, ScanFailure) and not Path(path).exists() and Path(path).parent.is_dir():
        return replace(entry, missing=True)
    return entry
