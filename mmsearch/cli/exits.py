"""Exit statuses: 0 done (with hits), 1 nothing found, 2 wrong usage, others by the class of the error."""

from __future__ import annotations

from mmsearch import errors

NOTHING_FOUND = 1
USAGE = 2
PROBLEMS_FOUND = 20
HELD_BACK = 21
INTERRUPTED = 130

BY_ERROR: tuple[tuple[type[BaseException], int], ...] = (
    (errors.QueryError, USAGE),
    (errors.CollectionNotFound, 3),
    (errors.CollectionLocked, 4),
    (errors.CollectionCorrupt, 5),
    (errors.UnsupportedFormat, 6),
    (errors.CollectionError, 7),
    (errors.UnknownEncoder, 8),
    (errors.EncoderMismatch, 9),
    (errors.WeightsUnavailable, 10),
    (errors.EncoderError, 11),
    (errors.ImageError, 12),
    (errors.SourceError, 13),
    (errors.DeviceError, 14),
    (errors.MissingExtra, 15),
    (errors.EvaluationError, 18),
    (errors.MmsearchError, 16),
    (OSError, 17),
)
"""The first class that fits decides."""


def status_of(error: BaseException) -> int:
    """Return the exit status for an error, 70 for one that nobody expected."""
    return next((status for kind, status in BY_ERROR if isinstance(error, kind)), 70)
