"""What lies below what, and what a scan passes over: questions about paths, answered without looking at the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from mmsearch.catalog.rows import Root

FILES = ("folder", "file")
"""The kinds of sources that are files and folders, not corpora."""

LEFT_OUT = frozenset({"@eaDir", "#recycle", "__MACOSX", "lost+found"})
"""Folders of network drives and archives without pictures of the user's; names with a leading dot are left out too."""

MASS_DELETE_MIN = 20
"""What would delete more than half, and more than this many items, must be confirmed."""


def is_left_out(name: str) -> bool:
    """Return True for the name of a file or folder that a scan passes over."""
    return name.startswith(".") or name in LEFT_OUT


def is_below(path: str, folder: str) -> bool:
    """Return True when `path` is `folder` or lies somewhere below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def is_scanned_below(path: str, folder: str) -> bool:
    """Return True when a scan of `folder` comes across `path`: nothing on the way is left out."""
    return is_below(path, folder) and not any(map(is_left_out, PurePath(path).relative_to(folder).parts))


def holder(path: str, roots: Sequence[Root]) -> Root | None:
    """Return the first folder among roots whose scan comes across `path`."""
    return next((root for root in roots if root.kind == "folder" and is_scanned_below(path, root.path)), None)
