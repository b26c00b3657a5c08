"""One directory = one searchable corpus: crash-safe, versioned, one writer, any number of readers."""

from mmsearch.catalog.rows import Changes, KnownFailure, KnownItem, NewItem, Root
from mmsearch.collection.collection import Collection, CollectionInfo, ModalityInfo
from mmsearch.collection.writer import Writer

__all__ = [
    "Changes",
    "Collection",
    "CollectionInfo",
    "KnownFailure",
    "KnownItem",
    "ModalityInfo",
    "NewItem",
    "Root",
    "Writer",
]
