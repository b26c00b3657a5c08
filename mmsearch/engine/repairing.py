"""`mmsearch.repair`: for collections that may not even open."""

from __future__ import annotations

import os

from mmsearch.collection.collection import Collection
from mmsearch.collection.repair import Repairs, repair, repair_manifest
from mmsearch.config import Settings
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder


def repair_collection(collection: str | os.PathLike[str] | None = None, *, encoder: str | None = None) -> Repairs:
    """Make again what can be of a damaged collection, and return that and what must be indexed again.

    `encoder` is the URI of the collection's own (None: the default one), needed where its manifest is lost. Raise
    CollectionNotFound, CollectionLocked, and CollectionCorrupt where the catalog itself is beyond mending.
    """
    path = Settings.from_environment().collection_path(collection)
    spec = load_encoder(encoder or DEFAULT_ENCODER).spec
    done = (f"wrote {path / 'mmsearch.json'} anew",) if repair_manifest(path, spec) else ()
    with Collection.open(path) as opened, opened.writer() as writer:
        found = repair(opened, writer, lambda: load_encoder(opened.spec.uri))
    return Repairs((*done, *found.done), found.lost, found.left)
