"""A power cut after every write that was to last: what had not been made durable by then is gone.

What this process does is recorded (bytes made durable by fsync, names changed, folders made durable, transactions) and
every prefix of it is made again as a disk might show it afterwards: at one extreme no name change survives that no
fsync of its folder followed, at the other all of them do and files that were not fsynced are empty.
SQLite's own writes are taken as synchronous=FULL promises them: a transaction is durable when its COMMIT returns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from indexer import index, reembed
from mmsearch.catalog.database import Database
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import compact
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.errors import CollectionNotFound
from tests.support import ToyEncoder, make_folder


@dataclass(frozen=True)
class Event:
    """What happened: "data" of a file was made durable, or names were ("folder"); "name", "gone", "made"; "commit"."""

    kind: str
    path: str
    other: str = ""
    data: bytes = field(default=b"", repr=False)
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


class Recorder:
    """Takes down the events below a folder."""

    def __init__(self, root: Path) -> None:
        self.events: list[Event] = []
        self._root = root

    def note(self, kind: str, path: Path | str, **more: Any) -> None:
        """Take down an event if it is below the folder."""
        if str(path).startswith(str(self._root)):
            self.events.append(Event(kind, str(path), **more))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Watch this process."""
        fsync, replace, unlink, rmdir, mkdir = os.fsync, Path.replace, Path.unlink, Path.rmdir, Path.mkdir
        write = Database.write

        def noted_fsync(descriptor: int) -> None:
            fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").resolve()
            if path.is_dir():
                self.note("folder", path)
            else:
                self.note("data", path, data=path.read_bytes())

        def noted_replace(path: Path, target: Path) -> Path:
            done = replace(path, target)
            self.note("name", path, other=str(target))
            return done

        def noted_unlink(path: Path, missing_ok: bool = False) -> None:
            was_there = path.exists()
            unlink(path, missing_ok=missing_ok)
            if was_there:
                self.note("gone", path)

        def noted_rmdir(path: Path) -> None:
            rmdir(path)
            self.note("gone", path)

        def noted_mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
            mkdir(path, *args, **kwargs)
            self.note("made", path)

        @contextmanager
        def noted_write(database: Database) -> Iterator[Any]:
            with write(database) as connection:
                yield connection
            beside = database.path.parent.glob(database.path.name + "*")
            files = tuple((str(p), p.read_bytes()) for p in beside if not p.name.endswith("-shm"))
            self.note("commit", database.path, files=files)

        patch.setattr(os, "fsync", noted_fsync)
        patch.setattr(Path, "replace", noted_replace)
        patch.setattr(Path, "unlink", noted_unlink)
        patch.setattr(Path, "rmdir", noted_rmdir)
        patch.setattr(Path, "mkdir", noted_mkdir)
        patch.setattr(Database, "write", noted_write)


def disk_after(events: list[Event], *, lazy: bool) -> dict[str, bytes | None]:
    """Return the files (folders: None) that a cut leaves; `lazy`: names change only when their folder is fsynced."""
    inodes: dict[str, str] = {}  # what a name stands for now, in memory
    data: dict[str, bytes] = {}  # the durable bytes of what was once made under that name
    shown: dict[str, str | None] = {}
    pending: list[tuple[str, str | None]] = []  # names and what they are to stand for (None: nothing)
    catalog: tuple[tuple[str, bytes], ...] = ()

    def rename(name: str, inode: str | None) -> None:
        pending.append((name, inode))
        if not lazy:
            settle(str(Path(name).parent))

    def settle(folder: str) -> None:
        for name, inode in list(pending):
            if str(Path(name).parent) == folder:
                pending.remove((name, inode))
                if inode is None:
                    shown.pop(name, None)
                else:
                    shown[name] = inode

    for number, event in enumerate(events):
        if event.kind == "data":
            inode = inodes.setdefault(event.path, f"{event.path}@{number}")
            data[inode] = event.data
            rename(event.path, inode)
        elif event.kind == "name":
            inode = inodes.pop(event.path, f"{event.path}@{number}")
            inodes[event.other] = inode
            rename(event.path, None)
            rename(event.other, inode)
        elif event.kind == "gone":
            inodes.pop(event.path, None)
            rename(event.path, None)
        elif event.kind == "made":
            rename(event.path, "")
        elif event.kind == "folder":
            settle(event.path)
        else:
            catalog = event.files
    left: dict[str, bytes | None] = {
        name: None if inode == "" else data.get(inode or "", b"") for name, inode in shown.items() if inode is not None
    }
    left.update(catalog)
    return left


def lay_out(files: dict[str, bytes | None], root: Path, copy: Path) -> None:
    """Write what is left of the disk elsewhere."""
    shutil.rmtree(copy, ignore_errors=True)
    for name, content in sorted(files.items()):
        path = copy / Path(name).relative_to(root)
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        elif path.parent == copy or path.parent.is_dir() or name.endswith(("sqlite3", "-wal")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def keys(collection: Collection) -> frozenset[str]:
    """Return the keys of all items."""
    return frozenset(
        item.key for root in collection.catalog.roots() for item in collection.catalog.known_items(root.id)
    )


def test_every_prefix_opens_at_some_commit(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    place, pictures = root / "c", tmp_path / "pictures"
    root.mkdir()
    make_folder(pictures, 260)
    recorder = Recorder(root)
    states: list[tuple[int, frozenset[str]]] = []  # how many events there were when a state was reached

    def mark() -> None:
        with Collection.open(place) as collection:
            states.append((len(recorder.events), keys(collection)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmsearch.collection.writer.SEAL_ROWS", 40)
        patch.setattr("mmsearch.collection.compaction.MERGE_FROM", 3)
        patch.setattr("indexer.pipeline.COMMIT_ROWS", 9)
        recorder.install(patch)
        index([pictures], collection=place, encoder=ToyEncoder(), index_kind="ivfpq", recall=0.5)
        mark()
        for path in sorted(pictures.iterdir())[::3]:
            os.remove(path)  # noqa: PTH107 - Path.unlink is recorded, and this is not the collection's doing
        index([pictures], collection=place, encoder=ToyEncoder())
        mark()
        with Collection.open(place) as collection, collection.writer() as writer:
            compact(collection, writer)
            maintain(collection, writer, rebuild=True)
        mark()
        reembed(place, encoder=ToyEncoder("toy:2", side=6))
        mark()
    assert sum(event.kind == "commit" for event in recorder.events) > 15
    assert {event.kind for event in recorder.events} == {"data", "name", "gone", "made", "folder", "commit"}
    reached: frozenset[str] = frozenset()
    seen: set[frozenset[str]] = set()
    for cut in range(len(recorder.events) + 1):
        for lazy in (True, False):
            lay_out(disk_after(recorder.events[:cut], lazy=lazy), root, tmp_path / "after")
            try:
                collection = Collection.open(tmp_path / "after" / "c")
            except CollectionNotFound:
                assert not reached, "a collection that was there is not"
                continue
            with collection:
                problems = verify(collection).problems
                now = keys(collection)
            assert problems == (), f"after event {cut} of {len(recorder.events)}: {recorder.events[cut - 1].kind}"
            seen.add(now)
        for events, state in states:
            if cut == events:
                assert now == state, "what was committed is not there"
        reached = now if cut >= states[0][0] else reached
    assert len(seen) >= 5
