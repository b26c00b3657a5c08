"""Watching: what changes in the sources is in the collection two seconds after it has become quiet.

Folders are watched by the system's own notices (watchfiles), single files and corpora by their stamps. The loop calls
`run` with the places that changed, each time anew, so that others may write to the collection in between.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.patterns import FolderOptions
from indexer.plan import covering_root
from indexer.report import IndexReport
from indexer.sources import make_source
from mmsearch.catalog.rows import Root
from mmsearch.collection.collection import Collection
from mmsearch.collection.encoder import own_encoder
from mmsearch.collection.scope import is_below, is_left_out
from mmsearch.config import Settings
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.errors import CollectionLocked, CollectionNotFound, MissingExtra, MmsearchError, SourceError
from mmsearch.images import is_picture_name
from mmsearch.types import Encoder

_log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""So long nothing must have changed before what did is indexed."""

_LONGEST_SECONDS = 20.0
"""Changes that never cease are indexed so often all the same."""

_TICK_SECONDS = 1.0
_BESIDE = frozenset({".txt", ".json", ".caption"})  # captions

PathLike = str | os.PathLike[str]
Run = Callable[[Sequence[str]], IndexReport]
_Changes = set[tuple[Any, str]]


def loaded_encoder(collection: PathLike | None, encoder: str | None, *, device: str | None = None) -> Encoder:
    """Return the encoder of a collection, or of one to be made, to be kept loaded from one run to the next."""
    try:
        with Collection.open(Settings.from_environment().collection_path(collection)) as opened:
            if encoder:
                return load_encoder(encoder, device=device)
            return own_encoder(opened.layout.root, opened.spec, device=device)
    except CollectionNotFound:
        return load_encoder(encoder or DEFAULT_ENCODER, device=device)


def watch(
    run: Run,
    sources: Sequence[PathLike] = (),
    *,
    collection: PathLike | None = None,
    stop: threading.Event,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Call `run` with all sources, then with what has changed in them, until `stop` is set.

    `run` indexes the paths that it is given; without sources, those that were indexed before are watched. Nothing is
    run for a source that is away; when it is back, all of it is. `ready` is called after the first run. Raise
    MissingExtra without watchfiles, SourceError, and what `run` raises, but for CollectionLocked, after which it is
    called again.
    """
    _watchfiles()
    named = [make_source(one).root for one in sources]
    watched = _Watched(Settings.from_environment().collection_path(collection), named)
    due = set(watched.present())
    if not due:
        raise SourceError("No source of the collection is there to be watched: name a folder, or mount its disk.")
    seen = watched.present()
    while not stop.is_set():
        for changes in _changes([place for place in seen if Path(place).is_dir()], stop):
            now = watched.present()  # before the run: what changes during it differs from this
            due |= watched.touched(changes) | {place for place in seen if place in now and now[place] != seen[place]}
            if [(place, one.identity) for place, one in now.items()] != [(p, one.identity) for p, one in seen.items()]:
                due |= now.keys()  # sources have gone, come back or been replaced: between two watches nobody looks
                seen = now
                break
            seen = now
            if due:
                first = not watched.has_run
                due = _run(run, watched, due)
                if first and watched.has_run:
                    ready()


def _run(run: Run, watched: _Watched, due: set[str]) -> set[str]:
    """Run for what is due, and return what still is."""
    places = watched.still_known(_topmost(due))
    if not places:
        return set()
    try:
        run(places)
    except CollectionLocked:
        _log.info("Another process is writing to the collection; trying again.")
        return due
    except SourceError as error:
        if all(Path(place).exists() for place in places):
            raise
        _log.warning("%s", error)  # it went while we looked
    watched.has_run = True
    return set()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What tells a folder from another of its name (device and number), and a file from what it was."""

    identity: tuple[int, int] | None
    stamps: tuple[int, int] | None


class _Watched:
    """The places that are watched, and what is known of them."""

    def __init__(self, collection: Path, named: Sequence[str]) -> None:
        self.has_run = False
        self._collection = collection
        self._named = tuple(named)
        self._away: set[str] = set()
        self._roots = self._read_roots()

    def places(self) -> tuple[str, ...]:
        """Return the sources, there or not."""
        return self._named or tuple(root.path for root in self._roots)

    def present(self) -> dict[str, _Seen]:
        """Return the sources that are there."""
        found = {}
        for place in self.places():
            try:
                found[place] = _look(place)
            except OSError:
                continue
        away = set(self.places()) - found.keys()
        for place in away - self._away:
            _log.warning("%s is not there any more: nothing of it is forgotten, it is watched for.", place)
        self._away = away
        return found

    def touched(self, changes: Iterable[tuple[object, str]]) -> set[str]:
        """Return the folders in which something changed that a scan would see."""
        return {folder for _, path in changes if (folder := self._folder_of(path)) is not None}

    def still_known(self, places: Sequence[str]) -> list[str]:
        """Return the places that are still part of a source: it may have been removed meanwhile."""
        if not self.has_run:
            return list(places)
        self._roots = self._read_roots()
        return [place for place in places if Path(place).exists() and covering_root(self._roots, make_source(place))]

    def _folder_of(self, path: str) -> str | None:
        source = next((place for place in self.places() if is_below(path, place)), None)
        if source is None or path == source or is_below(path, str(self._collection)):
            return source if path == source else None
        place = Path(path)
        if any(map(is_left_out, place.relative_to(source).parts)):
            return None
        if place.is_file() and not is_picture_name(place.name) and place.suffix.lower() not in _BESIDE:
            return None
        while not place.is_dir():
            place = place.parent
        root = next((root for root in self._roots if root.kind == "folder" and is_below(str(place), root.path)), None)
        if root is not None:
            parts = place.relative_to(root.path).parts
            if parts and not FolderOptions.from_text(root.options).enters(parts):
                return None
        return str(place) if is_below(str(place), source) else None

    def _read_roots(self) -> tuple[Root, ...]:
        try:
            with Collection.open(self._collection) as opened:
                return opened.catalog.roots()
        except CollectionNotFound:
            return ()


def _changes(folders: Sequence[str], stop: threading.Event) -> Iterator[_Changes]:
    """Yield what changed once it is quiet, and at every tick an empty set; nothing is missed while it is not asked."""
    if not folders:
        yield set()
        while not stop.wait(_TICK_SECONDS):
            yield set()
        return
    try:
        yield from _watchfiles()(
            *folders,
            watch_filter=None,
            debounce=int(_LONGEST_SECONDS * 1000),
            step=int(QUIET_SECONDS * 1000),
            rust_timeout=int(_TICK_SECONDS * 1000),
            yield_on_timeout=True,
            stop_event=stop,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
    except FileNotFoundError:
        yield set()  # it went while we began: look again
    except OSError as error:
        raise MmsearchError(
            f"The folders cannot be watched ({error}): raise fs.inotify.max_user_watches, or watch fewer of them."
        ) from error


def _look(place: str) -> _Seen:
    found = Path(place).stat()
    if stat.S_ISDIR(found.st_mode):
        return _Seen((found.st_dev, found.st_ino), None)
    return _Seen(None, (found.st_size, found.st_mtime_ns))


def _watchfiles() -> Callable[..., Iterator[_Changes]]:
    try:
        import watchfiles
    except ImportError as error:
        raise MissingExtra('Watching needs watchfiles: pip install "mmsearch[cpu,watch]".') from error
    return watchfiles.watch


def _topmost(places: Iterable[str]) -> list[str]:
    """Return the places without those that lie below another."""
    left: list[str] = []
    for place in sorted(places):
        if not any(is_below(place, one) for one in left):
            left.append(place)
    return left
