"""The stamps of a file, as a catalog can hold them."""

from __future__ import annotations

import os

_INT64_MAX = 2**63 - 1


def stamps(stat: os.stat_result) -> tuple[int, int]:
    """Return (size, mtime_ns) within what SQLite can hold; some file systems tell times past the year 2262."""
    return stat.st_size, max(-_INT64_MAX, min(stat.st_mtime_ns, _INT64_MAX))
