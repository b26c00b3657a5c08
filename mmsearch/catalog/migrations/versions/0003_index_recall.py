"""Recall of an index on queries of the other modality, its candidates, and the target. Frozen like the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; what was built before was tuned on stored vectors, with 100 candidates, to 0.95."""
    op.add_column("ann_indexes", sa.Column("recall_across", sa.Float))
    op.add_column("ann_indexes", sa.Column("across", sa.Text, nullable=False, server_default=""))
    op.add_column("ann_indexes", sa.Column("candidates", sa.Integer, nullable=False, server_default="100"))
    op.add_column("ann_indexes", sa.Column("target", sa.Float, nullable=False, server_default="0.95"))
