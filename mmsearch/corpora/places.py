"""Where a picture is: the path of a file, or `TAR#MEMBER` for a member of a tar archive, read at its offset.

/data/photos/red-car.jpg
/data/shard-000.tar#0001.webp
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from io import BufferedReader, BytesIO
from pathlib import Path

_MARK = ".tar#"


def member_place(archive: Path | str, member: str) -> str:
    """Return the place of a member of an archive."""
    return f"{archive}#{member}"


def split_place(place: str) -> tuple[str, str | None]:
    """Return (path of the file, name of the member in it or None)."""
    at = place.lower().find(_MARK)
    if at < 0 or os.path.isfile(place):  # noqa: PTH113 - asked for every picture
        return place, None
    end = at + len(_MARK)
    return place[: end - 1], place[end:]


def open_place(place: str) -> BufferedReader | BytesIO:
    """Return a picture's file, open for reading; a member of an archive is in memory. Raise OSError."""
    path, member = split_place(place)
    if member is None:
        return Path(path).open("rb")
    with Path(path).open("rb") as file:
        stat = os.fstat(file.fileno())
        found = _members(path, stat.st_size, stat.st_mtime_ns).get(member)
        if found is None:
            raise FileNotFoundError(2, f"there is no {member} in it (any more)", path)
        offset, size = found
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(5, "the archive ends too early", path)
    return BytesIO(data)


def is_there(place: str) -> bool:
    """Return True when there is such a file, or such a member in an archive that can be read."""
    path, member = split_place(place)
    if member is None:
        return Path(path).is_file()
    try:
        open_place(place).close()
    except OSError:
        return False
    return True


def read_members(path: str) -> Mapping[str, tuple[int, int]]:
    """Return (offset, size) in bytes of every regular member of a tar archive, in order.

    The last of several of one name counts, as when unpacked. Raise OSError when it cannot be read or is compressed.
    """
    stat = Path(path).stat()
    return _members(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _members(path: str, _size: int, _mtime_ns: int) -> Mapping[str, tuple[int, int]]:
    """Look through the headers once for each state of the file."""
    import tarfile  # brings bz2 and lzma along, which a query over plain files has no use for

    try:
        with tarfile.open(path, "r:") as archive, Path(path).open("rb") as file:
            found = {m.name: (m.offset_data, m.size) for m in archive if m.isreg() and not m.issparse()}
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile ends in silence where it is damaged
                raise OSError(5, f"it is damaged or cut short behind its {len(found)} first members", path)
            return found
    except tarfile.TarError as error:
        if "unexpected end" in str(error):
            raise OSError(5, "it is cut short: restore it", path) from error
        raise OSError(5, f"it is not a plain tar archive ({error}): unpack it if it is compressed", path) from error
