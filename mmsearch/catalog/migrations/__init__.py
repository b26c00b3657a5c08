"""Alembic's folder: one file for each change of the schema, applied by `Database.upgrade`."""
