"""The tables of a catalog. `migrations/` makes them; a test holds the two together.

A row of `items` is a picture or a caption; a row of `vectors` is one live content of a modality, shared by all items
with that content. Vector ids count up from 0 in each modality and are never reused. A vector's row lies in
`unsealed_vectors` until its segment is sealed; `dead_vectors` are ids whose rows lie somewhere but serve no item.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

commits = Table(
    "commits",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),  # seconds since 1970, UTC
    Column("added", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("moved", Integer, nullable=False),
    Column("deleted", Integer, nullable=False),
    sqlite_autoincrement=True,
)

roots = Table(
    "roots",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("path", Text, nullable=False, unique=True),
    Column("added_at", Float, nullable=False),
    Column("options", Text, nullable=False, server_default=""),  # how a corpus is read
)

vectors = Table(
    "vectors",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("content_hash", LargeBinary, nullable=False),  # SHA-256 of the file or of the text
    Index("ix_vectors_content", "modality", "content_hash", unique=True),
    sqlite_with_rowid=False,
)

_FILTERED = ("modality", "format", "width", "height", "size", "mtime_ns", "taken_ns", "vector_id")

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),
    Column("modality", Text, nullable=False),
    Column("root_id", ForeignKey("roots.id"), nullable=False, index=True),
    Column("uri", Text, nullable=False),
    Column("group_key", Text, nullable=False, index=True),
    Column("text", Text),
    Column("vector_id", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("scanned_ns", Integer, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("format", Text),
    Column("taken_ns", Integer),  # when the picture was taken, else its file modified; UTC, since 1970
    Column("taken_offset", Integer),  # minutes east of UTC, where the file tells
    Column("camera", Text),
    Column("lens", Text),
    Column("latitude", Float),  # degrees, north positive
    Column("longitude", Float),  # degrees, east positive
    Column("title", Text),
    Column("description", Text),
    Column("keywords", Text),  # one a line
    ForeignKeyConstraint(["modality", "vector_id"], ["vectors.modality", "vectors.id"]),
    Index("ix_items_vector", "modality", "vector_id"),
    Index("ix_items_uri", "uri", "modality", "vector_id"),  # filters are answered from these two alone
    Index("ix_items_filter", *_FILTERED),
    sqlite_autoincrement=True,
)

unsealed_vectors = Table(
    "unsealed_vectors",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("row", LargeBinary, nullable=False),  # dim little-endian float16
)

dead_vectors = Table(
    "dead_vectors",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

segments = Table(
    "segments",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("first_id", Integer, primary_key=True, autoincrement=False),
    Column("rows", Integer, nullable=False),
    Column("file", Text, nullable=False, unique=True),  # relative to the collection, with forward slashes
    Column("sha256", Text, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("end_id", Integer),  # of a compacted one, which lacks ids and holds the list of its own; else NULL
)

ann_indexes = Table(
    "ann_indexes",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("file", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("covered", Integer, nullable=False),  # it holds the live ids below this one
    Column("vectors", Integer, nullable=False),
    Column("factory", Text, nullable=False),
    Column("nlist", Integer, nullable=False),
    Column("nprobe", Integer, nullable=False),
    Column("recall_at_10", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("built_at", Float, nullable=False),
    Column("recall_across", Float),  # on queries of the other modality
    Column("across", Text, nullable=False, server_default=""),  # and what these were
    Column("candidates", Integer, nullable=False, server_default="100"),
    Column("target", Float, nullable=False, server_default="0.95"),
)

counters = Table(
    "counters",
    metadata,
    Column("modality", Text, primary_key=True),
    Column("next_id", Integer, nullable=False),
)

failures = Table(
    "failures",
    metadata,
    Column("key", Text, primary_key=True),
    Column("root_id", ForeignKey("roots.id"), nullable=False, index=True),
    Column("size", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)
