"""Every exception the library raises on purpose.

    MmsearchError
    ├── CollectionError
    │   ├── CollectionNotFound     no collection there yet
    │   ├── CollectionLocked       another process is writing
    │   ├── CollectionCorrupt      a file is missing or is not what the catalog says
    │   ├── UnsupportedFormat      written by a newer mmsearch
    │   ├── CollectionReadOnly     its folder cannot be written
    │   ├── NetworkFileSystem      it would lie, or lies, on a disk of another machine
    │   └── DiskFull               there is no space for what is to be written
    ├── EncoderError
    │   ├── UnknownEncoder         no encoder answers to that URI
    │   ├── UnknownReranker        no reranker answers to that URI, or none reads what the encoder makes
    │   ├── EncoderMismatch        the collection is bound to another encoder
    │   └── WeightsUnavailable     weights are missing or damaged
    ├── ImageError
    │   ├── UnreadableImage        not a picture of a known format, or damaged
    │   └── ImageTooLarge          over the pixel limit
    ├── SourceError                a path to index is not there or cannot be understood
    ├── EvaluationError            there is nothing to evaluate, or a score that is not a number
    ├── TrainingError              there is too little to tune an encoder on
    ├── QueryError (ValueError)    a query that means nothing
    ├── DeviceError                a device that is not there
    └── MissingExtra (ImportError) an optional package is not installed

The text of an error is one sentence for the person in front of the screen: what is wrong and what to do next.
"""

from __future__ import annotations


class MmsearchError(Exception):
    """Base of everything that mmsearch raises on purpose."""


class CollectionError(MmsearchError):
    """A collection cannot be used as asked."""


class CollectionNotFound(CollectionError):
    """There is no collection at that place yet."""


class CollectionLocked(CollectionError):
    """Another process is writing to the collection."""


class CollectionCorrupt(CollectionError):
    """A file of the collection is missing, damaged or from elsewhere."""


class UnsupportedFormat(CollectionError):
    """The collection was written by a newer version of mmsearch."""


class CollectionReadOnly(CollectionError):
    """The folder of the collection cannot be written."""


class NetworkFileSystem(CollectionError):
    """The collection is on a network file system, where SQLite's log and locks cannot be trusted."""


class DiskFull(CollectionError):
    """The disk of the collection has no space left."""


class EncoderError(MmsearchError):
    """An encoder cannot be used as asked."""


class UnknownEncoder(EncoderError):
    """No installed encoder answers to that URI."""


class UnknownReranker(EncoderError):
    """No installed reranker answers to that URI, or none was made for the encoder."""


class EncoderMismatch(EncoderError):
    """The collection is bound to another encoder than the one asked for."""

    def __init__(self, message: str, *, bound: str, wanted: str) -> None:
        super().__init__(message)
        self.bound = bound
        self.wanted = wanted


class WeightsUnavailable(EncoderError):
    """The weights of an encoder are missing or do not have the expected hash."""


class ImageError(MmsearchError):
    """A picture cannot be used."""


class UnreadableImage(ImageError):
    """The file is not a picture of a known format, or it is damaged."""


class ImageTooLarge(ImageError):
    """The picture has more pixels than the limit."""


class SourceError(MmsearchError):
    """Something to be indexed is not there or cannot be understood."""


class EvaluationError(MmsearchError):
    """There is nothing to evaluate, or what is to be evaluated is broken."""


class TrainingError(MmsearchError):
    """There is too little to tune an encoder on."""


class QueryError(MmsearchError, ValueError):
    """The query, or an argument that goes with it, means nothing."""


class DeviceError(MmsearchError):
    """The device asked for is not there."""


class MissingExtra(MmsearchError, ImportError):
    """An optional package is needed; the message holds the pip command that brings it."""
