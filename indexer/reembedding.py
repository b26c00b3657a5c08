"""`reembed`: move a collection to another encoder, with all its items and in one commit.

The new rows gather in files beside the old ones, which serve readers until there is a row for every vector; whoever
kills a run loses the rows of the last seconds. Ids stay, and with them everything that items are tied to.
"""

from __future__ import annotations

import logging
import os
import threading
import time

import numpy as np

from indexer.embed import Embedder
from indexer.load import Loader
from indexer.renewal import Renewal
from indexer.report import Progress, ReembedReport
from indexer.stages import StageTimes
from mmsearch.catalog.reembedding import live_vectors
from mmsearch.collection.collection import Collection
from mmsearch.collection.incoming import Incoming, clear_incoming
from mmsearch.collection.maintenance import maintain
from mmsearch.collection.switching import make_switch, prepare_switch
from mmsearch.collection.writer import Writer
from mmsearch.config import Settings
from mmsearch.encoders import DEFAULT_ENCODER, load_encoder
from mmsearch.errors import QueryError
from mmsearch.images import MAX_PIXELS
from mmsearch.types import Encoder, Int64, Modality

_log = logging.getLogger(__name__)


def reembed(
    collection: str | os.PathLike[str] | None = None,
    *,
    encoder: Encoder | str | None = None,
    device: str | None = None,
    max_pixels: int = MAX_PIXELS,
    fast_decode: bool = False,
    allow_mass_delete: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> ReembedReport:
    """Move a collection to another encoder: embed all its pictures and captions again, then switch in one commit.

    `collection` is a name or a path (None: the default one), `encoder` a URI or an Encoder (None: the default one); the
    encoder that it is bound to is not needed. Readers go on with the old vectors until the commit, then they raise
    EncoderMismatch and must open it again. No one else can write meanwhile. After `stop`, a kill or an error the next
    call goes on, with what has come or changed since; so it does when pictures cannot be read now (see
    `ReembedReport.away`). `allow_mass_delete` leaves these out, and deletes even more than half of a source; other
    files that are gone or damaged are deleted from the collection as `index` does. Raise CollectionNotFound,
    CollectionLocked, the errors of `load_encoder`, DiskFull and OSError.
    """
    started = time.monotonic()
    stop, progress = stop or threading.Event(), progress or Progress()
    with Collection.open(Settings.from_environment().collection_path(collection)) as opened:
        named = encoder or DEFAULT_ENCODER
        engine = load_encoder(named, device=device) if isinstance(named, str) else named
        report = ReembedReport(str(opened.layout.root), opened.spec.uri, engine.spec.uri, dry_run=dry_run)
        if opened.spec.fingerprint == engine.spec.fingerprint:
            is_unfinished = any(engine.spec.fingerprint.startswith(name) for name in opened.layout.incoming_names())
            if is_unfinished and not dry_run:  # a run was killed behind its commit
                with opened.writer() as writer:
                    report.indexed = _looked_after(opened, writer, engine)
        elif dry_run:
            for modality, ids in _missing(opened, Incoming(opened.layout, engine.spec), report).items():
                report.embedded[modality] = len(ids)
        else:
            _move(
                opened,
                engine,
                report,
                max_pixels=max_pixels,
                fast_decode=fast_decode,
                leave_out=allow_mass_delete,
                progress=progress,
                stop=stop,
            )
        report.commit = opened.snapshot().commit
    report.seconds = time.monotonic() - started
    return report


def _move(
    opened: Collection,
    engine: Encoder,
    report: ReembedReport,
    *,
    max_pixels: int,
    fast_decode: bool,
    leave_out: bool,
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Embed what has no row yet and, when all has one, switch."""
    threads = Settings.from_environment().threads
    times, started = StageTimes(loaders=threads), time.monotonic()
    own, layout = engine.spec.fingerprint, opened.layout
    with (
        opened.writer() as writer,
        Loader(
            engine, _has_content, threads=threads, times=times, max_pixels=max_pixels, fast_decode=fast_decode
        ) as loader,
        Embedder(engine, times) as embedder,
    ):
        clear_incoming(layout, [name for name in layout.incoming_names() if not own.startswith(name)])
        incoming = Incoming(layout, engine.spec)
        renewal = Renewal(opened, incoming, loader, embedder, report, progress, stop, leave_out=leave_out)
        renewal.run(_missing(opened, incoming, report))
        report.stages = times.report(time.monotonic() - started)
        report.interrupted = stop.is_set()
        if report.interrupted or not renewal.may_switch():
            return
        progress.building()
        ready = prepare_switch(opened, incoming)
        renewal.let_go(writer)
        make_switch(opened, writer, ready)
        report.switched = True
        report.indexed = _looked_after(opened, writer, engine)
        clear_incoming(layout, [own])


def _has_content(_digest: bytes) -> bool:
    """Return False: no picture has a vector of the new encoder."""
    return False


def _missing(collection: Collection, incoming: Incoming, report: ReembedReport) -> dict[Modality, Int64]:
    """Return the ids (n,) of the vectors that have no new row yet, and count those that have."""
    missing = {}
    for modality in Modality:
        live, _ = live_vectors(collection.catalog, modality)
        missing[modality] = np.setdiff1d(live, incoming.ids(modality), assume_unique=True)
        report.taken_over[modality] = len(live) - len(missing[modality])
    return missing


def _looked_after(collection: Collection, writer: Writer, encoder: Encoder) -> list[Modality]:
    """Build the search indexes that are due, and return of which modalities.

    A FAISS factory string that was asked for may not fit the width of the new vectors.
    """
    try:
        return maintain(collection, writer, encoder=lambda: encoder)
    except QueryError as error:
        _log.warning("The index is chosen by itself from now on: %s", error)
        return maintain(collection, writer, kind="auto", encoder=lambda: encoder)
