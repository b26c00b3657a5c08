"""`index`: open or make the collection, run every source through the pipeline, look after the indexes."""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from indexer.embed import Embedder
from indexer.load import Loader
from indexer.patterns import FolderOptions
from indexer.pipeline import Pipeline
from indexer.plan import Action, Planner, covering_root
from indexer.report import Failed, IndexReport, Progress
from indexer.sources import CorpusSource, FolderSource, known_source, make_source
from indexer.stages import StageTimes
from mmsearch.collection.collection import Collection
from mmsearch.collection.encoder import own_encoder, reembed_command
from mmsearch.collection.layout import Layout
from mmsearch.collection.maintenance import maintain
from mmsearch.config import Settings
from mmsearch.corpora.records import CorpusOptions
from mmsearch.encoders import DEFAULT_ENCODER, difference, load_encoder
from mmsearch.errors import CollectionNotFound, EncoderMismatch, SourceError
from mmsearch.images import MAX_PIXELS
from mmsearch.types import Encoder, Modality, ScanFailure, Source
from mmsearch.vectors.spec import IndexKind

PathLike = str | os.PathLike[str]


def index(
    sources: Sequence[PathLike | Source] | PathLike = (),
    *,
    collection: PathLike | None = None,
    encoder: Encoder | str | None = None,
    device: str | None = None,
    corpus: CorpusOptions | None = None,
    folder: FolderOptions | None = None,
    index_kind: IndexKind | None = None,
    recall: float | None = None,
    max_pixels: int = MAX_PIXELS,
    fast_decode: bool = False,
    rehash: bool = False,
    allow_mass_delete: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> IndexReport:
    """Bring a collection up to date with folders, captioned corpora and pictures, making it if need be.

    Without sources, all those indexed before are looked at again. `collection` is a name or a path (None: the default
    one); `corpus` tells how corpora are read, `folder` what of folders is (None: as before). `encoder` is a URI or an
    Encoder and must be the collection's own; `device` is where a URI's encoder runs. `index_kind` and `recall` (of the
    true ten) tell what its search index shall be like from now on. `fast_decode` decodes large JPEGs at a reduced scale
    for an OpenCLIP encoder too (see docs/encoders.md); `rehash` compares every file by its content; `allow_mass_delete`
    confirms the deletion of more than half of a source; `dry_run` only counts. `stop` ends the run at the next batch.
    Everything up to the last commit survives whatever happens. Raise SourceError, EncoderMismatch, CollectionLocked
    and the other errors of `mmsearch.errors`.
    """
    started = time.monotonic()
    settings = Settings.from_environment()
    path = settings.collection_path(collection)
    stop = stop or threading.Event()
    progress = progress or Progress()
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    made: list[Source] = [make_source(s, corpus, folder) if isinstance(s, str | os.PathLike) else s for s in given]
    if corpus is not None and not any(isinstance(source, CorpusSource) for source in made):
        raise SourceError("How to read a corpus was said, and none was named: name the corpus as well.")
    if folder is not None:
        folder.check()
        if not any(isinstance(source, FolderSource) for source in made):
            raise SourceError("What of a folder is wanted was said, and none was named: name the folder as well.")
    if corpus is not None or not Layout(path).manifest.is_file():
        _check_corpora(made)  # before options that do not fit are kept
    report = IndexReport(collection=str(path), dry_run=dry_run)
    with _opened(path, encoder, made, device=device, dry_run=dry_run) as (opened, engine):
        if not made:
            made = list(_known_sources(opened, report))
        elif opened is not None:
            made = [_as_before(opened, source, told=folder is not None) for source in made]
            if corpus is None:
                _check_corpora(made)
        if opened is None or dry_run:
            _dry_run(opened, made, report, rehash=rehash, stop=stop)
            report.commit = opened.snapshot().commit if opened else 0
            report.seconds = time.monotonic() - started
            return report
        times = StageTimes(loaders=settings.threads)
        working = time.monotonic()
        with (
            opened.writer() as writer,
            Loader(
                engine,
                _has_content(opened),
                threads=settings.threads,
                times=times,
                max_pixels=max_pixels,
                fast_decode=fast_decode,
            ) as loader,
            Embedder(engine, times) as embedder,
        ):
            pipeline = Pipeline(
                opened,
                writer,
                embedder,
                report,
                times,
                progress=progress,
                stop=stop,
                rehash=rehash,
                allow_mass_delete=allow_mass_delete,
            )
            for source in made:
                if not stop.is_set():
                    pipeline.run(source, loader)
            pipeline.finish()
            report.stages = times.report(time.monotonic() - working)
            report.interrupted = stop.is_set()
            if not report.interrupted:
                progress.building()
                report.indexed = maintain(opened, writer, kind=index_kind, recall=recall, encoder=lambda: engine)
        report.commit = opened.snapshot().commit
    report.seconds = time.monotonic() - started
    return report


@contextlib.contextmanager
def _opened(
    path: Path, encoder: Encoder | str | None, sources: Sequence[Source], *, device: str | None, dry_run: bool
) -> Iterator[tuple[Collection | None, Encoder]]:
    """Yield the collection, made if need be, and its encoder; no collection when a dry run would have to make it."""
    collection: Collection | None
    try:
        collection = Collection.open(path)
    except CollectionNotFound:
        if not sources:
            raise
        collection = None
    try:
        engine = _encoder(collection, encoder, device=device)
        if collection is None and not dry_run:
            collection = Collection.create(path, engine.spec)
        if collection is not None and collection.spec.fingerprint != engine.spec.fingerprint:
            raise _mismatch(collection, engine, sources)
        if collection is not None and encoder is not None and collection.spec.uri != engine.spec.uri and not dry_run:
            collection.rebind(engine.spec.uri)
        yield collection, engine
    finally:
        if collection is not None:
            collection.close()


def _encoder(collection: Collection | None, wanted: Encoder | str | None, *, device: str | None) -> Encoder:
    """Return the encoder that was named, else that of the collection, else the default one."""
    if not wanted and collection is not None:
        return own_encoder(collection.layout.root, collection.spec, device=device)
    named = wanted or DEFAULT_ENCODER
    return load_encoder(named, device=device) if isinstance(named, str) else named


def _mismatch(collection: Collection, encoder: Encoder, sources: Sequence[Source]) -> EncoderMismatch:
    bound, wanted = collection.spec.uri, encoder.spec.uri
    other = f"{collection.layout.root}-{wanted.replace(':', '-').replace('/', '-')}"
    paths = [source.root for source in sources] or [root.path for root in collection.catalog.roots()]
    command = shlex.join(["mmsearch", "index", *paths, "--collection", other, "--encoder", wanted])
    how = difference(collection.spec, encoder.spec)
    return EncoderMismatch(
        f"The collection {collection.layout.root} {how}: make another one with '{command}', or move this one with"
        f" '{reembed_command(collection.layout.root, wanted)}'.",
        bound=bound,
        wanted=wanted,
    )


def _has_content(collection: Collection) -> Callable[[bytes], bool]:
    empty = collection.catalog.counts().items[Modality.IMAGE] == 0

    def has_content(digest: bytes) -> bool:
        return not empty and collection.catalog.has_content(Modality.IMAGE, digest)

    return has_content


def _known_sources(collection: Collection | None, report: IndexReport) -> Iterator[Source]:
    """Yield the sources indexed before; one that is not there now is a failure, and nothing of it is deleted."""
    for root in collection.catalog.roots() if collection else ():
        try:
            yield known_source(root.kind, root.path, root.options)
        except SourceError as error:
            report.missing_sources.append(root.path)
            report.failed.append(Failed(root.path, str(error)))


def _check_corpora(sources: Sequence[Source]) -> None:
    """Raise SourceError for a corpus that was named and cannot be understood."""
    for source in sources:
        if isinstance(source, CorpusSource):
            source.check()


def _as_before(collection: Collection, source: Source, *, told: bool) -> Source:
    """Return a source that was indexed before with the options that it was read with then; also a part of a folder.

    `told` says that a folder's options are those wanted from now on. They are kept with a source, not with its parts.
    """
    root = covering_root(collection.catalog.roots(), source)
    if root is None or not isinstance(source, FolderSource | CorpusSource):
        return source
    if isinstance(source, CorpusSource):
        is_told = bool(source.options) or not root.options
        return source if is_told else known_source(root.kind, root.path, root.options)
    options = FolderOptions.from_text(root.options)
    if root.path == source.root:
        return source if told else FolderSource(Path(source.root), options)
    if told:
        raise SourceError(f"{source.root} is a part of the source {root.path}: name that, for patterns are kept there.")
    if not options.enters(Path(source.root).relative_to(root.path).parts):
        raise SourceError(f"{source.root} is left out of the source {root.path}: index that with other patterns.")
    return FolderSource(Path(source.root), options, base=Path(root.path))


def _dry_run(
    collection: Collection | None,
    sources: Sequence[Source],
    report: IndexReport,
    *,
    rehash: bool,
    stop: threading.Event,
) -> None:
    """Count what a run would do by names and stamps alone; a moved file counts as added and deleted."""
    catalog = collection.catalog if collection else None
    roots = catalog.roots() if catalog else ()
    known = {item.key: item for root in roots for item in catalog.known_items(root.id)} if catalog else {}
    in_root = Counter(item.root_id for item in known.values())
    taken: set[str] = set()
    for source in sources:
        root = covering_root(roots, source)
        planner = Planner(
            catalog,
            root,
            source,
            taken=taken,
            elsewhere=known.get,
            count=lambda root: in_root[root.id],
            rehash=rehash,
        )
        for entry in source.scan():
            if stop.is_set():
                report.interrupted = True
                return
            if isinstance(entry, ScanFailure):
                planner.scan_failed(entry)
                report.failed.append(Failed(entry.key, entry.reason))
                continue
            action = planner.classify(entry)
            report.kept += action is Action.KEEP
            report.skipped += action is Action.SKIP
            report.left_out += action is Action.LEAVE_OUT
            if action in (Action.LOAD, Action.LINK):
                is_new = planner.known(entry.key) is None
                report.added += is_new
                report.changed += not is_new
        gone = planner.gone()
        if planner.is_mass_deletion(gone):
            report.held_back += len(gone)
        else:
            report.deleted += len(gone)
