"""The failures of an evaluation as one HTML page: the query, what was wanted, what was found. No script, no network."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from mmsearch.corpora.places import open_place
from mmsearch.errors import ImageError
from mmsearch.evaluation.runner import EvalReport, Failure
from mmsearch.images import decode
from mmsearch.types import Modality

_THUMBNAIL = 180
_SHOWN_RELEVANT = 5

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
body { background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .9rem .25rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
section { border-top: 1px solid #ddd; padding: 1rem 0; }
.row { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; }
figure { margin: 0; width: 184px; } figcaption { font-size: .8rem; overflow-wrap: anywhere; }
img { max-width: 180px; max-height: 180px; border: 2px solid #ccc; display: block; }
blockquote { margin: 0; border-left: 4px solid #ccc; padding-left: .6rem; }
.good img, .good blockquote { border-color: #2a7d3f; }
.part { color: #666; font-size: .85rem; margin: .6rem 0 .3rem; }
"""


def write_sheet(report: EvalReport, path: Path) -> None:
    """Write the page; pictures are thumbnails inside it, one that cannot be read is told by its name."""
    thumbnails: dict[str, str | None] = {}

    def thumbnail(place: str) -> str | None:
        if place not in thumbnails:
            thumbnails[place] = _thumbnail(place)
        return thumbnails[place]

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_page(report, thumbnail))


def _page(report: EvalReport, thumbnail: Callable[[str], str | None]) -> Iterator[str]:
    title = html.escape(f"{report.dataset}: {report.system}")
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    yield f'<meta name=viewport content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>'
    yield f"<p>{report.pictures:,} pictures, {report.captions:,} captions.</p>"
    yield "<table><tr><th>direction<th>queries<th>R@1<th>R@5<th>R@10<th>median rank</tr>"
    for one in report.directions:
        cells = "".join(f"<td>{100 * one[name]:.1f}" for name in ("R@1", "R@5", "R@10"))
        median = _rank(one["median rank"], one.depth)
        yield f"<tr><td>{html.escape(one.direction)}<td>{one.queries:,}{cells}<td>{median}</tr>"
    yield "</table>"
    direction = None
    for failure in report.worst:
        if failure.direction is not direction:
            direction = failure.direction
            yield f"<h2>{html.escape(str(direction))}: the queries that went worst</h2>"
        yield from _failure(failure, thumbnail)


def _rank(rank: float, depth: int | None) -> str:
    return f"&gt;{depth}" if math.isinf(rank) else f"{rank:,.0f}"


def _failure(failure: Failure, thumbnail: Callable[[str], str | None]) -> Iterator[str]:
    query, target = failure.direction.query, failure.direction.target
    rank = "not found" if failure.rank is None else f"the best relevant answer is number {failure.rank:,}"
    yield f"<section><div class=part>query: {rank}</div><div class=row>"
    yield _shown(query, failure.query, "", thumbnail)
    yield "</div><div class=part>wanted</div><div class=row>"
    for name in failure.relevant[:_SHOWN_RELEVANT]:
        yield _shown(target, name, "", thumbnail, good=True)
    yield "</div><div class=part>found instead</div><div class=row>"
    for found in failure.found:
        yield _shown(target, found.name, f"{found.score:.3f}", thumbnail, good=found.relevant)
    yield "</div></section>"


def _shown(
    modality: Modality, name: str, score: str, thumbnail: Callable[[str], str | None], *, good: bool = False
) -> str:
    kind = " class=good" if good else ""
    if modality is Modality.TEXT:
        return f"<figure{kind}><blockquote>{html.escape(name)}</blockquote><figcaption>{score}</figcaption></figure>"
    short = html.escape(name.rpartition("#")[2].rpartition("/")[2])
    data = thumbnail(name)
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{short}">' if data else "<em>cannot be read</em>"
    return f'<figure{kind} title="{html.escape(name)}">{image}<figcaption>{score} {short}</figcaption></figure>'


def _thumbnail(place: str) -> str | None:
    try:
        with open_place(place) as file:
            image = decode(file, place, min_side=_THUMBNAIL)[0]
    except (OSError, ImageError):
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=80)
    return base64.b64encode(written.getvalue()).decode()
