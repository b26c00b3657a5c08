"""FolderSource: the pictures below a folder and the captions beside them. FileSource: one picture."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mmsearch.corpora.sidecars import read_sidecar, sidecar_names
from mmsearch.images import is_picture_name
from mmsearch.types import Modality, ScanFailure, SourceEntry

LEFT_OUT = frozenset({"@eaDir", "#recycle", "__MACOSX", "lost+found"})
"""Folders of network drives and archives without pictures of the user's; names with a leading dot are left out too."""


class FolderSource:
    """All pictures below a folder, folder by folder in the order of their names; links are followed, loops are not."""

    def __init__(self, folder: Path) -> None:
        """`folder` is absolute."""
        self._folder = folder

    @property
    def kind(self) -> str:
        """The kind of the source."""
        return "folder"

    @property
    def root(self) -> str:
        """The absolute path."""
        return str(self._folder)

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield pictures and captions; a folder that cannot be read is a failure with `subtree`."""
        visited: set[tuple[int, int]] = set()
        waiting = [str(self._folder)]
        while waiting:
            folder = waiting.pop()
            try:
                found = Path(folder).stat()
                if (found.st_dev, found.st_ino) in visited:
                    continue
                visited.add((found.st_dev, found.st_ino))
                with os.scandir(folder) as listing:
                    entries = {entry.name: entry for entry in listing if not _is_left_out(entry.name)}
            except OSError as error:
                yield ScanFailure(_printable(folder), f"the folder cannot be read: {error.strerror}", subtree=True)
                continue
            if "mmsearch.json" in entries and "catalog.sqlite3" in entries:
                continue  # a collection of ours
            below = []
            for name in sorted(entries):
                entry = entries[name]
                if entry.is_dir():
                    below.append(entry.path)
                elif is_picture_name(name):
                    yield from _picture(entry.path, name, entries)
            waiting.extend(reversed(below))


class FileSource:
    """One picture and the captions beside it."""

    def __init__(self, path: Path) -> None:
        """`path` is absolute."""
        self._path = path

    @property
    def kind(self) -> str:
        """The kind of the source."""
        return "file"

    @property
    def root(self) -> str:
        """The absolute path."""
        return str(self._path)

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield the picture and its captions."""
        beside = dict.fromkeys(os.listdir(self._path.parent))  # noqa: PTH208 - names are all we need
        yield from _picture(str(self._path), self._path.name, beside)


def _picture(
    path: str, name: str, beside: dict[str, os.DirEntry[str]] | dict[str, None]
) -> Iterator[SourceEntry | ScanFailure]:
    picture = picture_entry(path)
    yield picture
    if isinstance(picture, ScanFailure):
        return
    folder = Path(path).parent
    for sidecar in sidecar_names(name, beside):
        place = folder / sidecar
        try:
            found = place.stat()
            captions = read_sidecar(place)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield ScanFailure(str(place), f"the caption file cannot be used: {reason}", subtree=True)
            continue
        for number, caption in enumerate(captions, start=1):
            key = f"{place}#{name}#{number}"
            yield SourceEntry(key, Modality.TEXT, path, path, found.st_size, found.st_mtime_ns, caption)


def picture_entry(path: str) -> SourceEntry | ScanFailure:
    """Return the entry of a picture file, or why it cannot be one."""
    try:
        path.encode()
        found = Path(path).stat()
    except UnicodeEncodeError:
        return ScanFailure(_printable(path), "its name is not UTF-8: rename it")
    except OSError as error:
        return ScanFailure(path, f"it cannot be read: {error.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return ScanFailure(path, "it is not a regular file")  # opening a pipe would wait for ever
    return SourceEntry(path, Modality.IMAGE, path, path, found.st_size, found.st_mtime_ns)


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name in LEFT_OUT


def _printable(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
