"""`mmsearch remove`, `relocate`, `export` and `import`: what a collection needs in years of use."""

from __future__ import annotations

import gc
import glob
import shlex
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import CollectionOption, JsonOption
from mmsearch.cli.output import human_bytes, note, to_json, write

if TYPE_CHECKING:
    from mmsearch.collection.removal import ComesBack

_TOLD_SECONDS = 5.0


def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Pictures, folders, archives, or sources.")],
    collection: CollectionOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Forget even more than half of the collection.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget pictures, folders or whole sources, with their captions. Files on the disk are never touched.

    More than half of the collection, and over 20 items, wait for --yes (exit status 21).
    """
    import mmsearch

    gc.enable()
    with mmsearch.open(collection) as engine:
        report = engine.remove(paths, allow_mass_delete=yes)
    if as_json:
        write(to_json(report))
    if report.held_back:
        note(
            f"mmsearch: {report.held_back:,} items, over half of the collection, would be forgotten; nothing was."
            " If that is right, run it again with --yes."
        )
        raise typer.Exit(exits.HELD_BACK)
    if not as_json:
        counts = ((report.items, "item"), (report.failures, "failure"), (len(report.roots), "source"))
        parts = [f"{count:,} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
        write(f"forgot {', '.join(parts)}; no file was touched")
    for one in report.comes_back:
        note(f"mmsearch: {_comes_back(one)}")


def _comes_back(one: ComesBack) -> str:
    from pathlib import PurePath

    from indexer.patterns import FolderOptions

    if one.root.kind != "folder":
        return f"the next 'mmsearch index' adds {one.place} again, for the source {one.root.path} still names it."
    rules = FolderOptions.from_text(one.root.options)
    pattern = "/" + glob.escape(PurePath(one.place).relative_to(one.root.path).as_posix())
    command = ["mmsearch", "index", one.root.path, *rules.as_arguments(), "--exclude", pattern]
    return (
        f"the next 'mmsearch index' adds {one.place} again, for it lies in the source {one.root.path}: leave it out for"
        f" good with '{shlex.join(command)}'."
    )


def relocate(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The folder, archive or file as it was called.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where it is now.")],
    collection: CollectionOption = None,
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="NEW need not be there yet.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell a collection that a disk or folder was moved or renamed; nothing is embedded again."""
    import mmsearch

    gc.enable()
    with mmsearch.open(collection) as engine:
        report = engine.relocate(old, new, missing_ok=missing_ok)
    if as_json:
        write(to_json(report))
        return
    counts = ((report.items, "item"), (report.failures, "failure"), (len(report.roots), "source"))
    parts = [f"{count:,} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    write(f"relocated {', '.join(parts)}")
    for one in report.notes:
        note(f"mmsearch: {one}")


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write: a plain tar archive.")],
    collection: CollectionOption = None,
    gps: Annotated[bool, typer.Option("--gps", help="Also hand on where pictures were taken.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace FILE when it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a collection to one file, as of now, while it may be written to: for backups and other machines.

    It holds vectors, captions and paths, no pictures; where these were taken only with --gps.
    """
    from mmsearch.collection.collection import Collection
    from mmsearch.collection.portable import export_collection
    from mmsearch.config import Settings, plain_path

    gc.enable()
    with Collection.open(Settings.from_environment().collection_path(collection)) as opened:
        report = export_collection(opened, plain_path(file), with_places=gps, replace=force, progress=_Told("written"))
    if as_json:
        write(to_json(report))
    else:
        write(f"exported {report.items:,} items to {report.file} ({human_bytes(report.bytes)})")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What 'mmsearch export' wrote.")],
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new collection of what 'mmsearch export' wrote, after every byte of it was checked.

    Its pictures may lie elsewhere here: 'mmsearch relocate OLD NEW' tells it where.
    """
    from mmsearch.collection.portable import import_collection
    from mmsearch.config import Settings, plain_path

    gc.enable()
    target = Settings.from_environment().collection_path(collection)
    report = import_collection(plain_path(file), target, progress=_Told("read"))
    if as_json:
        write(to_json(report))
        return
    write(f"imported {report.items:,} items into {report.collection}, bound to the encoder {report.encoder}")
    for root in report.missing_roots:
        note(f"mmsearch: the source {root} is not here; if it has another name here: mmsearch relocate {root} NEW")


class _Told:
    """Tells on stderr, now and then, how much is done."""

    def __init__(self, done_word: str) -> None:
        self._word = done_word
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= _TOLD_SECONDS:
            self._last = time.monotonic()
            note(f"mmsearch: {human_bytes(done)} of {human_bytes(total)} {self._word}")
