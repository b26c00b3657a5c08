"""`mmsearch explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli.options import JsonOption
from mmsearch.cli.output import note, table, tame, to_json, write

if TYPE_CHECKING:
    from mmsearch.types import Float32


def explain(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words.")],
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="The path of a picture.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Draw it there: .png, .jpg or .webp.", show_default=False),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="URI", help="The encoder. [default: compact]", show_default=False),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            "--reranker", metavar="URI", help="The reranker. [default: the one for the encoder]", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which parts of a picture answer which words: where the reranker looked."""
    from mmsearch.encoders import DEFAULT_ENCODER
    from mmsearch.engine.explaining import explain as explained
    from mmsearch.errors import QueryError
    from mmsearch.rerank import DEFAULT_RERANKER

    if out is not None and (out.is_dir() or out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp")):
        raise QueryError(f"{out} cannot be drawn to: name a file that ends in .png, .jpg or .webp.")
    found = explained(text, picture, encoder=encoder or DEFAULT_ENCODER, reranker=reranker or DEFAULT_RERANKER)
    for one in found.notes:
        note(f"mmsearch: {one}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.draw().save(out)
        note(f"mmsearch: the map is drawn in {out}.")
    if as_json:
        words = [
            {"word": word, "attention": one.tolist()} for word, one in zip(found.words, found.attention, strict=True)
        ]
        write(to_json({"similarity": found.similarity, "rerank_score": found.rerank_score, "words": words}))
        return
    write(f"cosine {found.similarity:.3f}, match {found.rerank_score:.2f}")
    rows = [
        [tame(word), _place(one), f"{100 * one.max():.0f} %"]
        for word, one in zip(found.words, found.attention, strict=True)
    ]
    for line in table(["word", "looks at", "strongest patch"], rows, right=(2,)):
        write(line)


def _place(attention: Float32) -> str:
    """Return in words where the middle of an attention (rows, columns), which adds up to one, lies."""
    import numpy as np

    down, across = (
        float(attention.sum(axis=1 - axis) @ (np.arange(size) + 0.5)) / size
        for axis, size in enumerate(attention.shape)
    )
    names = [
        ("top", "", "bottom")[int(down > 0.4) + int(down > 0.6)],
        ("left", "", "right")[int(across > 0.4) + int(across > 0.6)],
    ]
    return " ".join(name for name in names if name) or "middle"
