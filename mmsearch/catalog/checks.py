"""What `verify` asks of a catalog beyond SQLite's own checks."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from mmsearch.catalog import schema
from mmsearch.catalog.binding import check_bound
from mmsearch.catalog.catalog import Catalog, modality_state
from mmsearch.corpora.records import text_hash
from mmsearch.types import EncoderSpec, Modality

_SHOWN = 5


def catalog_problems(catalog: Catalog, spec: EncoderSpec) -> list[str]:
    """Return what is wrong between items, vectors, texts and the places where rows lie, a sentence each.

    Raise EncoderMismatch when it was moved to another encoder than `spec` tells of.
    """
    problems: list[str] = []
    with catalog.database.read() as connection:  # one transaction, for somebody may be writing
        check_bound(connection, spec, catalog.database.path.parent)
        for modality in Modality:
            part = modality_state(connection, modality, spec.dim)
            expected = 0
            for segment in part.segments:
                if segment.first_id < expected:
                    problems.append(f"{modality} segment {segment.file} begins at {segment.first_id}, not {expected}")
                expected = segment.end
            known = expected + len(part.unsealed)
            if known > part.next_id:
                problems.append(f"{modality} rows for {known} ids are stored, {part.next_id} were given out")
            vectors = schema.vectors
            named = select(func.count()).select_from(vectors).where(vectors.c.modality == modality)
            live = connection.execute(named).scalar_one()
            if live != part.live:
                problems.append(f"{modality} vectors: {live} are named, {part.live} are alive")
        unused = connection.exec_driver_sql(
            "SELECT count(*) FROM vectors AS v WHERE NOT EXISTS"
            " (SELECT 1 FROM items AS i WHERE i.modality = v.modality AND i.vector_id = v.id)"
        ).scalar_one()
        if unused:
            problems.append(f"{unused} vectors serve no item")
        wrong = _wrong_texts(connection)
        problems += [f"the text of item {item_id} is not the one that was embedded" for item_id in wrong[:_SHOWN]]
        if len(wrong) > _SHOWN:
            problems.append(f"{len(wrong) - _SHOWN} more texts after that one are not those that were embedded")
    return problems


def wrong_texts(catalog: Catalog) -> list[int]:
    """Return the ids of captions that are not the texts that were embedded."""
    with catalog.database.read() as connection:
        return _wrong_texts(connection)


def _wrong_texts(connection: Connection) -> list[int]:
    """Return the ids of captions that are not what their hash is of: a damage that SQLite does not see."""
    items, vectors = schema.items.c, schema.vectors.c
    query = (
        select(items.id, items.text, vectors.content_hash)
        .join_from(schema.items, schema.vectors, (vectors.modality == items.modality) & (vectors.id == items.vector_id))
        .where(items.modality == Modality.TEXT)
    )
    return [row.id for row in connection.execute(query) if text_hash(row.text or "") != row.content_hash]
