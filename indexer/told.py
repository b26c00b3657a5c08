"""Captions that a picture file holds itself (title and description in EXIF, IPTC or XMP), as items beside it."""

from __future__ import annotations

from mmsearch.catalog.rows import NewItem
from mmsearch.corpora.records import text_hash
from mmsearch.corpora.sidecars import clean_captions
from mmsearch.types import Modality

_MARK = "#metadata#"


def told_captions(item: NewItem) -> list[NewItem]:
    """Return the captions that a picture tells of itself; the same text twice is one."""
    told = item.metadata
    if told is None:
        return []
    texts = clean_captions([text for text in (told.description, told.title) if text])
    return [
        NewItem(
            key=told_key(item.key, number),
            modality=Modality.TEXT,
            uri=item.uri,
            group=item.group,
            content_hash=text_hash(text),
            size=item.size,
            mtime_ns=item.mtime_ns,
            scanned_ns=item.scanned_ns,
            text=text,
        )
        for number, text in enumerate(dict.fromkeys(texts), start=1)
    ]


def told_key(picture: str, number: int) -> str:
    """Return the key of the n-th caption that a picture tells of itself."""
    return f"{picture}{_MARK}{number}"


def is_told(key: str, group: str) -> bool:
    """Return True for the key of a caption that the picture `group` tells of itself: no scan finds it."""
    return key.startswith(group + _MARK)
