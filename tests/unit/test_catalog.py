"""The catalog: schema and migrations agree, transactions are whole, old and new schemas are treated as they should."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine, inspect

from mmsearch.catalog import database
from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.database import SCHEMA_VERSION, Database
from mmsearch.errors import CollectionCorrupt, CollectionError, CollectionLocked, DiskFull, UnsupportedFormat


def described(path: Path) -> dict[str, object]:
    """Return tables, columns, keys and indexes of a database in a comparable form."""
    engine = create_engine(f"sqlite:///{path}")
    found = inspect(engine)
    tables = {
        name: (
            [(c["name"], str(c["type"]), c["nullable"], c["primary_key"]) for c in found.get_columns(name)],
            sorted((i["name"], i["column_names"], i["unique"]) for i in found.get_indexes(name)),
            sorted((k["constrained_columns"], k["referred_table"]) for k in found.get_foreign_keys(name)),
            sorted(u["column_names"] for u in found.get_unique_constraints(name)),
        )
        for name in found.get_table_names()
    }
    engine.dispose()
    return tables


def test_migrations_make_the_schema_that_a_new_catalog_has(tmp_path: Path) -> None:
    Catalog(tmp_path / "new.sqlite3", create=True).close()
    migrated = Database(tmp_path / "migrated.sqlite3")
    migrated._migrate()
    migrated.close()
    assert described(tmp_path / "migrated.sqlite3") == described(tmp_path / "new.sqlite3")
    heads = set()
    for name in ("new", "migrated"):
        with sqlite3.connect(tmp_path / f"{name}.sqlite3") as raw:
            heads.add(raw.execute("SELECT version_num FROM alembic_version").fetchall()[0][0])
        raw.close()
    assert heads == {database.HEAD_REVISION}


def test_pragmas(tmp_path: Path) -> None:
    Catalog(tmp_path / "c.sqlite3", create=True).close()
    opened = Database(tmp_path / "c.sqlite3")
    with opened.read() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "user_version": SCHEMA_VERSION}
    opened.close()


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    Catalog(tmp_path / "c.sqlite3", create=True).close()
    with sqlite3.connect(tmp_path / "c.sqlite3") as raw:
        raw.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    raw.close()
    with pytest.raises(UnsupportedFormat, match="update it"):
        Catalog(tmp_path / "c.sqlite3")


def test_older_schema_is_backed_up_before_it_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.sqlite3"
    catalog = Catalog(path, create=True)
    with catalog.transaction() as transaction:
        transaction.set_fact("uuid", "kept")
    catalog.close()
    monkeypatch.setattr(database, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    catalog = Catalog(path)
    assert catalog.fact("uuid") == "kept"
    catalog.close()
    backup = path.with_name(f"c.sqlite3.schema{SCHEMA_VERSION}.bak")
    with sqlite3.connect(backup) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert raw.execute("SELECT value FROM facts WHERE name = 'uuid'").fetchone() == ("kept",)
    raw.close()


def test_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionCorrupt, match=r"c\.sqlite3 is missing"):
        Catalog(tmp_path / "c.sqlite3")
    (tmp_path / "c.sqlite3").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(CollectionCorrupt, match="is damaged"):
        Catalog(tmp_path / "c.sqlite3")


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c.sqlite3", create=True)
    with pytest.raises(RuntimeError), catalog.transaction() as transaction:
        transaction.set_fact("a", "1")
        raise RuntimeError
    assert catalog.fact("a") is None
    catalog.close()


def test_readers_see_the_old_state_until_the_commit(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c.sqlite3", create=True)
    with catalog.transaction() as transaction:
        transaction.set_fact("a", "1")
        assert catalog.fact("a") is None
    assert catalog.fact("a") == "1"
    catalog.close()


def test_a_busy_catalog_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_MS", 50)
    first = Catalog(tmp_path / "c.sqlite3", create=True)
    second = Catalog(tmp_path / "c.sqlite3")
    with (
        first.transaction(),
        pytest.raises(CollectionLocked, match="is busy"),
        second.transaction() as transaction,
    ):
        transaction.set_fact("a", "2")
    first.close()
    second.close()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("name", "free", "limit", "kind", "says"),
    [
        ("SQLITE_FULL", 10**12, resource.RLIM_INFINITY, DiskFull, "takes no more"),
        ("SQLITE_IOERR_WRITE", 10**12, resource.RLIM_INFINITY, CollectionError, r"cannot be used .*: look at the disk"),
        ("SQLITE_IOERR_TRUNCATE", 10**12, resource.RLIM_INFINITY, CollectionError, "look at the disk"),
        ("SQLITE_IOERR_SHMSIZE", 10**12, resource.RLIM_INFINITY, CollectionError, "look at the disk"),
        ("SQLITE_IOERR_WRITE", 1_000_000, resource.RLIM_INFINITY, DiskFull, "takes no more"),
        ("SQLITE_IOERR_TRUNCATE", 0, resource.RLIM_INFINITY, DiskFull, "takes no more"),
        ("SQLITE_IOERR_WRITE", 10**12, 1 << 20, DiskFull, "takes no more"),
        ("SQLITE_IOERR_FSYNC", 0, 1 << 20, CollectionError, "look at the permissions of its folder, and at the disk"),
    ],
)
def test_a_disk_is_said_to_be_full_only_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, free: int, limit: int, kind: type[Exception], says: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**13, 0, free))
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    with pytest.raises(kind, match=says) as raised, database.translated(tmp_path / "catalog.sqlite3"):
        raise error
    assert type(raised.value) is kind


def test_a_failing_disk_of_a_folder_that_is_gone_is_no_full_one(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    with pytest.raises(CollectionError, match="look at the disk"), database.translated(tmp_path / "gone" / "c.sqlite3"):
        raise error
