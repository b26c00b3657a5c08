"""All metadata of a collection in SQLite; its transaction is the one commit. Home of SQLAlchemy and Alembic."""
