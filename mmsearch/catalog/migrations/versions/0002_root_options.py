"""How a corpus is read is kept with its root. Frozen: a later schema is a migration of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Give every root empty options."""
    op.add_column("roots", sa.Column("options", sa.Text, nullable=False, server_default=""))
