"""`mmsearch query`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import (
    CandidatesOption,
    CollectionOption,
    DeviceOption,
    JsonOption,
    MaxPixelsOption,
    RerankerOption,
)
from mmsearch.cli.output import hit_as_dict, hit_table, note, result_as_dict, to_json, write, write_paths

if TYPE_CHECKING:
    from pathlib import Path

    from mmsearch.engine.engine import SearchEngine
    from mmsearch.engine.query import ImageQuery, TextQuery
    from mmsearch.types import Encoder, EncoderSpec

_NONE = {
    "image": "pictures at all; --target text searches its captions.",
    "text": "captions at all: put .txt files beside the pictures, or index a corpus of captions.",
    "any": "items at all.",
}


def query(
    query_words: Annotated[
        list[str],
        typer.Argument(metavar="QUERY", help="Words, or the path of a picture; '-' reads words from stdin."),
    ],
    as_text: Annotated[bool, typer.Option("--text", help="QUERY is words, whatever it looks like.")] = False,
    as_image: Annotated[bool, typer.Option("--image", help="QUERY is the path of a picture.")] = False,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="image|text|any", help="What to look for; 'any' merges by rank.")
    ] = "image",
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many hits.")] = 10,
    min_similarity: Annotated[
        float | None,
        typer.Option(
            "--min-similarity",
            metavar="X",
            min=-1.0,
            max=1.0,
            help="Leave out hits below this cosine (before a second look).",
            show_default=False,
        ),
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Look at the first candidates again, words and picture together.")
    ] = False,
    reranker: RerankerOption = None,
    candidates: CandidatesOption = None,
    collection: CollectionOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="URI",
            help="Where the collection's encoder is now, when its weights have moved.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    max_pixels: MaxPixelsOption = None,
    as_json: JsonOption = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object a hit, one a line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print only paths, one a line.")] = False,
    null: Annotated[bool, typer.Option("-0", help="With --paths: end each path with a NUL, for xargs -0.")] = False,
) -> None:
    """Search by words or by a picture.

    Exit status 0 with hits, 1 without, 2 for wrong usage, others by the kind of the error.
    """
    _check_forms(as_text=as_text, as_image=as_image, forms=[as_json, as_jsonl, paths], null=null, wants_paths=paths)
    rerank = rerank or reranker is not None
    if candidates is not None and not rerank:
        raise typer.BadParameter("--candidates goes with --rerank")
    from dataclasses import replace
    from pathlib import Path

    from mmsearch.engine.query import (
        CANDIDATES,
        ImageQuery,
        TextQuery,
        check_target,
        looks_like_path,
        parse_query,
    )
    from mmsearch.images import lift_pillow_limit

    check_target(target)
    lift_pillow_limit()
    words = " ".join(query_words)
    given = sys.stdin.read() if words == "-" and not as_image else words
    chosen = (
        ImageQuery(Path(given)) if as_image else TextQuery(given) if as_text or words == "-" else parse_query(given)
    )
    if isinstance(chosen, ImageQuery) and max_pixels is not None:
        chosen = replace(chosen, max_pixels=max_pixels)
    with _open(collection, chosen, encoder, device, reranker) as engine:
        result = engine.run(
            chosen,
            target=target,
            k=k,
            min_similarity=min_similarity,
            rerank=rerank,
            candidates=candidates or CANDIDATES,
        )
        if not result.hits and not engine.holds(target):
            note(f"mmsearch: the collection holds no {_NONE[target]}")
    if isinstance(chosen, TextQuery) and not as_text and looks_like_path(given):
        note(f"mmsearch: {given!r} is no picture here, so its words were searched (--text says so, --image refuses).")
    for text in result.notes:
        note(f"mmsearch: {text}")
    if as_json:
        write(to_json(result_as_dict(result)))
    elif as_jsonl:
        for hit in result.hits:
            write(to_json(hit_as_dict(hit), indent=None))
    elif paths:
        found = dict.fromkeys(hit.item.uri for hit in result.hits if Path(hit.item.uri).is_absolute())
        write_paths(found, end="\0" if null else "\n")
    else:
        for line in hit_table(result.hits, target=target, reranked=rerank):
            write(line)
    if not result.hits:
        if not as_json:
            note("mmsearch: nothing found.")
        raise typer.Exit(exits.NOTHING_FOUND)


def _open(
    collection: str | None,
    query: ImageQuery | TextQuery,
    encoder: str | None,
    device: str | None,
    reranker: str | None,
) -> SearchEngine:
    """Return the engine, its encoder loaded in a thread while the database library is imported."""
    from concurrent.futures import ThreadPoolExecutor

    from mmsearch.collection.layout import Layout
    from mmsearch.collection.manifest import read_manifest
    from mmsearch.config import Settings

    layout = Layout(Settings.from_environment().collection_path(collection))
    _, spec = read_manifest(layout)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_loaded_encoder, layout.root, spec, encoder, device, query)
        from mmsearch.collection.collection import Collection
        from mmsearch.engine.engine import SearchEngine
        from mmsearch.rerank import DEFAULT_RERANKER

        opened = Collection.open(layout.root)
        if opened.spec != spec:  # a move to another encoder was killed before the manifest told of it
            loading = pool.submit(_loaded_encoder, layout.root, opened.spec, encoder, device, query)
        return SearchEngine(opened, loading.result(), device=device, reranker=reranker or DEFAULT_RERANKER)


def _loaded_encoder(
    root: Path, spec: EncoderSpec, uri: str | None, device: str | None, query: ImageQuery | TextQuery
) -> Encoder:
    """Return the encoder that was named, else that of a collection; its tower for such a query is in memory."""
    from mmsearch.collection.encoder import own_encoder
    from mmsearch.encoders import load_encoder
    from mmsearch.engine.query import TextQuery

    encoder = load_encoder(uri, device=device) if uri else own_encoder(root, spec, device=device)
    if isinstance(query, TextQuery):
        encoder.encode_texts([query.text])
    else:
        import numpy as np

        size = encoder.spec.image_size
        encoder.encode_images(np.zeros((1, 3, size, size), dtype=np.uint8))
    return encoder


def _check_forms(*, as_text: bool, as_image: bool, forms: list[bool], null: bool, wants_paths: bool) -> None:
    if as_text and as_image:
        raise typer.BadParameter("a query is either --text or --image")
    if sum(forms) > 1:
        raise typer.BadParameter("choose one of --json, --jsonl and --paths")
    if null and not wants_paths:
        raise typer.BadParameter("-0 goes with --paths")
