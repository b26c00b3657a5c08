"""Exported collections, taken apart and changed: what their tests share."""

from __future__ import annotations

import io
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mmsearch.collection.portable import import_collection
from mmsearch.errors import CollectionCorrupt, MmsearchError

Members = dict[str, bytes]


def members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        files = {one.name: archive.extractfile(one) for one in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


def rewrite(file: Path, change: Callable[[Members], None]) -> None:
    """Change what is in an archive, with hashes that fit again."""
    import hashlib

    content = members(file)
    change(content)
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = {"MMSEARCH.sha256": hashlib.sha256(data).hexdigest()}
            archive.addfile(info, io.BytesIO(data))


def in_catalog(*statements: str) -> Callable[[Members], None]:
    """Return a change that runs SQL on the catalog in an archive."""

    def change(content: Members) -> None:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.deserialize(content["catalog.sqlite3"])
            for statement in statements:
                connection.execute(statement)
            content["catalog.sqlite3"] = connection.serialize()

    return change


def refused(file: Path, tmp_path: Path, match: str, kind: type[MmsearchError] = CollectionCorrupt) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(kind, match=match):
        import_collection(file, tmp_path / "imported")
    assert set(tmp_path.iterdir()) == before, "nothing is left behind"
