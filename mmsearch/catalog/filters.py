"""From a Filter to the clauses of a WHERE."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from mmsearch.catalog import schema
from mmsearch.images import is_picture_name
from mmsearch.types import Filter

_WITH_PARTS = (".tar", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
"""Endings of the names of archives, corpora and files of captions, in lower case."""


def clauses(wanted: Filter) -> list[ColumnElement[bool]]:
    """Return what an item must meet, all of it; nothing for an empty filter."""
    items = schema.items.c
    found: list[ColumnElement[bool]] = []
    if wanted.under:
        found.append(or_(*(below(items.uri, folder) for folder in wanted.under)))
    if wanted.formats:
        found.append(items.format.in_([name.upper() for name in wanted.formats]))
    bounds: tuple[tuple[Any, int | None, bool], ...] = (
        (items.width, wanted.min_width, True),
        (items.height, wanted.min_height, True),
        (items.size, wanted.min_bytes, True),
        (items.size, wanted.max_bytes, False),
        (items.mtime_ns, wanted.modified_from_ns, True),
        (items.mtime_ns, wanted.modified_before_ns, False),
    )
    for column, bound, is_least in bounds:
        if bound is not None:
            found.append(column >= bound if is_least else column < bound)
    return found


def below(column: Any, folder: str) -> ColumnElement[bool]:
    """Return the clause for a file, or what lies in a folder or an archive: a range, for LIKE would fold case."""
    prefix = folder.rstrip("/")
    if not is_file_name(prefix):  # neither a picture nor an archive nor a corpus: one range is faster
        return and_(column >= prefix + "/", column < prefix + "0")
    last = {"/": "0", "#": "$"}  # the character behind
    return or_(column == prefix, *((column >= prefix + mark) & (column < prefix + end) for mark, end in last.items()))


def is_file_name(place: str) -> bool:
    """Return True for what is called like a picture, an archive, a corpus, captions, or a part of one of these.

    Only such a file has parts, `file#part`; `folder#2` is a neighbour of `folder`.
    """
    names = place.rstrip("/").rpartition("/")[2].split("#")
    return any(is_picture_name(name) or name.lower().endswith(_WITH_PARTS) for name in names)
