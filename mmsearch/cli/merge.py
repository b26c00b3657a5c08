"""`mmsearch merge`."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import Annotated

import typer

from mmsearch.cli.options import JsonOption
from mmsearch.cli.output import note, to_json, write

_TOLD_EVERY = 100_000


def merge(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The collection to add to; it is made if need be.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Collections of the same encoder: names or paths.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Add what other collections hold to one, without embedding anything again.

    Several machines can so index one corpus, each a part of it. It may be interrupted and run again.
    """
    from mmsearch.collection.collection import Collection
    from mmsearch.collection.layout import Layout
    from mmsearch.collection.maintenance import maintain
    from mmsearch.collection.merging import merge as merge_collections
    from mmsearch.config import Settings

    gc.enable()
    settings = Settings.from_environment()
    told = _TOLD_EVERY

    def progress(done: int) -> None:
        nonlocal told
        if done >= told:
            note(f"mmsearch: {done:,} items merged")
            told += _TOLD_EVERY

    with ExitStack() as stack:
        opened = [stack.enter_context(Collection.open(settings.collection_path(source))) for source in sources]
        path = settings.collection_path(target)
        there = Layout(path).manifest.is_file()
        into = stack.enter_context(Collection.open(path) if there else Collection.create(path, opened[0].spec))
        report = merge_collections(into, opened, progress=progress)
        with into.writer() as writer:
            built = maintain(into, writer)
    if as_json:
        write(to_json(report))
        return
    counts = ((report.added, "added"), (report.changed, "changed"), (report.kept, "kept as they were"))
    write(", ".join(f"{count:,} {word}" for count, word in counts if count) or "there was nothing to merge")
    for modality in built:
        write(f"built the search index of the {modality} vectors")
