"""A collection as one file: a plain tar archive of its manifest, its catalog and its segments, each with its SHA-256.

Plain, because float16 vectors hardly shrink and nothing in an archive can then be larger than the archive. Index files
stay behind: FAISS trusts what it reads, so they are built again where they are needed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from glob import escape
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from mmsearch.catalog.binding import is_sound
from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.rows import SegmentRow
from mmsearch.catalog.transfer import check_foreign, check_rows, close_copy, copy_catalog
from mmsearch.collection.atomic import file_sha256, fsync_folder, make_folder, write_file
from mmsearch.collection.collection import Collection, CollectionInfo
from mmsearch.collection.filesystem import refuse_network
from mmsearch.collection.layout import Layout
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.collection.manifest import manifest_bytes, read_manifest
from mmsearch.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionLocked,
    DiskFull,
    UnsupportedFormat,
)
from mmsearch.types import EncoderSpec

_HASH = "MMSEARCH.sha256"  # a pax header of each member
_MANIFEST_BYTES = 1_000_000
_READ_BYTES = 1 << 20
_TRIES = 5
_STAGING = re.compile(r"[0-9a-f]{32}\.part")
_KINDS = (None, "auto", "flat", "ivfpq", "ivfsq8")

Told = Callable[[int, int], None]
"""Told of the bytes done and of all there are."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written: items of all modalities, and the size and SHA-256 of the file."""

    file: str
    items: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The new collection; `missing_roots` are the paths of its sources that are not on this machine."""

    collection: str
    encoder: str
    items: int
    missing_roots: tuple[str, ...]


def export_collection(
    collection: Collection,
    file: Path,
    *,
    with_places: bool = False,
    replace: bool = False,
    progress: Told = lambda done, total: None,
) -> ExportReport:
    """Write the newest state of a collection to one file, all of it or nothing, while others read and write it.

    `with_places` also hands on where pictures were taken. Raise CollectionError when the file is there and not to be
    replaced, CollectionCorrupt when a segment is not what the catalog says, and OSError.
    """
    if not file.parent.is_dir():
        raise CollectionError(f"There is no folder {file.parent} to export to: make it first.")
    if file.is_dir() or (file.exists() and not replace):
        raise CollectionError(f"{file} is there already: name another file, or say --force to replace it.")
    with _folder_beside(file) as folder:
        staged = Layout(folder)
        frozen = _frozen(collection, staged, with_places=with_places)
        try:
            written = write_file(
                file,
                staged.new_staged(),
                lambda stream: _write_archive(stream, collection.layout, staged.catalog, frozen, progress),
                replace=replace,
            )
        finally:
            for one in frozen.files:
                one.close()
    file.chmod(0o600)
    return ExportReport(str(file), frozen.items, written.bytes, written.sha256)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """One state: what its manifest says, how many items it has, and its segments with their files open."""

    manifest: bytes
    items: int
    rows: list[SegmentRow]
    files: list[BufferedReader]


def _frozen(collection: Collection, staged: Layout, *, with_places: bool) -> _Frozen:
    """Return the newest state, of which `staged.catalog` is the catalog, also when it is of another encoder by now.

    A writer may collect a file between the two; an open one stays readable.
    """
    for _ in range(_TRIES):
        staged.catalog.unlink(missing_ok=True)
        copy_catalog(collection.catalog, staged.catalog, with_places=with_places)
        with closing(Catalog(staged.catalog)) as copy:
            bound, spec = copy.binding(), collection.spec
            if bound.spec is not None and bound.fingerprint != spec.fingerprint:
                spec = bound.spec
            state = copy.state(spec)
            items = sum(copy.counts().items.values())
        close_copy(staged.catalog)
        rows = [segment for part in state.modalities.values() for segment in part.segments]
        opened: list[BufferedReader] = []
        try:
            for row in rows:
                opened.append(collection.layout.path(row.file).open("rb"))
        except FileNotFoundError:
            for one in opened:
                one.close()
            continue
        return _Frozen(manifest_bytes(collection.uuid, spec), items, rows, opened)
    raise CollectionLocked(f"The collection {collection.layout.root} changes too fast to be exported: try again.")


def _write_archive(stream: BinaryIO, layout: Layout, catalog: Path, frozen: _Frozen, progress: Told) -> None:
    done, total = 0, catalog.stat().st_size + sum(row.bytes for row in frozen.rows)
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        told = hashlib.sha256(frozen.manifest).hexdigest()
        _add(archive, layout.file_of(layout.manifest), io.BytesIO(frozen.manifest), told)
        with catalog.open("rb") as file:
            _add(archive, layout.file_of(layout.catalog), file, file_sha256(catalog))
        done += catalog.stat().st_size
        for row, segment in zip(frozen.rows, frozen.files, strict=True):
            progress(done, total)
            if hashlib.file_digest(segment, "sha256").hexdigest() != row.sha256:
                raise CollectionCorrupt(f"{row.file} is not what the catalog says: run 'mmsearch verify'.")
            _add(archive, row.file, segment, row.sha256)
            done += row.bytes


def _add(archive: tarfile.TarFile, name: str, file: BinaryIO, sha256: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, os.SEEK_END)
    member.mode = 0o600
    member.pax_headers = {_HASH: sha256}
    file.seek(0)
    archive.addfile(member, file)


def import_collection(file: Path, target: Path, *, progress: Told = lambda done, total: None) -> ImportReport:
    """Make the collection `target` of an exported file, once every byte was checked; until then there is none.

    Whoever made the file is not trusted: nothing is written but what a collection consists of, and no index is read.
    Raise CollectionError where something lies in the way, UnsupportedFormat for a newer format, CollectionCorrupt.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CollectionError(f"{target} is there already: import under another name with --collection NAME.")
    refuse_network(target)
    make_folder(target.parent)
    with _folder_beside(target) as folder:
        layout = Layout(folder)
        with _refusals(file):
            _extract(file, layout, progress)
            _check(layout)
            spec, info = _opened(folder)
        for filled in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            fsync_folder(filled)
        try:
            folder.rename(target)
        except OSError as error:
            raise CollectionError(f"{target} has come to be meanwhile: import under another name.") from error
        fsync_folder(target.parent)
    missing = tuple(root.path for root in info.roots if not Path(root.path).exists())
    return ImportReport(str(target), spec.uri, sum(part.items for part in info.modalities.values()), missing)


def _extract(file: Path, layout: Layout, progress: Told) -> None:
    """Write the members of an archive to where they belong in a collection, checking names, kinds and hashes."""
    fixed = {layout.file_of(layout.manifest): layout.manifest, layout.file_of(layout.catalog): layout.catalog}
    total = file.stat().st_size
    with file.open("rb") as raw, tarfile.open(fileobj=_Bounded(raw), mode="r:") as archive:
        for member in archive:
            name = member.name
            if not member.isreg() or member.issparse() or (name not in fixed and not layout.is_data_file(name)):
                raise CollectionCorrupt(f"it holds {name!a}, which has no place in a collection")
            path = fixed.get(name) or layout.path(name)
            if path.exists() or (path == layout.manifest and member.size > _MANIFEST_BYTES):
                raise CollectionCorrupt(f"it holds {name!a} twice, or larger than it can be")
            make_folder(path.parent)
            if _copied(archive, member, path) != member.pax_headers.get(_HASH):
                raise CollectionCorrupt(f"its {name} does not have the SHA-256 that it names")
            progress(raw.tell(), total)


def _copied(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    """Write a member to a new file, durably, and return its SHA-256."""
    source = archive.extractfile(member)
    assert source is not None
    digest = hashlib.sha256()
    with source, path.open("xb") as target:
        while data := source.read(_READ_BYTES):
            digest.update(data)
            target.write(data)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _check(layout: Layout) -> None:
    """Raise unless manifest and catalog are of a collection that this version can open."""
    if not layout.manifest.is_file() or not layout.catalog.is_file():
        raise CollectionCorrupt("it is no export of a collection")
    _, spec = read_manifest(layout)
    if not is_sound(spec):
        raise CollectionCorrupt("its manifest describes no encoder")
    make_folder(layout.tmp)
    scratch = layout.new_staged()
    check_foreign(layout.catalog, scratch)
    for left in scratch.parent.glob(scratch.name + "*"):
        left.unlink()
    with closing(Catalog(layout.catalog)) as catalog:  # upgrades an older one
        catalog.checkpoint()
    if strange := [file for file in check_rows(layout.catalog) if not layout.is_data_file(file)]:
        raise CollectionCorrupt(f"its catalog names the file {strange[0]!a}")
    with closing(Catalog(layout.catalog)) as catalog, catalog.transaction() as transaction:
        if catalog.binding().fingerprint != spec.fingerprint:
            raise CollectionCorrupt("its manifest names another encoder than its catalog")
        if catalog.fact("index_kind") not in _KINDS:
            transaction.set_fact("index_kind", "auto")  # a FAISS factory of somebody else's
        for modality, part in catalog.state(spec).modalities.items():
            if part.ann is not None:
                transaction.set_ann(modality, None)


def _opened(folder: Path) -> tuple[EncoderSpec, CollectionInfo]:
    """Return what a collection holds once all of it was verified and its indexes are built."""
    with Collection.open(folder) as collection:
        if problems := verify(collection).problems:
            raise CollectionCorrupt(problems[0])
        with collection.writer() as writer:
            maintain(collection, writer)
        return collection.spec, collection.info()


@contextmanager
def _refusals(file: Path) -> Iterator[None]:
    """Turn whatever is wrong with an archive into one sentence that names it."""
    try:
        yield
    except (DiskFull, OSError):
        raise
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{file} was made by a newer mmsearch ({error}): update this one.") from error
    except Exception as error:  # what SQLAlchemy, Alembic and JSON make of a hostile catalog may be anything at all
        reason = " ".join(str(error).split()).rstrip(".")
        raise CollectionCorrupt(
            f"{file} cannot be imported ({reason}): make it again with 'mmsearch export', and nothing was left here."
        ) from error


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` that only its owner may enter; what is still there at the end is removed.

    So is what a killed export or import to the same target left; one that is under way holds a lock on its folder.
    """
    for left in target.parent.glob(f".{escape(target.name)}-*.part"):
        if _is_staging(left, target) and not left.is_symlink() and left.is_dir():
            _remove_unless_held(left)
    path = Layout(target).new_beside()
    path.mkdir(mode=0o700)
    lock = _lock(path)
    try:
        yield path
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(path, ignore_errors=True)


def _is_staging(path: Path, target: Path) -> bool:
    return _STAGING.fullmatch(path.name.removeprefix(f".{target.name}-")) is not None


def _remove_unless_held(path: Path) -> None:
    lock = _lock(path)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _lock(path: Path) -> int | None:
    """Return the descriptor of a folder that is now locked until that is closed, or who called is killed.

    None where somebody else holds it, or where folders cannot be locked (Windows, some network drives).
    """
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class _Bounded(io.RawIOBase):
    """A file that is never read by more than a piece: tarfile would hold a header of any size in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 4 * _READ_BYTES:
            raise CollectionCorrupt("a header of it is larger than it can be")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
