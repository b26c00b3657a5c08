"""Questions about paths that several parts of the pipeline ask: what lies below what, what is left out, stamps."""

from __future__ import annotations

import os
from pathlib import PurePath

LEFT_OUT = frozenset({"@eaDir", "#recycle", "__MACOSX", "lost+found"})
"""Folders of network drives and archives without pictures of the user's; names with a leading dot are left out too."""

_INT64_MAX = 2**63 - 1


def is_left_out(name: str) -> bool:
    """Return True for the name of a file or folder that a scan passes over."""
    return name.startswith(".") or name in LEFT_OUT


def is_below(path: str, folder: str) -> bool:
    """Return True when `path` is `folder` or lies somewhere below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def is_scanned_below(path: str, folder: str) -> bool:
    """Return True when a scan of `folder` comes across `path`: nothing on the way is left out."""
    return is_below(path, folder) and not any(map(is_left_out, PurePath(path).relative_to(folder).parts))


def stamps(stat: os.stat_result) -> tuple[int, int]:
    """Return (size, mtime_ns) within what SQLite can hold; some file systems tell times past the year 2262."""
    return stat.st_size, max(-_INT64_MAX, min(stat.st_mtime_ns, _INT64_MAX))
