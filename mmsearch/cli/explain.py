"""`mmsearch explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmsearch.cli.options import JsonOption
from mmsearch.cli.output import note, table, tame, to_json, write


def explain(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words.")],
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="The path of a picture.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Draw it there: .png, .jpg or .webp.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which parts of a picture answer which words: where the reranker looked."""
    from PIL import Image

    from mmsearch.engine.explaining import explain as explained
    from mmsearch.errors import QueryError

    if out is not None and (out.is_dir() or out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp")):
        raise QueryError(f"{out} cannot be drawn to: name a file that ends in .png, .jpg or .webp.")
    found = explained(text, picture)
    if out is not None:
        drawn: Image.Image = found.draw()
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(out)
        note(f"mmsearch: the map is drawn in {out}.")
    places = [_place(one) for one in found.attention]
    if as_json:
        words = [
            {"word": word, "attention": one.tolist()} for word, one in zip(found.words, found.attention, strict=True)
        ]
        write(to_json({"similarity": found.similarity, "rerank_score": found.rerank_score, "words": words}))
        return
    write(f"cosine {found.similarity:.3f}, match {found.rerank_score:.2f}")
    rows = [
        [tame(word), place, f"{100 * one.max():.0f} %"]
        for word, place, one in zip(found.words, places, found.attention, strict=True)
    ]
    for line in table(["word", "looks at", "strongest patch"], rows, right=(2,)):
        write(line)


def _place(attention: object) -> str:
    """Return in words where the middle of an attention (rows, columns) lies."""
    import numpy as np

    shares = np.asarray(attention, dtype=np.float64)
    rows, columns = (np.arange(size) + 0.5 for size in shares.shape)
    across = float(shares.sum(axis=0) @ columns / shares.shape[1] / shares.sum())
    down = float(shares.sum(axis=1) @ rows / shares.shape[0] / shares.sum())
    names = [
        ("top", "", "bottom")[int(down > 0.4) + int(down > 0.6)],
        ("left", "", "right")[int(across > 0.4) + int(across > 0.6)],
    ]
    return " ".join(name for name in names if name) or "middle"
