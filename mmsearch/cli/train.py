"""`mmsearch train`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import exits
from mmsearch.cli.evaluate import show_progress, tell_unread
from mmsearch.cli.options import (
    CaptionColumnOption,
    DeviceOption,
    ImageColumnOption,
    ImagesOption,
    JsonOption,
    SplitOption,
    corpus_options,
)
from mmsearch.cli.output import note, short_path, table, to_json, write

if TYPE_CHECKING:
    from mmsearch.training import Report


def train(
    corpora: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS…",
            help="Captions with their pictures: .tar, .json (Karpathy, COCO, Visual Genome), .jsonl, .csv, .tsv.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="The new encoder will be tuned:NAME, a reranker cross_attention:NAME.",
            show_default=False,
        ),
    ],
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Make a reranker for the encoder, and leave the encoder as it is.")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="URI", help="The encoder to start from. [default: compact]", show_default=False
        ),
    ] = None,
    dev: Annotated[
        str | None,
        typer.Option(
            "--dev",
            metavar="CORPUS",
            help="Hold this corpus out. [default: a tenth of the pictures, at least 50]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            min=1,
            help="Epochs at most. [default: 10 to 100, by size; a reranker: 6 to 40]",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            min=2,
            help="Pictures a step. [default: 256; a reranker, in eights: 32 or 96, by size]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of all that is drawn at random.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace one of that name, should it be there.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write it even when it is not better.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tune an encoder on your own captions: a new encoder tuned:NAME, when it is better on what was held out.

    With --reranker: make a reranker for it, which looks at the first hits of a search again. The encoder stays as it
    is. Exit status 1 when it did not help, and nothing was written. Vectors are kept, and what was read for a reranker
    until one is written: run it again after an interruption, or with other settings.
    """
    from mmsearch.training import MatchRecipe, Recipe, train_reranker, tune

    gc.enable()
    options = corpus_options(images=images, split=split, image_column=image_column, caption_column=caption_column)
    run: Callable[..., Report]
    with ExitStack() as stack:
        if reranker:
            embedding, reading, learning, judging = show_progress(
                stack,
                embedding="embedded",
                reading="read for their tokens",
                learning="steps learned",
                judging="queries judged",
            )
            matching = MatchRecipe(seed=seed, epochs=epochs or 0)
            matching = replace(matching, groups=max(1, batch // matching.group) if batch else 0)
            run = partial(train_reranker, recipe=matching, reading=reading, judging=judging)
        else:
            embedding, learning = show_progress(stack, embedding="embedded", learning="epochs")
            tuning = Recipe(seed=seed, epochs=epochs)
            run = partial(tune, recipe=replace(tuning, batch=batch or tuning.batch))
        report: Report = run(
            corpora,
            name,
            encoder=encoder,
            dev=dev,
            device=device,
            options=options,
            force=force,
            keep=keep,
            progress=embedding,
            learning=learning,
        )
    if as_json:
        write(to_json(asdict(report)))
    else:
        _tell(report)
    if not report.helped:
        note(f"mmsearch: {report.summary}")
        if report.folder is None:
            raise typer.Exit(exits.NOTHING_FOUND)


def _tell(report: Report) -> None:
    counts = report.counts
    write(
        f"{report.base}, learned from {counts.pictures:,} pictures and {counts.captions:,} captions, best of"
        f" {report.epochs} epochs was {report.epoch}; held out {counts.held_out_pictures:,} and"
        f" {counts.held_out_captions:,}; {report.seconds:.0f} s"
    )
    tell_unread(report.unread)
    for line in table(["", "", "before", "after", "change (95 %)"], report.rows(), right=(2, 3, 4)):
        write(line)
    if report.helped:
        write(report.summary)
    if report.folder is not None:
        write(f"{report.uri} is in {short_path(report.folder)}; use it: {report.use}")
