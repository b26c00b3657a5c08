"""The SQLite database of a collection: engine, PRAGMAs, BEGIN modes, migration."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from mmsearch.catalog.schema import metadata
from mmsearch.errors import (
    CollectionCorrupt,
    CollectionError,
    CollectionLocked,
    CollectionReadOnly,
    DiskFull,
    MmsearchError,
    UnsupportedFormat,
)

SCHEMA_VERSION = 4
"""`PRAGMA user_version` of the newest schema; each migration sets its own."""

HEAD_REVISION = "0004"
"""Alembic's name of that schema."""

_BUSY_MS = 10_000
_BEGIN = "mmsearch_begin"
_NO_SPACE = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNCATE")
"""What SQLite says where a file may not grow, and where a disk fails."""

_HARDLY_ANY = 16_000_000
"""Bytes: with fewer of them free, it is the space that was lacking."""


class Database:
    """An engine over one catalog file. Connections may be used from any thread, each by one at a time."""

    def __init__(self, path: Path) -> None:
        """Open the catalog at `path`; a folder that cannot be written is opened read-only."""
        self.path = path
        self.writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        self._is_closed = False
        self._seen: tuple[int, int] | None = None  # size and mtime_ns of a file that was opened as immutable
        self._engine = self._opened("mode=rwc" if self.writable else "mode=ro")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection in a read transaction: one consistent state."""
        if not self.writable:
            self._reopen_read_only()
        with self._translated(), self._engine.connect() as connection, connection.begin():
            try:
                yield connection
            except MmsearchError:
                raise
            except (ValueError, TypeError) as error:  # a modality that is none, a text that is not UTF-8, or no text
                raise _corrupt(self.path, str(error)) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection in a write transaction that is committed at the end, or rolled back by an exception."""
        with self._translated(), self._engine.connect() as plain:
            connection = plain.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
            with connection.begin():
                yield connection

    def user_version(self) -> int:
        """Return the schema number that the file says it has (0: none yet)."""
        with self.read() as connection:
            return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())

    def upgrade(self) -> None:
        """Bring the schema up to date: make it where there is none, back an old one up first, refuse a newer one."""
        found = self.user_version()
        if found == SCHEMA_VERSION:
            return
        if not found:
            self._create()
            return
        if found > SCHEMA_VERSION:
            raise UnsupportedFormat(
                f"The catalog {self.path} has schema {found}, this mmsearch knows up to {SCHEMA_VERSION}: update it."
            )
        if not self.writable:
            raise UnsupportedFormat(f"The catalog {self.path} must be upgraded once, but its folder is read-only.")
        self._backup(found)
        self._migrate()

    def checkpoint(self) -> None:
        """Move what the write-ahead log holds into the database file, as far as readers allow."""
        if self.writable:
            self._outside_transaction("PRAGMA wal_checkpoint(TRUNCATE)")

    def vacuum(self) -> None:
        """Write the file anew: what was deleted is in it no longer, nor in the write-ahead log."""
        self._outside_transaction("VACUUM")
        self.checkpoint()

    def reindex(self) -> None:
        """Build the indexes anew from the tables."""
        self._outside_transaction("REINDEX")

    def _outside_transaction(self, statement: str) -> None:
        with self._translated(), self._engine.connect() as plain:
            plain.execution_options(**{_BEGIN: ""}).exec_driver_sql(statement)

    def integrity_problems(self) -> list[str]:
        """Return what SQLite's own integrity and foreign key checks complain of."""
        with self.read() as connection:
            rows = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            orphans = [f"row {row[1]} of {row[0]} refers to nothing" for row in _foreign_keys(connection)]
        return [row for row in rows if row != "ok"] + orphans

    def close(self) -> None:
        """Close every idle connection; nothing can be asked or changed from now on."""
        self._is_closed = True
        self._engine.dispose()

    def _opened(self, mode: str) -> Engine:
        engine = create_engine(
            f"sqlite+pysqlite:///file:{quote(str(self.path))}?{mode}&uri=true", connect_args=_CONNECT
        )
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    def _reopen_read_only(self) -> None:
        """Choose how to read a file in a folder that cannot be written: SQLite wants to make files beside a WAL.

        While a writer has them there, the ordinary way works. Without them the file is complete, and is opened as one
        that does not change, anew whenever it has changed after all.
        """
        stat = self.path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        if self._seen == stamp:
            return
        self._engine.dispose()
        self._engine = self._opened("mode=ro")
        self._seen = None
        try:
            with self._engine.connect() as connection, connection.begin():
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        except DBAPIError:
            self._engine.dispose()
            self._engine = self._opened("mode=ro&immutable=1")
            self._seen = stamp

    def _on_connect(self, connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # SQLAlchemy's documented recipe: we emit BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        cursor.execute("PRAGMA foreign_keys=ON")
        if self.writable:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    def _backup(self, version: int) -> None:
        self.checkpoint()
        shutil.copy2(self.path, self.path.with_name(f"{self.path.name}.schema{version}.bak"))

    def _create(self) -> None:
        """Make the newest schema at once, marked as Alembic would mark it; Alembic takes most of a second to import."""
        with self.write() as connection:
            if connection.exec_driver_sql("PRAGMA user_version").scalar_one():
                return  # another process was faster
            metadata.create_all(connection)
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD_REVISION,))
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite raises into the errors of mmsearch; raise CollectionError once this was closed."""
        if self._is_closed:
            raise CollectionError(f"The collection {self.path.parent} was closed: open it again to use it.")
        with translated(self.path):
            yield


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises about a file into the errors of mmsearch."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _corrupt(path, "its schema is not UTF-8") from error
    except (DBAPIError, sqlite3.Error) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        text = str(original)
        name = getattr(original, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise CollectionLocked(f"The catalog {path} is busy ({text}): try again in a moment.") from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or any(words in text for words in _DAMAGE):
            raise _corrupt(path, text) from error
        if name.startswith("SQLITE_FULL") or (name.startswith(_NO_SPACE) and _is_full(path)):
            raise DiskFull(
                f"The disk of the catalog {path} takes no more ({text}): free some space, then run the same command"
                " again; what was committed before is safe."
            ) from error
        if name.startswith("SQLITE_READONLY"):
            raise CollectionReadOnly(
                f"The catalog {path} cannot be written ({text}): look at the permissions of its folder."
            ) from error
        if name.startswith(_NO_SPACE):
            raise CollectionError(f"The catalog {path} cannot be used ({text}): look at the disk.") from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
            raise CollectionError(
                f"The catalog {path} cannot be used ({text}): look at the permissions of its folder, and at the disk."
            ) from error
        raise


def _is_full(path: Path) -> bool:
    """Return True when the disk of a file has hardly any room, or files may only be so large."""
    try:
        if shutil.disk_usage(path.parent).free < _HARDLY_ANY:
            return True
        import resource  # not on Windows
    except (ImportError, OSError):
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _corrupt(path: Path, reason: str) -> CollectionCorrupt:
    return CollectionCorrupt(f"The catalog {path} is damaged ({reason}): restore it from a backup or index again.")


_DAMAGE = ("Could not decode to UTF-8", "malformed", "no such table", "no such column", "has no column")
"""Other words of SQLite for a file that is not as it was written."""

_CONNECT: dict[str, Any] = {"check_same_thread": False, "timeout": _BUSY_MS / 1000}


def _on_begin(connection: Connection) -> None:
    if statement := connection.get_execution_options().get(_BEGIN, "BEGIN"):
        connection.exec_driver_sql(statement)


def _foreign_keys(connection: Connection) -> list[Any]:
    return list(connection.exec_driver_sql("PRAGMA foreign_key_check"))
