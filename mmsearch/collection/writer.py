"""Writer: the only code that changes a collection.

Items and their new vectors go into the catalog in one transaction; `commit` ends it, and there is no other commit.
When enough unsealed vectors have gathered they are sealed into a segment: the file is made durable first, then one
transaction names it and drops the rows from the catalog.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from mmsearch.catalog.catalog import Catalog
from mmsearch.catalog.changes import Transaction, held_fact
from mmsearch.catalog.rows import AnnRow, Changes, KnownItem, NewItem, Relocated, Root, SegmentRow
from mmsearch.collection.atomic import write_file
from mmsearch.collection.incoming import clear_incoming
from mmsearch.collection.layout import Layout
from mmsearch.types import EncoderSpec, Float16, Float32, Int64, Modality
from mmsearch.vectors.store import write_segment

SEAL_ROWS = 4096
"""Unsealed vectors of a modality that are sealed at the next commit, at least."""

UNIT_TOLERANCE = 2e-3
"""How far the length of a stored float16 row may be from 1."""


class Writer:
    """Add, replace, move and delete items. Made by `Collection.writer()`, used by one thread."""

    def __init__(self, layout: Layout, catalog: Catalog, spec: EncoderSpec) -> None:
        self._layout = layout
        self._catalog = catalog
        self._spec = spec
        self._open: ExitStack | None = None
        self._transaction: Transaction | None = None
        self._added = self._changed = self._moved = self._deleted = 0

    def __enter__(self) -> Writer:
        for path in self._layout.staged_files():
            path.unlink(missing_ok=True)
        state = self._catalog.state(self._spec)
        self.collect_garbage()
        clear_incoming(self._layout, [self._spec.fingerprint])  # they have come
        self._unsealed = {modality: len(part.unsealed) for modality, part in state.modalities.items()}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    # --- changes ----------------------------------------------------------------------------------------------------

    def root(self, kind: str, path: str, options: str = "") -> Root:
        """Return the root of a path, to be read with these options from now on, making it if there is none."""
        return self._change.root(kind, path, options)

    def absorb(self, root: Root, into: Root) -> None:
        """Hand all that belongs to a root over to another, and forget it."""
        self._change.absorb_root(root, into)

    def drop_root(self, root: Root) -> None:
        """Forget a root that has no items."""
        self._change.drop_root(root)

    def rename_roots(self, renamed: Sequence[Root]) -> None:
        """Give roots, by their ids, the paths and options that these have."""
        self._change.rename_roots(renamed)

    def hand_over(self, place: str, root: Root, into: Root) -> None:
        """Hand what lies at or below a place from one root to another."""
        self._change.hand_over(place, root.id, into.id)

    def relocate(self, old: str, new: str) -> Relocated:
        """Let all items and failures at or below `old` lie at or below `new`; raise CollectionError for taken names."""
        moved = self._change.relocate(old, new)
        self._moved += moved.items
        return moved

    def has_content(self, modality: Modality, content_hash: bytes) -> bool:
        """Return True when a vector of that content is there, committed or not."""
        return self._change.vector_of(modality, content_hash) is not None

    def known_item(self, key: str) -> KnownItem | None:
        """Return what is known of the item with that key, committed or not."""
        return self._change.known_item(key)

    def items_with_content(self, modality: Modality, content_hash: bytes) -> list[KnownItem]:
        """Return the items of that content, committed or not, by item id."""
        return self._change.items_with_content(modality, content_hash)

    def put(self, item: NewItem, root: Root, vector: Float32 | None = None) -> bool:
        """Add or replace the item under its key, and return True when the key is new.

        `vector` (dim,) is not needed, and not used, when `has_content` is True for its modality and hash. Raise
        ValueError for a vector that is missing, of another width, not finite or not of unit length.
        """
        vector_id = self._change.vector_of(item.modality, item.content_hash)
        if vector_id is None:
            row = stored_row(vector, self._spec.dim).tobytes()
            vector_id = self._change.add_vector(item.modality, item.content_hash, row)
            self._unsealed[item.modality] += 1
        new = self._change.put_item(item, root.id, vector_id)
        self._added += new
        self._changed += not new
        return new

    def move(self, item_id: int, item: NewItem, root: Root) -> None:
        """Let an item whose file was moved or renamed keep its id and vector under its new key."""
        self._change.move_item(item_id, item, root.id)
        self._moved += 1

    def touch(self, item_id: int, item: NewItem) -> None:
        """Store the stamps of a file whose content is the same, and what it tells; other facts are a change."""
        self._changed += self._change.touch_item(item_id, item)

    def count_items(self, root: Root) -> int:
        """Return how many items a root has, committed or not."""
        return self._change.count_items(root.id)

    def adopt(self, item_id: int, root: Root) -> None:
        """Hand an item to another root that names it too."""
        self._change.adopt_item(item_id, root.id)

    def delete(self, item_ids: Iterable[int]) -> None:
        """Delete items; a vector that serves none any more is dead from the commit on."""
        self._deleted += self._change.delete_items(item_ids)

    def delete_captions(self, group: str, root_id: int) -> int:
        """Delete a root's captions for one picture, and return how many there were."""
        ids = self._change.caption_ids(group, root_id)
        self.delete(ids)
        return len(ids)

    def put_failure(self, key: str, root: Root, *, size: int, mtime_ns: int, reason: str) -> None:
        """Record a file that could not be read."""
        self._change.put_failure(key, root.id, size=size, mtime_ns=mtime_ns, reason=reason)

    def clear_failure(self, key: str) -> None:
        """Forget a file that could not be read."""
        self._change.clear_failure(key)

    def forget_failures(self, place: str) -> None:
        """Forget the files at or below a place that could not be read."""
        self._change.forget_failures(place)

    def forget_left_out(self, root: Root) -> None:
        """Forget which files of a root were left out: from now on others may be."""
        self._change.forget_left_out(root.id)

    def hold_back(self, root: Root, known_before: int | None) -> None:
        """Note how many items a root had when a deletion was held back; None: nothing is held back any more."""
        self._change.set_fact(held_fact(root.id), "" if known_before is None else str(known_before))

    def held_before(self, root: Root) -> int | None:
        """Return what `hold_back` noted of a root, committed or not."""
        return self._change.held_before(root.id)

    def set_index_kind(self, kind: str) -> None:
        """Store which index the collection is to have."""
        self._change.set_fact("index_kind", kind)

    def set_recall_target(self, recall: float) -> None:
        """Store the recall@10 that indexes are tuned to."""
        self._change.set_fact("recall_target", repr(recall))

    def set_ann(self, modality: Modality, row: AnnRow | None) -> None:
        """Name the ANN index of a modality (its file is durable already), or that there is none."""
        self._change.set_ann(modality, row)

    # --- commits ----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything since the last commit durable and visible, at once; then seal what has gathered."""
        if self._open is None or self._transaction is None:
            return
        changes = Changes(self._added, self._changed, self._moved, self._deleted)
        if changes != Changes():
            self._transaction.add_commit(changes)
        self._end().close()
        for modality, rows in self._unsealed.items():
            if rows >= SEAL_ROWS:
                self.seal(modality)

    def rollback(self) -> None:
        """Drop everything since the last commit."""
        if self._open is not None:
            self._end().__exit__(_Rollback, _Rollback(), None)

    def seal(self, modality: Modality) -> None:
        """Write the unsealed vectors of a modality as one segment."""
        state = self._catalog.state(self._spec).modalities[modality]
        if not len(state.unsealed):
            return
        file = self._layout.new_segment(modality, state.unsealed_first)
        written = write_file(
            self._layout.path(file), self._layout.new_staged(), lambda stream: write_segment(stream, [state.unsealed])
        )
        row = SegmentRow(modality, state.unsealed_first, len(state.unsealed), file, written.sha256, written.bytes)
        with self._catalog.transaction() as transaction:
            transaction.seal(row)
        self._unsealed[modality] = 0

    def replace_segments(self, old: Sequence[SegmentRow], new: Sequence[SegmentRow], *, dead: Int64) -> None:
        """Name segment files, durable already, in place of those whose rows they hold, but for those of `dead` (n,)."""
        with self._catalog.transaction() as transaction:
            transaction.replace_segments(old, new, dead=dead)

    def switch_encoder(
        self,
        spec: EncoderSpec,
        segments: Sequence[SegmentRow],
        *,
        ids: Mapping[Modality, Int64],
        changed: Mapping[int, bytes],
    ) -> None:
        """Commit, and with it let the rows in `segments`, durable already, take the place of all that there are.

        They are those of the vectors `ids` (n,), made by the encoder `spec` tells of; `changed` are pictures whose
        files have another content by now. Raise CollectionCorrupt where a vector would be left without a row.
        """
        self._change.switch_encoder(spec, segments, ids=ids, changed=changed)
        self._unsealed = dict.fromkeys(Modality, 0)
        self.commit()
        self._spec = spec

    def lose_vectors(self, modality: Modality, first: int, end: int) -> list[str]:
        """Delete the items of the vectors `first` … `end − 1`, whose rows are lost, and return their keys."""
        found = self._change.items_of_vectors(modality, first, end)
        self.delete(item_id for item_id, _ in found)
        return [key for _, key in found]

    def lose_items(self, item_ids: Sequence[int]) -> list[str]:
        """Delete items that are damaged, and return their keys."""
        keys = [key for item_id in item_ids if (key := self._change.key_of(item_id)) is not None]
        self.delete(item_ids)
        return keys

    def retire_unused(self, modality: Modality) -> int:
        """Let go of vectors that serve no item, and return how many there were."""
        return self._change.retire_unused(modality)

    def collect_garbage(self) -> None:
        """Remove data files that no commit names. A reader of an older state reads the newer one instead."""
        state = self._catalog.state(self._spec)
        named = {segment.file for part in state.modalities.values() for segment in part.segments}
        named |= {part.ann.file for part in state.modalities.values() if part.ann}
        for file in self._layout.data_files():
            if file not in named:
                path = self._layout.path(file)
                path.unlink(missing_ok=True)
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _change(self) -> Transaction:
        if self._transaction is None:
            self._open = ExitStack()
            self._transaction = self._open.enter_context(self._catalog.transaction())
        return self._transaction

    def _end(self) -> ExitStack:
        assert self._open is not None
        stack, self._open, self._transaction = self._open, None, None
        self._added = self._changed = self._moved = self._deleted = 0
        return stack


def stored_row(vector: Float32 | None, dim: int) -> Float16:
    """Return a vector (dim,) as it is stored; raise ValueError unless it is one of that width and of unit length."""
    if vector is None or vector.shape != (dim,):
        raise ValueError(f"a new content needs a vector ({dim},), not {None if vector is None else vector.shape}")
    row: Float16 = vector.astype("<f2")
    length = float(np.linalg.norm(row.astype(np.float32)))
    if not abs(length - 1.0) <= UNIT_TOLERANCE:
        raise ValueError(f"a vector must have unit length, not {length}")
    return row


class _Rollback(Exception):
    """Tells the open transaction to roll back."""
