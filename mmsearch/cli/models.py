"""`mmsearch models`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import JsonOption
from mmsearch.cli.output import note, table, to_json, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmsearch.encoders.models import ModelInfo
    from mmsearch.rerank.listing import RerankerInfo


def models(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD",
            help="Only those with all these words in their URI (of a reranker also in that of its encoder).",
            show_default=False,
        ),
    ] = None,
    on_disk: Annotated[bool, typer.Option("--on-disk", help="Only those whose weights are on this disk.")] = False,
    multilingual: Annotated[bool, typer.Option("--multilingual", help="Only those that read many languages.")] = False,
    rerankers: Annotated[
        bool, typer.Option("--rerankers", help="List rerankers instead, for 'mmsearch query --reranker URI'.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the encoders to choose from, with dimension, size, languages and what is on this disk.

    Use one with 'mmsearch index FOLDER --encoder URI'. Exit status 1 when none fits.
    """
    wanted = [word.lower() for word in words or []]
    if rerankers:
        if on_disk or multilingual:
            raise typer.BadParameter("--on-disk and --multilingual are about encoders: leave them out.")
        _list_rerankers(wanted, as_json=as_json)
        return
    from mmsearch.encoders.models import list_models

    found = [
        model
        for model in list_models()
        if all(word in model.uri.lower() for word in wanted)
        and (model.on_disk or not on_disk)
        and (model.languages == "many" or not multilingual)
    ]
    if as_json:
        write(to_json(found))
    else:
        head = ["uri", "dim", "pixels", "MB", "languages", "on disk"]
        for line in table(head, [_row(model) for model in found], right=(1, 2, 3)):
            write(line)
    if find_spec("open_clip") is None:
        note('mmsearch: OpenCLIP is not installed: pip install "mmsearch[cpu,clip]" adds its models to this list.')
    if not found:
        note("mmsearch: no encoder is like that: leave a word or an option out.")
        raise typer.Exit(exits.NOTHING_FOUND)


def _list_rerankers(wanted: list[str], *, as_json: bool) -> None:
    """Write those with all these words in their URI or that of their encoder; exit with 1 when there is none."""
    from mmsearch.rerank.listing import list_rerankers

    found = [one for one in list_rerankers() if all(word in f"{one.uri} {one.encoder}".lower() for word in wanted)]
    if as_json:
        write(to_json(found))
    else:
        head = ["uri", "encoder", "MB", "by itself"]
        for line in table(head, _reranker_rows(found), right=(2,)):
            write(line)
    if not found:
        note("mmsearch: no reranker is like that: 'mmsearch train CAPTIONS --reranker --name NAME' makes one.")
        raise typer.Exit(exits.NOTHING_FOUND)


def _reranker_rows(found: Sequence[RerankerInfo]) -> list[list[str]]:
    return [[one.uri, one.encoder, f"{one.megabytes:.1f}", "yes" if one.by_itself else "no"] for one in found]


def _row(model: ModelInfo) -> list[str]:
    size = "?" if model.megabytes is None else f"{model.megabytes:,.0f}"
    return [model.uri, str(model.dim), str(model.image_size), size, model.languages, "yes" if model.on_disk else "no"]
