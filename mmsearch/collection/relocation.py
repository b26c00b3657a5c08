"""After a disk or folder was moved: what lay at the old place lies at the new one, and nothing is embedded again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePath

from mmsearch.catalog.places import relocated
from mmsearch.catalog.rows import Root
from mmsearch.collection.collection import Collection
from mmsearch.collection.scope import FILES, holder, is_below, is_scanned_below
from mmsearch.collection.writer import Writer
from mmsearch.config import plain_path
from mmsearch.corpora.records import CorpusOptions
from mmsearch.errors import CollectionError, SourceError


@dataclass(frozen=True, slots=True)
class RelocationReport:
    """How many items and failures are at the new place now, and the paths of the sources that changed or are new.

    `notes` are sentences about patterns that mean nothing in a new source.
    """

    items: int
    failures: int
    roots: tuple[str, ...]
    notes: tuple[str, ...] = ()


def relocate(collection: Collection, old: str, new: str, *, missing_ok: bool = False) -> RelocationReport:
    """Rename all that lies at or below `old` (keys, captions, sources, folders of corpora) to `new`, at once.

    The new place must be there unless `missing_ok`. Raise SourceError when it is not or when nothing is known of the
    old one, CollectionError when the collection already holds something of the same names at the new one.
    """
    before, after = str(plain_path(old)), str(plain_path(new))
    if before == after:
        raise SourceError(f"{after} is the old place and the new one: name where it was and where it is now.")
    if not missing_ok and not Path(after).exists():
        raise SourceError(f"{after} is not there: move the files first, or say --missing-ok.")
    with collection.writer() as writer:
        roots = collection.catalog.roots()
        renamed = [_renamed(root, before, after) for root in roots]
        changed = [root for root, was in zip(renamed, roots, strict=True) if root != was]
        moved = writer.relocate(before, after)
        if not moved.items and not moved.failures and not changed:
            raise SourceError(f"Nothing at {before} is in the collection: 'mmsearch list --roots' shows its sources.")
        left = _put_roots(writer, renamed, changed)
        others, notes = _adopt_strays(writer, left, before, after)
    paths = dict.fromkeys([*(root.path for root in changed), *others])
    return RelocationReport(moved.items, moved.failures, tuple(paths), notes)


def _renamed(root: Root, old: str, new: str) -> Root:
    """Return a root as it is after the move; a corpus may also name the folder of its pictures."""
    options = root.options
    if root.kind not in FILES and options:
        told = CorpusOptions.from_text(options)
        if told.images is not None:
            options = replace(told, images=relocated(told.images, old, new)).as_text()
    return replace(root, path=relocated(root.path, old, new), options=options)


def _put_roots(writer: Writer, renamed: Sequence[Root], changed: Sequence[Root]) -> list[Root]:
    """Give the roots their new paths and return them; one that is now another, or lies in one, is absorbed by it."""
    left: list[Root] = []
    for root in sorted(renamed, key=lambda root: (len(root.path), root in changed)):
        same = next((other for other in left if other.path == root.path), None)
        into = same or (holder(root.path, left) if root.kind in FILES else None)
        if same is not None and same.kind != root.kind:
            raise CollectionError(f"{root.path} is a source of another kind already: remove it with 'mmsearch remove'.")
        was_apart = root in changed or into in changed
        if into is not None and was_apart:
            writer.absorb(root, into)
        else:
            left.append(root)
    writer.rename_roots([root for root in left if root in changed])
    return left


def _adopt_strays(writer: Writer, roots: Sequence[Root], old: str, new: str) -> tuple[list[str], tuple[str, ...]]:
    """Hand what was moved out of a folder that itself has stayed to the source at its new place, made if need be.

    Return the paths of the sources that are new or have other patterns now, and what is to be said of patterns.
    """
    touched: list[str] = []
    notes: list[str] = []
    for root in roots:
        if root.kind != "folder" or is_below(root.path, old) or not is_below(old, root.path):
            continue
        gone = PurePath(old).relative_to(root.path).parts
        if is_scanned_below(new, root.path):
            options = followed(root.options, gone, PurePath(new).relative_to(root.path).parts)
            if options != root.options:
                writer.rename_roots([replace(root, options=options)])
                touched.append(root.path)
            continue
        into = holder(new, roots)
        if into is None:
            is_file = Path(new).is_file()
            options, dropped = ("", ()) if is_file else rebased(root.options, gone)
            into = writer.root("file" if is_file else "folder", new, options)
            touched.append(new)
            notes += [f"{text!r} means nothing in the new source {new} and was left behind" for text in dropped]
        writer.hand_over(new, root, into)
    return touched, tuple(notes)


# --- patterns of a folder, as `indexer.patterns` reads them --------------------------------------------------------


def rebased(options: str, gone: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the options for a folder that was `gone`, by its parts, in its source, and the patterns that were left.

    What is wanted below the folder stays what is wanted: patterns are told from the folder on, those without a slash
    stay, and those that reach nothing in it are left.
    """
    told = json.loads(options) if options else {}
    dropped: list[str] = []
    for name in ("include", "exclude"):
        kept: list[str] = []
        wants_all = False
        for text in told.pop(name, ()):
            found = list(_residuals(text, gone))
            wants_all |= () in found
            parts = [one for one in found if one]
            if not _is_anchored(text):
                kept.append(text)
            elif parts:
                kept += [_text(text, one) for one in parts]
            elif not (name == "include" and () in found):
                dropped.append(text)
        if kept and not (name == "include" and wants_all):
            told[name] = list(dict.fromkeys(kept))
    return (json.dumps(told, sort_keys=True) if told else ""), tuple(dropped)


def followed(options: str, gone: Sequence[str], came: Sequence[str]) -> str:
    """Return the options of a source in which a folder was renamed: what was told of the folder is told of the new."""
    told = json.loads(options) if options else {}
    prefix = tuple(escape(part) for part in came)
    for name in ("include", "exclude"):
        kept: list[str] = []
        for text in told.get(name, ()):
            found = [one for one in _residuals(text, gone) if one or name == "include"]
            new = [_text(text, (*prefix, *one)) for one in found if _text(text, one) != text]
            is_replaced = new and _parts(text)[: len(gone)] == tuple(gone)
            kept += new if is_replaced else [text, *new]
        if kept:
            told[name] = list(dict.fromkeys(kept))
    return json.dumps(told, sort_keys=True) if told else ""


def _is_anchored(text: str) -> bool:
    return "/" in text.rstrip("/")


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    return parts if _is_anchored(text) else ("**", *parts)


def _text(text: str, parts: Iterable[str]) -> str:
    """Return a pattern of those parts that is for folders only where `text` is; `text` itself when it has them."""
    parts = tuple(parts)
    return text if parts == _parts(text) else "/" + "/".join(parts) + ("/" if text.endswith("/") else "")


def _residuals(text: str, folder: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield what is left of a pattern once it has matched the parts of a folder; () when it matches all in there."""
    left = {_parts(text)}
    for part in folder:
        step: set[tuple[str, ...]] = set()
        for one in left:
            step |= {()} if not one else _matched(one, part)
        left = step
    yield from sorted(left)


def _matched(parts: tuple[str, ...], name: str) -> set[tuple[str, ...]]:
    """Return what may be left of a pattern's parts behind one folder."""
    first, rest = parts[0], parts[1:]
    if first == "**":
        return {parts, *(_matched(rest, name) if rest else {()})}
    return {rest} if fnmatchcase(name, first) else set()
