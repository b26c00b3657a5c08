"""`mmsearch info` and `mmsearch verify`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import CollectionOption, JsonOption
from mmsearch.cli.output import human_bytes, note, to_json, write

if TYPE_CHECKING:
    from mmsearch.collection.collection import CollectionInfo, ModalityInfo
    from mmsearch.types import Modality


def info(collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Tell what a collection holds: items, vectors, commits, encoder, index, sizes."""
    import mmsearch

    with mmsearch.open(collection) as engine:
        found = engine.info()
    if as_json:
        write(to_json(found))
        return
    for line in _lines(found):
        write(line)


def _lines(found: CollectionInfo) -> list[str]:
    when = (
        datetime.fromtimestamp(found.last_commit_at).astimezone().isoformat(" ", "seconds")
        if found.last_commit_at
        else "never"
    )
    lines = [
        f"collection  {found.path}",
        f"encoder     {found.encoder.uri} ({found.encoder.dim} dimensions)",
        f"commits     {found.commits:,}, the last one {when}",
    ]
    for modality, part in found.modalities.items():
        lines += modality_lines(modality, part)
    lines += [f"failures    {found.failures:,}"] if found.failures else []
    total = found.catalog_bytes + found.vector_bytes + found.index_bytes
    lines.append(
        f"size        {human_bytes(total)} (catalog {human_bytes(found.catalog_bytes)}, vectors"
        f" {human_bytes(found.vector_bytes)}, index {human_bytes(found.index_bytes)})"
    )
    lines += [f"{'sources' if i == 0 else '':<11} {root.path} ({root.kind})" for i, root in enumerate(found.roots)]
    return lines


def modality_lines(modality: Modality, part: ModalityInfo) -> list[str]:
    """Return what there is of a modality, and its index with the recall that was measured."""
    recall = ""
    if part.recall_at_10 is not None:
        across = f", {part.recall_across:.3f} on {part.across}" if part.recall_across is not None else ""
        recall = (
            f", recall@10 {part.recall_at_10:.3f} on stored vectors{across}, with nprobe {part.nprobe} and"
            f" {part.candidates} candidates"
        )
    return [
        f"{modality:<11} {part.items:,} items, {part.vectors:,} vectors"
        f" ({part.segments} segments, {part.unsealed:,} unsealed, {part.dead:,} dead)",
        f"            index {part.index}{recall}: {part.index_reason}",
    ]


def verify(collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Check every file, row and reference of a collection against its catalog.

    Exit status 0 when all is well, 20 when something is not.
    """
    from mmsearch.collection.collection import Collection
    from mmsearch.collection.maintenance import verify as verify_collection
    from mmsearch.config import Settings

    with Collection.open(Settings.from_environment().collection_path(collection)) as opened:
        found = verify_collection(opened)
    if as_json:
        write(to_json(found))
    else:
        for problem in found.problems:
            write(problem)
        if not found.problems:
            write(f"all well: {found.vectors:,} vectors, {found.files:,} files, the catalog")
    if found.problems:
        note("mmsearch: the collection is damaged: 'mmsearch repair' mends what can be mended.")
        raise typer.Exit(exits.PROBLEMS_FOUND)
