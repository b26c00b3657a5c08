"""The first schema. Frozen: a later schema is a migration of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of an empty catalog."""
    op.create_table(
        "facts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "commits",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("added", sa.Integer, nullable=False),
        sa.Column("changed", sa.Integer, nullable=False),
        sa.Column("moved", sa.Integer, nullable=False),
        sa.Column("deleted", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "roots",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("added_at", sa.Float, nullable=False),
    )
    op.create_table(
        "vectors",
        sa.Column("modality", sa.Text, primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content_hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_vectors_content", "vectors", ["modality", "content_hash"], unique=True)
    op.create_table(
        "items",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("modality", sa.Text, nullable=False),
        sa.Column("root_id", sa.Integer, sa.ForeignKey("roots.id"), nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("group_key", sa.Text, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("vector_id", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("mtime_ns", sa.Integer, nullable=False),
        sa.Column("scanned_ns", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("format", sa.Text),
        sa.ForeignKeyConstraint(["modality", "vector_id"], ["vectors.modality", "vectors.id"]),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_items_root_id", "items", ["root_id"])
    op.create_index("ix_items_group_key", "items", ["group_key"])
    op.create_index("ix_items_vector", "items", ["modality", "vector_id"])
    op.create_table(
        "unsealed_vectors",
        sa.Column("modality", sa.Text, primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("row", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "dead_vectors",
        sa.Column("modality", sa.Text, primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "segments",
        sa.Column("modality", sa.Text, primary_key=True),
        sa.Column("first_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("file", sa.Text, nullable=False, unique=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
    )
    op.create_table(
        "ann_indexes",
        sa.Column("modality", sa.Text, primary_key=True),
        sa.Column("file", sa.Text, nullable=False, unique=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("covered", sa.Integer, nullable=False),
        sa.Column("vectors", sa.Integer, nullable=False),
        sa.Column("factory", sa.Text, nullable=False),
        sa.Column("nlist", sa.Integer, nullable=False),
        sa.Column("nprobe", sa.Integer, nullable=False),
        sa.Column("recall_at_10", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("built_at", sa.Float, nullable=False),
    )
    op.create_table(
        "counters",
        sa.Column("modality", sa.Text, primary_key=True),
        sa.Column("next_id", sa.Integer, nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("root_id", sa.Integer, sa.ForeignKey("roots.id"), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("mtime_ns", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("ix_failures_root_id", "failures", ["root_id"])
