"""What people and programs see of an answer: table, json, jsonl, paths."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mmsearch.types import Hit, SearchResult


def write(text: str = "") -> None:
    """Write one line to stdout, whatever its encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    except BrokenPipeError:
        leave_closed_pipe()


def write_paths(paths: Iterable[str], *, end: str) -> None:
    """Write paths as the bytes that they are, each with `end` behind it."""
    try:
        sys.stdout.flush()
        for path in paths:
            sys.stdout.buffer.write((path + end).encode())
        sys.stdout.flush()
    except BrokenPipeError:
        leave_closed_pipe()


def leave_closed_pipe() -> NoReturn:
    """Exit in silence: whoever read our output (a pager, head) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
    raise SystemExit(0)


def note(text: str) -> None:
    """Write one line to stderr."""
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return a value made of dataclasses, dicts and sequences as JSON."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, indent=indent, ensure_ascii=not is_utf8, default=_plain)


def hit_as_dict(hit: Hit) -> dict[str, Any]:
    """Return a hit as one flat object."""
    item = asdict(hit.item)
    head = {"rank": hit.rank, "score": hit.score, "similarity": hit.similarity, "rerank_score": hit.rerank_score}
    return {**head, **item}


def result_as_dict(result: SearchResult) -> dict[str, Any]:
    """Return an answer as an object."""
    return {
        "query": result.query,
        "target": result.target,
        "commit": result.commit,
        "timings": result.timings,
        "notes": list(result.notes),
        "hits": [hit_as_dict(hit) for hit in result.hits],
    }


def hit_table(hits: Sequence[Hit], *, target: str, reranked: bool = False) -> list[str]:
    """Return the lines of a table of rank, score, path and caption; captions are cut to the width of a terminal.

    For the target "any", whose score is a fused rank, the cosine and the kind of the item stand beside it; for what was
    reranked the cosine and the matching score, "-" where there is none.
    """
    rows = []
    for hit in hits:
        row = [str(hit.rank), f"{hit.score:.5f}" if target == "any" else f"{hit.score:.3f}"]
        row += [f"{hit.similarity:.3f}", str(hit.item.modality)] if target == "any" else []
        if reranked:
            row += [f"{hit.similarity:.3f}", "-" if hit.rerank_score is None else f"{hit.rerank_score:.2f}"]
        rows.append([*row, tame(short_path(hit.item.uri)), tame(_caption(hit))])
    middle = ["cosine", "kind"] if target == "any" else ["cosine", "match"] if reranked else []
    right = range(4 if reranked else 3 if middle else 2)
    return table(["rank", "score", *middle, "path", "caption"], rows, right=right)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return the lines of a table; the last column is cut where a terminal ends."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    aligned = set(right)
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if column in aligned else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        lines.append(line if limit is None or len(line) <= limit else line[: max(limit - 1, 1)] + "…")
    return lines


def short_path(uri: str) -> str:
    """Return a path relative to the working folder when it lies below it."""
    try:
        return str(Path(uri).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return uri


def human_bytes(size: int) -> str:
    """Return a size in words: 1.2 MB."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _caption(hit: Hit) -> str:
    if hit.item.text is not None:
        return hit.item.text
    return hit.item.captions[0] if hit.item.captions else ""


def tame(text: str) -> str:
    """Return a text without what could move the cursor of a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
