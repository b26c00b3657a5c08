"""`mmsearch index`."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mmsearch.cli import exits
from mmsearch.cli.options import (
    CaptionColumnOption,
    CaptionsOnlyOption,
    CollectionOption,
    DeviceOption,
    ImageColumnOption,
    ImagesOption,
    IndexOption,
    JsonOption,
    MaxPixelsOption,
    RecallOption,
    SplitOption,
    corpus_options,
)
from mmsearch.cli.output import note, to_json, write
from mmsearch.cli.reembed import check_alone
from mmsearch.cli.reembed import reembed as move_to_another_encoder
from mmsearch.cli.running import INTERRUPTED, interruptible, note_failures, shown_progress, stages_line

if TYPE_CHECKING:
    from indexer import IndexReport
    from indexer.patterns import FolderOptions


def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Folders of pictures, corpora of captions (.jsonl, .csv, .tsv, .json, .tar), single pictures; none:"
            " all that were indexed before.",
            show_default=False,
        ),
    ] = None,
    collection: CollectionOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="URI",
            help="The encoder of a new collection, or with --reembed the one to move to. [default: compact]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    kind: IndexOption = None,
    recall: RecallOption = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    captions_only: CaptionsOnlyOption = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            help="Take only what matches, of a folder: '*.jpg', 'raw/**'; may be repeated, kept for later runs.",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Leave out what matches, of a folder: 'thumbs/', '/raw/*.png'; may be repeated, kept for later runs.",
            show_default=False,
        ),
    ] = None,
    min_size: Annotated[
        int | None,
        typer.Option(
            "--min-size",
            metavar="PIXELS",
            min=0,
            help="Leave out pictures of a folder whose shorter side is less; kept for later runs. 0: none.",
            show_default=False,
        ),
    ] = None,
    max_pixels: MaxPixelsOption = None,
    fast_decode: Annotated[
        bool,
        typer.Option(
            "--fast-decode",
            help="OpenCLIP: decode large JPEGs at a reduced scale, twice as fast at 12 megapixels (docs/encoders.md).",
        ),
    ] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Compare files by their content, not by size and time.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Delete even more than half of a source; with --reembed also what cannot be read now."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            help="Tell what would be done, by names and times (a move counts as add and delete).",
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, and index what changes, until Ctrl-C (needs the extra [watch]).")
    ] = False,
    reembed: Annotated[
        bool,
        typer.Option(
            "--reembed",
            help="Move the whole collection to another encoder: embed all of it again, then switch (docs/keeping.md).",
        ),
    ] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Bring a collection up to date with folders of pictures and captioned corpora.

    Only what is new or has changed is embedded. It may be interrupted at any time and run again.
    """
    if watch and (dry_run or as_json):
        raise typer.BadParameter("--watch goes neither with --dry-run nor with --json")
    if reembed:
        told = images, split, image_column, caption_column, include, exclude, min_size, kind, recall
        has_others = captions_only or rehash or watch or any(one not in (None, []) for one in told)
        check_alone(has_paths=bool(paths), has_others=has_others)
    import mmsearch
    from indexer.watch import loaded_encoder
    from mmsearch.errors import SourceError
    from mmsearch.images import MAX_PIXELS, lift_pillow_limit
    from mmsearch.vectors.spec import parse_kind

    gc.enable()
    lift_pillow_limit()
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if reembed:
        move_to_another_encoder(
            collection,
            encoder=encoder,
            device=device,
            max_pixels=limit,
            fast_decode=fast_decode,
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
            quiet=quiet,
        )
        return
    stop = threading.Event()
    bring = partial(
        mmsearch.index,
        collection=collection,
        device=device,
        max_pixels=limit,
        fast_decode=fast_decode,
        stop=stop,
    )
    first = partial(
        bring,
        paths or [],
        corpus=corpus_options(
            images=images,
            split=split,
            image_column=image_column,
            caption_column=caption_column,
            captions_only=captions_only,
        ),
        folder=_folder_options(include, exclude, min_size),
        index_kind=None if kind is None else parse_kind(kind),
        recall=recall,
        rehash=rehash,
        allow_mass_delete=yes,
        dry_run=dry_run,
    )
    if watch:
        engine = loaded_encoder(collection, encoder, device=device)
        _watch(
            partial(first, encoder=engine), partial(bring, encoder=engine), paths or [], collection, stop, quiet=quiet
        )
        return
    with interruptible(stop), shown_progress(quiet=quiet) as progress:
        report = first(encoder=encoder, progress=progress)
    if as_json:
        write(to_json(report))
    else:
        _summary(report, with_stages=not quiet)
    if report.interrupted:
        raise typer.Exit(exits.INTERRUPTED)
    if report.held_back:
        raise typer.Exit(exits.HELD_BACK)
    if report.missing_sources:
        note(
            "mmsearch: a source is not there: mount its disk, or tell where it is now with 'mmsearch relocate OLD NEW';"
            " nothing of it was forgotten."
        )
        raise typer.Exit(exits.status_of(SourceError()))
    _check_read(report)


def _check_read(report: IndexReport) -> None:
    """Say so when something could not be read; exit when that was a source, or all, or when there was nothing."""
    if report.unreadable_sources:
        note(
            f"mmsearch: {report.unreadable_sources[0]} cannot be read: look at its permissions; nothing of it was"
            " forgotten."
        )
        raise typer.Exit(exits.SOURCE_UNREADABLE)
    unread = len(report.failed) + report.skipped
    if report.kept + report.added + report.changed + report.moved + report.left_out:
        if report.failed:
            note(
                "mmsearch: what could not be read is left out, all else is done: 'mmsearch list --failures' tells why."
            )
        return
    if unread:
        note(
            f"mmsearch: nothing there could be read ({unread:,} file{'' if unread == 1 else 's'}):"
            " 'mmsearch list --failures' tells why."
        )
        raise typer.Exit(exits.NOTHING_READ)
    if not report.deleted:
        note("mmsearch: no pictures or captions were found there: name a folder of pictures, or a corpus of captions.")
        raise typer.Exit(exits.NOTHING_FOUND)


def _folder_options(include: list[str] | None, exclude: list[str] | None, min_size: int | None) -> FolderOptions | None:
    """Return what of folders is wanted, None where nothing was said."""
    from indexer.patterns import FolderOptions

    said = include or exclude or min_size is not None
    return FolderOptions(tuple(include or ()), tuple(exclude or ()), min_size or 0) if said else None


def _watch(
    first: Callable[..., IndexReport],
    bring: Callable[..., IndexReport],
    paths: list[str],
    collection: str | None,
    stop: threading.Event,
    *,
    quiet: bool,
) -> None:
    """Index everything, then what changes, until `stop` is set, and tell what was done."""
    from indexer.watch import watch

    reports: list[IndexReport] = []

    def run(places: Sequence[str]) -> IndexReport:
        is_first = not reports
        with shown_progress(quiet=quiet or not is_first) as progress:
            report = first(progress=progress) if is_first else bring(list(places))
        if (
            is_first
            or report.added + report.changed + report.moved + report.deleted + report.held_back
            or report.failed
        ):
            _summary(report, with_stages=is_first and not quiet)
            sys.stdout.flush()
        reports[:] = [report]
        return report

    with interruptible(stop):
        watch(run, paths, collection=collection, stop=stop, ready=lambda: note("mmsearch: watching; Ctrl-C ends it."))
    if any(report.interrupted for report in reports):
        raise typer.Exit(exits.INTERRUPTED)


def _summary(report: IndexReport, *, with_stages: bool) -> None:
    from mmsearch.vectors.backend import HOW_TO_GET_FAISS, find_faiss

    embedded = sum(report.embedded.values())
    rate = f", {embedded / report.seconds:.0f} vectors/s" if embedded and report.seconds else ""
    would = "would be " if report.dry_run else ""
    counts = [
        (report.added, f"{would}added"),
        (report.changed, f"{would}changed"),
        (report.moved, "moved"),
        (report.deleted, f"{would}deleted"),
        (report.kept, "unchanged"),
        (report.skipped, "skipped (unreadable before, unchanged since)"),
        (report.left_out, "too small"),
        (len(report.failed), "could not be read"),
    ]
    parts = [f"{count:,} {word}" for count, word in counts if count]
    parts = parts or ["stopped before anything was done" if report.interrupted else "nothing to do"]
    write(f"{', '.join(parts)} in {report.seconds:.1f} s{rate}")
    if with_stages and len(report.stages) > 1:
        note(stages_line(report.stages))
    for modality in report.indexed:
        write(f"built the search index of the {modality} vectors")
    if find_faiss() is None:
        note(f"mmsearch: FAISS is missing, so search is exact and there is no IVF-PQ: {HOW_TO_GET_FAISS}")
    note_failures(report.failed)
    if sum("No such file" in failure.reason for failure in report.failed) > len(report.failed) / 2 > 1:
        note("mmsearch: if these are the pictures of a corpus, name their folder with --images.")
    if report.held_back:
        note(
            f"mmsearch: {report.held_back:,} items, over half of a source, are no longer there; they were kept."
            " If that is right, run it again with --yes."
        )
    if report.interrupted:
        note(INTERRUPTED)
