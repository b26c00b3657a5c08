"""Join collections of one encoder without embedding anything again: how several machines index one corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmsearch.collection.collection import Collection
from mmsearch.errors import CollectionError, EncoderMismatch

_ROWS = 2000


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What became of the items of the collections merged: `kept` were there, and looked at as late or later."""

    collection: str
    added: int
    changed: int
    kept: int


def merge(
    target: Collection, sources: Sequence[Collection], *, progress: Callable[[int], None] = lambda items: None
) -> MergeReport:
    """Add the items, vectors and sources of collections to `target`, which goes on being searched meanwhile.

    Of an item that both have, the one whose file was looked at later counts. It may be killed and run again: what is
    there is not added twice. `progress` is told how many items are done. Raise EncoderMismatch, CollectionError for a
    collection merged into itself, CollectionLocked.
    """
    for source in sources:
        if source.uuid == target.uuid:
            raise CollectionError(f"{source.layout.root} cannot be merged into itself: name another collection.")
        if source.spec.fingerprint != target.spec.fingerprint:
            raise EncoderMismatch(
                f"{source.layout.root} was made with {source.spec.uri}, {target.layout.root} with {target.spec.uri}:"
                " only collections of one encoder can be merged, and 'mmsearch index --reembed' moves one to another.",
                bound=target.spec.uri,
                wanted=source.spec.uri,
            )
    added = changed = kept = done = 0
    with target.writer() as writer:
        for source in sources:
            snapshot = source.snapshot()
            stores = {modality: snapshot.store(modality) for modality in snapshot.state.modalities}
            for root in source.catalog.roots():
                mine = writer.root(root.kind, root.path, root.options)
                for batch in source.catalog.stored_items(root.id, _ROWS):
                    for stored in batch:
                        item = stored.item
                        known = writer.known_item(item.key)
                        if known is not None and known.scanned_ns >= item.scanned_ns:
                            kept += 1
                            continue
                        row = stores[item.modality].take(np.array([stored.vector_id]))[0]
                        if writer.put(item, mine, row.astype(np.float32)):
                            added += 1
                        else:
                            changed += 1
                    writer.commit()
                    done += len(batch)
                    progress(done)
    return MergeReport(str(target.layout.root), added, changed, kept)
