"""A catalog that leaves the machine, and one that comes from another: what goes with it, what may not come."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Table

from mmsearch.catalog import schema
from mmsearch.catalog.binding import ENCODER, spec_from_text
from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.database import SCHEMA_VERSION, translated
from mmsearch.corpora.reader import KINDS
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import CollectionCorrupt, UnsupportedFormat
from mmsearch.types import Modality

_TYPES = {"INTEGER": "'integer'", "TEXT": "'text'", "FLOAT": "'real', 'integer'", "BLOB": "'blob'"}
"""What SQLite may hold in a column of a type; by itself it holds anything anywhere."""


def copy_catalog(catalog: Catalog, target: Path, *, with_places: bool) -> None:
    """Write the state of a catalog at one moment to a new file, whoever writes to it meanwhile.

    Without indexes, which are built where they are needed, and unless `with_places` without where pictures were taken:
    the file is made anew, so that nothing of it lingers in free pages.
    """
    with catalog.database.read() as connection, translated(target), closing(sqlite3.connect(target)) as copy:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(copy)
    with translated(target), closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("DELETE FROM ann_indexes")
        if not with_places:
            copy.execute("UPDATE items SET latitude = NULL, longitude = NULL")
        copy.execute("VACUUM")


def close_copy(path: Path) -> None:
    """Let a catalog that is open nowhere be one file, without a write-ahead log."""
    with translated(path), closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")


def check_foreign(path: Path, scratch: Path) -> None:
    """Raise CollectionCorrupt unless a catalog from elsewhere holds our tables and nothing else, sound and whole.

    It is looked at before anything else opens it: a trigger or a view would run on our behalf. A newer one raises
    UnsupportedFormat. `scratch` is a file that may be made.
    """
    Catalog(scratch, create=True).close()
    try:
        with closing(sqlite3.connect(scratch)) as own, closing(_read_only(path)) as foreign:
            version = int(foreign.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise UnsupportedFormat(f"its catalog has schema {version}, this mmsearch knows up to {SCHEMA_VERSION}")
            strangers = _objects(foreign) - _objects(own)
            if version < 1 or strangers:
                raise CollectionCorrupt(f"its catalog holds {_named(strangers)}")
            if problems := [row[0] for row in foreign.execute("PRAGMA integrity_check") if row[0] != "ok"]:
                raise CollectionCorrupt(f"its catalog is damaged: {problems[0]}")
    except sqlite3.Error as error:
        raise CollectionCorrupt(f"its catalog cannot be read: {error}") from error


def check_rows(path: Path) -> list[str]:
    """Return the names of the files that a catalog of the newest schema names; raise CollectionCorrupt for nonsense."""
    try:
        with closing(_read_only(path)) as foreign:
            for table in schema.metadata.sorted_tables:
                have = {row[1] for row in foreign.execute(f'PRAGMA table_info("{table.name}")')}
                if missing := {column.name for column in table.columns} - have:
                    raise CollectionCorrupt(f"its catalog lacks {table.name}.{min(missing)}")
                for column in table.columns:
                    _check_types(foreign, table.name, column.name, str(column.type), nullable=bool(column.nullable))
                _check_keys(foreign, table)
            if _modalities(foreign) - set(Modality):
                raise CollectionCorrupt("its catalog names modalities that there are none of")
            _check_facts(foreign)
            _check_roots(foreign)
            return [str(row[0]) for row in foreign.execute("SELECT file FROM segments")]
    except sqlite3.Error as error:
        raise CollectionCorrupt(f"its catalog cannot be read: {error}") from error


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Return (type, name, text) of what a database is made of; the text of what could run, or nothing."""
    found = set()
    for kind, name, text in connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master"):
        if not (kind == "index" and name.startswith("sqlite_autoindex_")):
            runs = kind not in ("table", "index") or text.upper().startswith("CREATE VIRTUAL")
            found.add((kind, name, " ".join(text.split()) if runs else ""))
    return found


def _named(strangers: set[tuple[str, str, str]]) -> str:
    return " and ".join(f"the {kind} {name!a}" for kind, name, _ in sorted(strangers)[:3]) or "no schema of ours"


def _check_types(connection: sqlite3.Connection, table: str, column: str, kind: str, *, nullable: bool) -> None:
    allowed = _TYPES[kind] + (", 'null'" if nullable else "")
    query = f'SELECT count(*) FROM "{table}" WHERE typeof("{column}") NOT IN ({allowed})'
    if connection.execute(query).fetchone()[0]:
        raise CollectionCorrupt(f"its catalog holds something in {table}.{column} that does not belong there")


def _modalities(connection: sqlite3.Connection) -> set[str]:
    tables = ("items", "vectors", "segments", "unsealed_vectors", "dead_vectors", "counters")
    return {row[0] for name in tables for row in connection.execute(f"SELECT DISTINCT modality FROM {name}")}


def _check_keys(connection: sqlite3.Connection, table: Table) -> None:
    """Raise CollectionCorrupt unless a table is kept unique by what keeps ours so."""
    columns = connection.execute(f'PRAGMA table_info("{table.name}")').fetchall()
    have = {frozenset(row[1] for row in columns if row[5])}
    for _, name, is_unique, _, is_partial in connection.execute(f'PRAGMA index_list("{table.name}")').fetchall():
        if is_unique and not is_partial:
            rows = connection.execute("SELECT name FROM pragma_index_info(?)", (name,))
            have.add(frozenset(row[0] for row in rows))
    wanted = {frozenset(column.name for column in table.primary_key)}
    wanted |= {frozenset([column.name]) for column in table.columns if column.unique}
    wanted |= {frozenset(column.name for column in index.columns) for index in table.indexes if index.unique}
    if wanted - have:
        raise CollectionCorrupt(f"its catalog may hold two rows of {table.name} where one belongs")


def _check_facts(connection: sqlite3.Connection) -> None:
    for name, value in connection.execute("SELECT name, value FROM facts"):
        is_count = name == "layout" or name.startswith("held_before:")
        try:
            is_sound = not is_count or 0 <= int(value or 0) < 2**63
            is_sound &= name != "recall_target" or 0 < float(value) <= 1
            is_sound &= name != ENCODER or spec_from_text(value) is not None
        except ValueError:
            is_sound = False
        if not is_sound:
            raise CollectionCorrupt(f"its catalog says {value!a} for {name}")


def _check_roots(connection: sqlite3.Connection) -> None:
    """Raise CollectionCorrupt for a source of no known kind, or with options that no version can have written."""
    for kind, path, options in connection.execute("SELECT kind, path, options FROM roots"):
        if kind not in ("folder", "file", *KINDS):
            raise CollectionCorrupt(f"its catalog has a source of the kind {kind!a}")
        try:
            told = json.loads(options) if options else {}
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not all(_is_option(name, value) for name, value in told.items()):
            raise CollectionCorrupt(f"its catalog tells nonsense of how the source {path!a} is read")


def _is_option(name: str, value: object) -> bool:
    if name in ("include", "exclude"):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if name == "min_size":
        return type(value) is int and value >= 0
    if name == "captions_only":
        return isinstance(value, bool)
    return value is None or isinstance(value, str) or name not in CorpusOptions.__dataclass_fields__
