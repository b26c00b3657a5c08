"""`mmsearch list`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import CollectionOption, JsonOption
from mmsearch.cli.output import note, short_path, tame, to_json, write, write_paths

if TYPE_CHECKING:
    from mmsearch.catalog.rows import ListedItem
    from mmsearch.engine.engine import SearchEngine


@dataclass(frozen=True, slots=True)
class _Row:
    """One thing in a list: its path, and what makes its line for people and its object for programs."""

    path: str
    line: Callable[[], str]
    told: Callable[[], dict[str, Any]]


def list_items(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="Only what is this file, or lies in this folder or archive.", show_default=False
        ),
    ] = None,
    collection: CollectionOption = None,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="image|text", help="Pictures, or captions by where they stand.")
    ] = "image",
    failures: Annotated[bool, typer.Option("--failures", help="The files that could not be read, and why.")] = False,
    roots: Annotated[bool, typer.Option("--roots", help="The sources, how they are read, and their items.")] = False,
    gps: Annotated[bool, typer.Option("--gps", help="Also tell where pictures were taken.")] = False,
    as_json: JsonOption = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object an item, one a line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print only paths, one a line.")] = False,
    null: Annotated[bool, typer.Option("-0", help="With --paths: end each path with a NUL, for xargs -0.")] = False,
) -> None:
    """List what a collection holds, in the order of paths: pictures, captions, failures or sources.

    Where pictures were taken is told with --gps only. Exit status 0 when there is anything, 1 when not.
    """
    if sum([as_json, as_jsonl, paths]) > 1:
        raise typer.BadParameter("choose one of --json, --jsonl and --paths")
    if null and not paths:
        raise typer.BadParameter("-0 goes with --paths")
    if failures and roots:
        raise typer.BadParameter("choose one of --failures and --roots")
    if target not in ("image", "text"):
        raise typer.BadParameter("choose one of image, text", param_hint="--target")
    import mmsearch
    from mmsearch.config import plain_path

    under = None if path is None else str(plain_path(path))
    with mmsearch.open(collection) as engine:
        if roots:
            rows = _roots(engine, under)
        else:
            rows = _failures(engine, under) if failures else _items(engine, target, under, gps=gps)
        count = _write(rows, "roots" if roots else "failures" if failures else "items", as_json, as_jsonl, paths, null)
    if not count:
        if not as_json:
            note("mmsearch: nothing found.")
        raise typer.Exit(exits.NOTHING_FOUND)


def _items(engine: SearchEngine, target: str, under: str | None, *, gps: bool) -> Iterator[_Row]:
    from mmsearch.types import Modality

    for listed in engine.items(Modality(target), under=under, with_places=gps):
        yield _Row(listed.item.uri, partial(_line, listed, gps=gps), partial(_told, listed, gps=gps))


def _told(listed: ListedItem, *, gps: bool) -> dict[str, Any]:
    item = listed.item
    told = {name: getattr(item, name) for name in item.__dataclass_fields__}  # asdict would copy every value
    told |= {"bytes": listed.bytes, "mtime_ns": listed.mtime_ns}
    return told | ({"latitude": listed.latitude, "longitude": listed.longitude} if gps else {})


def _line(listed: ListedItem, *, gps: bool) -> str:
    item = listed.item
    if item.text is not None:
        return f"{short_path(item.uri)}  {item.text}"
    size = f"{item.width} × {item.height}" if item.width and item.height else "?"
    captions = f"{len(item.captions)} caption{'' if len(item.captions) == 1 else 's'}"
    place = ""
    if gps:
        known = listed.latitude is not None and listed.longitude is not None
        place = f"{listed.latitude:.6f} {listed.longitude:.6f}".rjust(23) + "  " if known else " " * 25
    return f"{size:>13}  {captions:>11}  {place}{short_path(item.uri)}"


def _failures(engine: SearchEngine, under: str | None) -> Iterator[_Row]:
    from mmsearch.catalog.listing import listed_failures

    for failure in listed_failures(engine.collection.catalog, under=under):
        reason = failure.reason.removeprefix(failure.key).strip()
        told = {"path": failure.key, "reason": reason}
        yield _Row(failure.key, partial("{}: {}".format, short_path(failure.key), reason), partial(dict, told))


def _roots(engine: SearchEngine, under: str | None) -> Iterator[_Row]:
    from mmsearch.catalog.listing import counted_roots
    from mmsearch.collection.scope import is_below

    for root, items in counted_roots(engine.collection.catalog):
        if under is None or is_below(root.path, under):
            options = f"  {root.options}" if root.options else ""
            told = {"path": root.path, "kind": root.kind, "items": items, "options": root.options}
            line = f"{items:>11,} items  {root.kind:<10}  {root.path}{options}"
            yield _Row(root.path, partial(str, line), partial(dict, told))


def _write(rows: Iterator[_Row], name: str, as_json: bool, as_jsonl: bool, paths: bool, null: bool) -> int:
    """Write rows one by one, and return how many there were."""
    count = 0
    if as_json:
        write(f'{{"{name}": [')
    for row in rows:
        if paths:
            write_paths([row.path], end="\0" if null else "\n")
        elif as_jsonl:
            write(to_json(row.told(), indent=None))
        elif as_json:
            write(("," if count else "") + to_json(row.told(), indent=None))
        else:
            write(tame(row.line()))
        count += 1
    if as_json:
        write("]}")
    return count
