"""The one way to write a file of a collection: temporary → fsync → rename → fsync of the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """What is now on the disk: SHA-256 in hex, and size in bytes."""

    sha256: str
    bytes: int


def write_file(
    target: Path, temporary: Path, fill: Callable[[BinaryIO], None], *, replace: bool = False
) -> WrittenFile:
    """Make `target` from what `fill` writes, all of it or nothing; `temporary` lies on the same file system.

    `target` must not exist unless it is to be replaced: nothing that a reader may have mapped is overwritten. Raise
    FileExistsError or OSError.
    """
    if target.exists() and not replace:
        raise FileExistsError(target)
    make_folder(temporary.parent)
    make_folder(target.parent)
    try:
        with temporary.open("xb") as file:
            hashing = _HashingFile(file)
            fill(hashing)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(target.parent)
    return WrittenFile(hashing.hexdigest(), hashing.size)


def write_bytes(target: Path, temporary: Path, data: bytes, *, replace: bool = False) -> WrittenFile:
    """Make `target` of these bytes; see `write_file`."""

    def fill(file: BinaryIO) -> None:
        file.write(data)

    return write_file(target, temporary, fill, replace=replace)


def make_folder(path: Path) -> None:
    """Make a folder and its parents with mode 0700, durably; one that is there is left as it is."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    fsync_folder(path.parent)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    if os.name == "nt":
        return  # a folder cannot be opened there; NTFS orders its own metadata
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _HashingFile:
    """The part of a binary file that NumPy and FAISS write through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._file.write(view)
        self.size += len(view)
        return len(view)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
