"""FolderSource: the pictures below a folder and the captions beside them. FileSource: one picture."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from indexer.paths import stamps
from indexer.patterns import FolderOptions
from mmsearch.collection.layout import Layout
from mmsearch.collection.scope import is_left_out
from mmsearch.corpora.sidecars import read_sidecar, sidecar_names
from mmsearch.images import is_picture_name, is_raw_name
from mmsearch.types import Modality, ScanFailure, SourceEntry


class FolderSource:
    """All pictures below a folder, folder by folder in the order of their names; links are followed, loops are not."""

    def __init__(self, folder: Path, options: FolderOptions | None = None, *, base: Path | None = None) -> None:
        """`folder` is absolute; `base` is the folder that it is a part of and that patterns start from."""
        self._folder = folder
        self._options = options or FolderOptions()
        self._base = base or folder

    @property
    def kind(self) -> str:
        """The kind of the source."""
        return "folder"

    @property
    def root(self) -> str:
        """The absolute path."""
        return str(self._folder)

    @property
    def options(self) -> str:
        """How it is read, as stored."""
        return self._options.as_text()

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield pictures and captions; a folder that cannot be read is a failure with `subtree`."""
        visited: set[tuple[int, int]] = set()
        waiting = [str(self._folder)]
        if self._folder != self._base and not self._options.enters(self._folder.relative_to(self._base).parts):
            return
        while waiting:
            folder = waiting.pop()
            try:
                found = Path(folder).stat()
                if (found.st_dev, found.st_ino) in visited:
                    continue
                visited.add((found.st_dev, found.st_ino))
                with os.scandir(folder) as listing:
                    entries = {entry.name: entry for entry in listing if not is_left_out(entry.name)}
            except OSError as error:
                yield ScanFailure(_printable(folder), f"the folder cannot be read: {error.strerror}", subtree=True)
                continue
            layout = Layout(Path(folder))
            if layout.manifest.name in entries and layout.catalog.name in entries:
                continue  # a collection of ours
            below = []
            where = Path(folder).relative_to(self._base).parts
            developed = _developed(entries, self._options, where)
            for name in sorted(entries):
                entry = entries[name]
                try:
                    is_folder = entry.is_dir()
                except OSError as error:  # a link that leads to itself
                    yield ScanFailure(_printable(entry.path), f"it cannot be read: {error.strerror}", subtree=True)
                    continue
                if is_folder:
                    if self._options.enters((*where, name)):
                        below.append(entry.path)
                elif is_picture_name(name) and name not in developed and self._options.wants((*where, name)):
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

    @property
    def options(self) -> str:
        """Nothing: a folder is read in one way."""
        return ""

    def scan(self) -> Iterator[SourceEntry | ScanFailure]:
        """Yield the picture and its captions; nothing when it has been deleted from a folder that is there."""
        try:
            beside = dict.fromkeys(os.listdir(self._path.parent))  # noqa: PTH208 - names are all we need
        except OSError as error:
            yield ScanFailure(str(self._path), f"its folder cannot be read: {error.strerror}", subtree=True)
            return
        if self._path.name in beside:
            yield from _picture(str(self._path), self._path.name, beside)


def _developed(entries: dict[str, os.DirEntry[str]], options: FolderOptions, where: tuple[str, ...]) -> set[str]:
    """Return the raw files of a camera beside which a wanted picture made of them lies: IMG_1.CR2 and IMG_1.jpg."""
    raw_files = [name for name in entries if is_raw_name(name)]
    stems = {name.rpartition(".")[0] for name in raw_files}
    beside = [name for name in entries if stems and is_picture_name(name) and not is_raw_name(name)]
    shown = {
        stem
        for name in beside
        if (stem := name.rpartition(".")[0]) in stems
        and options.wants((*where, name))
        and Path(entries[name].path).is_file()
    }
    return {name for name in raw_files if name.rpartition(".")[0] in shown}


def _picture(
    path: str, name: str, beside: dict[str, os.DirEntry[str]] | dict[str, None]
) -> Iterator[SourceEntry | ScanFailure]:
    if not _is_utf8(path):
        yield ScanFailure(_printable(path), "its name is not UTF-8: rename it")
        return
    yield picture_entry(path)
    for sidecar in sidecar_names(name, beside):
        place = Path(path).parent / sidecar
        try:
            size, mtime_ns = stamps(place.stat())
            captions = read_sidecar(place)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield ScanFailure(str(place), f"the caption file cannot be used: {reason}", subtree=True)
            continue
        for number, caption in enumerate(captions, start=1):
            yield SourceEntry(f"{place}#{name}#{number}", Modality.TEXT, path, path, size, mtime_ns, caption)


def picture_entry(path: str) -> SourceEntry | ScanFailure:
    """Return the entry of a picture file, or why it cannot be one."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path for each of a hundred thousand takes a second
    except OSError as error:
        return ScanFailure(path, f"it cannot be read: {error.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return ScanFailure(path, "it is not a regular file")  # opening a pipe would wait for ever
    return SourceEntry(path, Modality.IMAGE, path, path, *stamps(found))


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
