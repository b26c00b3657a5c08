"""`mmsearch compact` and `repair`."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import CollectionOption, JsonOption
from mmsearch.cli.output import human_bytes, note, to_json, write

if TYPE_CHECKING:
    from mmsearch.collection.collection import CollectionInfo


def compact(collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Write a collection anew without what was deleted from it, and with few large files.

    Searches go on meanwhile. What was deleted is on the disk no longer, but for backups and exports.
    """
    import mmsearch

    gc.enable()
    with mmsearch.open(collection) as engine:
        before = engine.info()
        note("mmsearch: writing the collection anew …")
        done = engine.compact()
        after = engine.info()
    if as_json:
        write(to_json(done))
        return
    saved = max(0, _bytes(before) - _bytes(after))
    files = f"{done.files:,} files fewer"
    write(f"{done.rows:,} rows of deleted vectors are gone, {files}, {human_bytes(saved)} saved")


def repair(
    collection: CollectionOption = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="URI", help="The collection's own, where mmsearch.json is lost.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Mend a damaged collection: make again what can be, and list what must be indexed again.

    Exit status 0 when it is whole again, 20 when items had to be let go: then run 'mmsearch index'.
    """
    import mmsearch

    gc.enable()
    done = mmsearch.repair(collection, encoder=encoder)
    if as_json:
        write(to_json(done))
    else:
        for sentence in done.done:
            note(f"mmsearch: {sentence}")
        for key in done.lost:
            write(key)
        for problem in done.left:
            note(f"mmsearch: not mended: {problem}")
        if not done.done and not done.left:
            write("all is well, nothing had to be mended")
    if done.left:
        note("mmsearch: restore the collection from a backup or an export, or index again into a new one.")
        raise typer.Exit(exits.PROBLEMS_FOUND)
    if done.lost:
        note(f"mmsearch: {len(done.lost):,} items had to be let go; 'mmsearch index' brings them back.")
        raise typer.Exit(exits.PROBLEMS_FOUND)


def _bytes(info: CollectionInfo) -> int:
    return info.catalog_bytes + info.vector_bytes + info.index_bytes
