"""`mmsearch index --reembed`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import typer

from mmsearch.cli import exits
from mmsearch.cli.output import note, to_json, write
from mmsearch.cli.running import INTERRUPTED, interruptible, note_failures, shown_progress, stages_line

if TYPE_CHECKING:
    from indexer import ReembedReport
    from mmsearch.types import Modality

_SHOWN_PLACES = 3


def check_alone(*, has_paths: bool, has_others: bool) -> None:
    """Raise for arguments that mean nothing beside --reembed."""
    if has_paths:
        raise typer.BadParameter("--reembed is about the whole collection: leave PATH out")
    if has_others:
        raise typer.BadParameter(
            "--reembed goes with --collection, --encoder, --device, --max-pixels, --fast-decode, --dry-run, --yes,"
            " --json and --quiet alone"
        )


def reembed(
    collection: str | None,
    *,
    encoder: str | None,
    device: str | None,
    max_pixels: int,
    fast_decode: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Move a collection to another encoder, tell what was done, and exit unless it was."""
    import mmsearch

    stop = threading.Event()
    with interruptible(stop), shown_progress(quiet=quiet) as progress:
        report = mmsearch.reembed(
            collection,
            encoder=encoder,
            device=device,
            max_pixels=max_pixels,
            fast_decode=fast_decode,
            allow_mass_delete=yes,
            dry_run=dry_run,
            progress=progress,
            stop=stop,
        )
    if as_json:
        write(to_json(report))
    else:
        _summary(report, with_stages=not quiet)
    if report.interrupted:
        raise typer.Exit(exits.INTERRUPTED)
    if not report.switched:
        _refuse(report)


def _summary(report: ReembedReport, *, with_stages: bool) -> None:
    write(_line(report))
    if with_stages and len(report.stages) > 1:
        note(stages_line(report.stages))
    for modality in report.indexed:
        write(f"built the search index of the {modality} vectors")
    note_failures(report.failed)
    if report.interrupted:
        note(INTERRUPTED)


def _line(report: ReembedReport) -> str:
    """Return what was done, or would be."""
    counts = f"{_counted(report.embedded)} {'would be ' if report.dry_run else ''}embedded"
    if any(report.taken_over.values()):
        counts += f", {_counted(report.taken_over)} were before"
    if report.before == report.encoder and not report.switched and not any(report.embedded.values()):
        return f"the collection is of {report.encoder} already: nothing to do"
    if report.dry_run:
        return f"{counts}, to move from {report.before} to {report.encoder}"
    counts += f", {report.deleted:,} items deleted" if report.deleted else ""
    total = sum(report.embedded.values())
    rate = f", {total / report.seconds:.0f} vectors/s" if total and report.seconds else ""
    done = f"moved from {report.before} to {report.encoder}" if report.switched else f"still of {report.before}"
    return f"{done}: {counts} in {report.seconds:.1f} s{rate}"


def _counted(vectors: dict[Modality, int]) -> str:
    from mmsearch.types import Modality

    return f"{vectors[Modality.IMAGE]:,} pictures and {vectors[Modality.TEXT]:,} captions"


def _refuse(report: ReembedReport) -> None:
    """Say what stands in the way, if anything does, and exit."""
    from mmsearch.errors import SourceError

    if report.held_back:
        note(
            f"mmsearch: {report.held_back:,} pictures, over half of a source, are no longer there, so the collection"
            f" stays with {report.before}. If that is right, run it again with --yes."
        )
    if report.away:
        places = list(report.away)
        more = f" and {len(places) - _SHOWN_PLACES} more" if len(places) > _SHOWN_PLACES else ""
        note(
            f"mmsearch: {sum(report.away.values()):,} pictures of {', '.join(places[:_SHOWN_PLACES])}{more} cannot be"
            f" read now, so the collection stays with {report.before}: mount the disk, or mend what is said above, and"
            " run it again, which embeds only these; --yes leaves them out."
        )
        raise typer.Exit(exits.status_of(SourceError()))
    if report.held_back:
        raise typer.Exit(exits.HELD_BACK)
