"""Tables of captions: `.csv`, `.tsv` or `.txt` with a header, the delimiter being a comma, semicolon, tab or bar.

A row is a picture and one of its captions, or a text of its own where there is no column of pictures. Columns are found
by their names, or named (`CorpusOptions`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mmsearch.corpora.records import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    BadRecord,
    CaptionRecord,
    CorpusOptions,
    first_there,
    picture_record,
    storable,
    text_record,
)
from mmsearch.errors import SourceError

LABEL_NAMES = ("label", "class", "category")

_DELIMITERS, _NONE = ",;\t|", "\x1f"
_MAX_FIELD = 1 << 20


def read_table(path: Path, options: CorpusOptions) -> Iterator[CaptionRecord | BadRecord]:
    """Yield a record for each row. Raise OSError, or SourceError when a column is not there: it says which ones are."""
    folder = options.images or str(path.parent)
    # A row that is not UTF-8 is one bad row, not the end of the table: it is seen by its surrogates.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        head = file.readline()
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=head.count)
        if delimiter not in head:
            delimiter = _NONE  # a single column
        quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter in "|\t" else csv.QUOTE_MINIMAL
        csv.field_size_limit(_MAX_FIELD)
        columns = [name.strip() for name in next(csv.reader([head], delimiter=delimiter, quoting=quoting), [])]
        if not storable(head):
            raise SourceError(f"{path} is not UTF-8 text: save it as UTF-8.")
        caption = _column(path, columns, options.caption_column, CAPTION_NAMES, "--caption-column")
        if caption is None:
            raise SourceError(
                f"{path} has no column that is known to hold captions, only {_listed(columns)}: name one with"
                " --caption-column."
            )
        image = None
        if not options.captions_only:
            image = _column(path, columns, options.image_column, IMAGE_NAMES, "--image-column")
        label = _column(path, columns, options.label_column, LABEL_NAMES, "--label-column")
        rows = csv.reader(file, delimiter=delimiter, quoting=quoting)
        number = 1
        while True:
            number += 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord(number, f"it cannot be read ({error})")
                continue
            if not all(map(storable, row)):
                yield BadRecord(number, "it is not UTF-8 text")
            elif row and len(row) != len(columns):
                yield BadRecord(number, f"it has {len(row)} columns, the header has {len(columns)}")
            elif row:
                yield _record(number, row, folder, caption, image, label)


def _record(
    number: int, row: Sequence[str], folder: str, caption: int, image: int | None, label: int | None
) -> CaptionRecord | BadRecord:
    told = row[label].strip() or None if label is not None else None
    if image is None:
        return text_record(number, row[caption], told)
    name = row[image].strip()
    if not name:
        return BadRecord(number, "it names no picture")
    if "://" in name:
        return BadRecord(number, "its picture is a URL, and only files can be indexed")
    return picture_record(number, first_there(folder, [name, f"images/{name}", f"Images/{name}"]), [row[caption]], told)


def _column(path: Path, columns: Sequence[str], named: str | None, known: Sequence[str], option: str) -> int | None:
    """Return the number of a named column, else of the first with a known name, else None."""
    if named is not None:
        if named not in columns:
            raise SourceError(f"{path} has no column {named!r} for {option}: it has {_listed(columns)}.")
        return columns.index(named)
    lowered = [column.lower() for column in columns]
    return next((lowered.index(name) for name in known if name in lowered), None)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(repr(column) for column in columns) or "none"
