"""Exit statuses: 0 done (with hits), 1 nothing found, 2 wrong usage, others by the class of the error.

docs/errors.md tells them all, with the situations that lead there.
"""

from __future__ import annotations

import errno

from mmsearch import errors

NOTHING_FOUND = 1
USAGE = 2
NOTHING_READ = 12
PROBLEMS_FOUND = 20
HELD_BACK = 21
DISK_FULL = 22
SOURCE_UNREADABLE = 25
INTERRUPTED = 130

BY_ERROR: tuple[tuple[type[BaseException], int], ...] = (
    (errors.QueryError, USAGE),
    (errors.CollectionNotFound, 3),
    (errors.CollectionLocked, 4),
    (errors.CollectionCorrupt, 5),
    (errors.UnsupportedFormat, 6),
    (errors.DiskFull, DISK_FULL),
    (errors.CollectionReadOnly, 23),
    (errors.NetworkFileSystem, 24),
    (errors.CollectionError, 7),
    (errors.UnknownEncoder, 8),
    (errors.UnknownReranker, 27),
    (errors.EncoderMismatch, 9),
    (errors.WeightsUnavailable, 10),
    (errors.EncoderError, 11),
    (errors.ImageTooLarge, 19),
    (errors.UnreadableImage, NOTHING_READ),
    (errors.SourceError, 13),
    (errors.DeviceError, 14),
    (errors.MissingExtra, 15),
    (errors.EvaluationError, 18),
    (errors.TrainingError, 26),
    (errors.MmsearchError, 16),
    (OSError, 17),
)
"""The first class that fits decides."""


class Interrupted(BaseException):
    """Ctrl-C, under a name that Typer does not know: of a KeyboardInterrupt it makes an exit without a word."""


_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def status_of(error: BaseException) -> int:
    """Return the exit status for an error, 70 for one that nobody expected."""
    if is_disk_full(error):
        return DISK_FULL
    return next((status for kind, status in BY_ERROR if isinstance(error, kind)), 70)


def is_disk_full(error: BaseException) -> bool:
    """Return True when the system had no space for what was to be written, or the file system not for one file."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE
