"""What pictures tell of themselves, and compacted segments. Frozen like the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; a picture of before was taken when its file was modified, until its file is read again.

    It is read again when it was modified or moved, or by `mmsearch index --rehash`.
    """
    op.add_column("items", sa.Column("taken_ns", sa.Integer))
    op.add_column("items", sa.Column("taken_offset", sa.Integer))
    op.add_column("items", sa.Column("camera", sa.Text))
    op.add_column("items", sa.Column("lens", sa.Text))
    op.add_column("items", sa.Column("latitude", sa.Float))
    op.add_column("items", sa.Column("longitude", sa.Float))
    op.add_column("items", sa.Column("title", sa.Text))
    op.add_column("items", sa.Column("description", sa.Text))
    op.add_column("items", sa.Column("keywords", sa.Text))
    op.add_column("segments", sa.Column("end_id", sa.Integer))
    op.create_index("ix_items_uri", "items", ["uri", "modality", "vector_id"])
    filtered = ["modality", "format", "width", "height", "size", "mtime_ns", "taken_ns", "vector_id"]
    op.create_index("ix_items_filter", "items", filtered)
    op.execute("UPDATE items SET taken_ns = mtime_ns WHERE modality = 'image'")
