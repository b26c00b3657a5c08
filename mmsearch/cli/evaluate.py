"""`mmsearch eval`."""

from __future__ import annotations

import gc
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.options import (
    CandidatesOption,
    CaptionColumnOption,
    CollectionOption,
    DeviceOption,
    ImageColumnOption,
    ImagesOption,
    JsonOption,
    LabelColumnOption,
    RerankerOption,
    SplitOption,
    corpus_options,
)
from mmsearch.cli.output import note, short_path, table, to_json, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmsearch.evaluation.dataset import Direction
    from mmsearch.evaluation.metrics import Metric
    from mmsearch.evaluation.runner import Comparison, EvalReport, Evaluation, Failure

_DIRECTIONS = ("text-image", "image-text", "text-text", "image-image")
_SHOWN_INSTEAD, _SHOWN_UNREAD = 3, 10
_LINE_SECONDS = 10.0
_DRAWN = 20
"""Queries of each direction that a sheet shows unless --worst says otherwise."""


def evaluate(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            help="A corpus with captions: .tar, .json (Karpathy, COCO, Visual Genome), .jsonl, .csv, .tsv; none: the"
            " captions in the collection.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="URI", help="Evaluate this encoder. [default: compact]", show_default=False),
    ] = None,
    collection: CollectionOption = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Compare two: encoder URIs, collections (paths), or run files with --qrels.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    image_column: ImageColumnOption = None,
    caption_column: CaptionColumnOption = None,
    label_column: LabelColumnOption = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Take the first N pictures alone.", show_default=False),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            "--direction",
            metavar="|".join(_DIRECTIONS),
            help="Only this one; may be given again. [default: all in which anything is relevant]",
            show_default=False,
        ),
    ] = None,
    worst: Annotated[int, typer.Option("--worst", metavar="N", min=0, help="List the N worst queries of each.")] = 0,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Draw the worst queries as an HTML page.", show_default=False),
    ] = None,
    trec: Annotated[
        Path | None,
        typer.Option("--trec", metavar="DIR", help="Write TREC runs and qrels there.", show_default=False),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FILE", help="Evaluate a TREC run, with --qrels.", show_default=False),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", metavar="FILE", help="TREC judgements.", show_default=False)
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Look at the first answers again with the reranker.")
    ] = False,
    reranker: RerankerOption = None,
    candidates: CandidatesOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no vectors for the next time.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval: an encoder alone, or a collection through its index.

    Recall is told as the CLIP papers do: any caption of a picture counts. Ties count against. Intervals are 95 %.
    """
    from mmsearch.engine.query import CANDIDATES
    from mmsearch.errors import QueryError
    from mmsearch.evaluation import runner
    from mmsearch.rerank import DEFAULT_RERANKER

    gc.enable()
    rerank = rerank or reranker is not None
    if candidates is not None and not rerank:
        raise QueryError("--candidates goes with --rerank.")
    options = corpus_options(
        images=images,
        split=split,
        image_column=image_column,
        caption_column=caption_column,
        label_column=label_column,
    )
    alone = [name for name, value in (("--sheet", sheet), ("--trec", trec), ("--worst", worst)) if value]
    if (run is not None or compare) and alone:
        raise QueryError(f"{alone[0]} is for one system on a corpus: leave it out with --run and --compare.")
    if run is not None or (compare and qrels):
        others = (dataset, encoder, collection, options, limit, direction, compare if run is not None else None)
        if rerank or any(value is not None for value in others):
            raise QueryError("TREC runs are evaluated with --qrels alone: leave the corpus and what goes with it out.")
    if run is not None:
        if qrels is None:
            raise QueryError("A run needs judgements: name them with --qrels FILE.")
        _tell(runner.evaluate_run(run, qrels), as_json=as_json)
        return
    if compare and qrels:
        _tell_differences(runner.compare_runs(Path(compare[0]), Path(compare[1]), qrels), as_json=as_json)
        return
    if qrels is not None:
        raise QueryError("--qrels goes with --run FILE, or with --compare of two runs.")
    if sheet is not None and sheet.is_dir():
        raise QueryError(f"{sheet} is a folder: name a file for --sheet.")
    if trec is not None and trec.exists() and not trec.is_dir():
        raise QueryError(f"{trec} is a file: name a folder for --trec.")
    if dataset is None and options is not None:
        raise QueryError("How to read a corpus was said, and none was named: name the corpus as well.")

    def evaluated(system: str | None, in_collection: str | None) -> Evaluation:
        with ExitStack() as stack:
            embedding, reranking = show_progress(stack, embedding="embedded", reranking="queries reranked")
            return runner.evaluate(
                dataset,
                encoder=system,
                collection=in_collection,
                device=device,
                options=options,
                directions=_directions(direction),
                limit=limit,
                cache=not no_cache,
                progress=embedding,
                rerank=reranker or (DEFAULT_RERANKER if rerank else None),
                candidates=candidates or CANDIDATES,
                reranking=reranking,
            )

    if compare:
        if encoder is not None or collection is not None:
            raise QueryError("--compare names both sides itself: leave --encoder and --collection out.")
        with ExitStack() as stack:
            sides = [
                stack.enter_context(evaluated(None, side) if _is_collection(side) else evaluated(side, None))
                for side in compare
            ]
            _tell_differences(runner.compare_evaluations(*sides), as_json=as_json)
        return
    with evaluated(encoder, collection) as evaluation:
        report = evaluation.report(worst=worst or (_DRAWN if sheet else 0))
        if trec is not None:
            evaluation.write_trec(trec)
            note(f"mmsearch: runs and qrels are in {trec}.")
    if sheet is not None:
        from mmsearch.evaluation.sheet import write_sheet

        write_sheet(report, sheet)
        note(f"mmsearch: the worst queries are drawn in {sheet}.")
    _tell(report, as_json=as_json, with_worst=worst > 0)


def _directions(names: list[str] | None) -> list[Direction] | None:
    from mmsearch.errors import QueryError
    from mmsearch.evaluation.dataset import Direction as Known

    if not names:
        return None
    known = {direction.name_of_file: direction for direction in Known}
    for name in names:
        if name not in known:
            raise QueryError(f"There is no direction {name!r}: choose one of {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]


def _is_collection(name: str) -> bool:
    """Return True for the name of a collection that is there, and for any path; else it is an encoder's URI."""
    from mmsearch.collection.layout import Layout
    from mmsearch.config import Settings
    from mmsearch.errors import QueryError

    if name.startswith((".", "/", "~")):
        return True
    try:
        return Layout(Settings.from_environment().collection_path(name)).manifest.is_file()
    except QueryError:
        return False


def show_progress(stack: ExitStack, **stages: str) -> list[Callable[[int, int], None]]:
    """Return, for each stage (what is being done=what is counted), what to call with how much is done of how much.

    It is shown as a bar on a terminal, as a line now and then elsewhere.
    """
    if not sys.stderr.isatty():
        told = time.monotonic()

        def line(word: str, done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > _LINE_SECONDS:
                told = time.monotonic()
                note(f"mmsearch: {done:,} of {total:,} {word}")

        return [partial(line, word) for word in stages.values()]
    from rich.console import Console
    from rich.progress import Progress

    bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))

    def advance(task: Any, done: int, total: int) -> None:
        bar.update(task, completed=done, total=total, visible=True)

    return [
        partial(advance, bar.add_task(stage, total=None, visible=number == 0)) for number, stage in enumerate(stages)
    ]


def tell_unread(unread: tuple[str, ...]) -> None:
    """Name what was left out on stderr, the first of it."""
    for name in unread[:_SHOWN_UNREAD]:
        note(f"  left out: {short_path(name)}")
    if len(unread) > _SHOWN_UNREAD:
        note(f"  … and {len(unread) - _SHOWN_UNREAD:,} more (all of them with --json)")


def _tell(report: EvalReport, *, as_json: bool, with_worst: bool = False) -> None:
    if as_json:
        write(to_json(_without_infinities(asdict(report))))
        return
    head = [report.dataset]
    if report.pictures or report.captions:
        head.append(f"{_count(report.pictures, 'picture')}, {_count(report.captions, 'caption')}")
    if report.unread:
        head.append(f"{_count(len(report.unread), 'record')} left out")
    if report.absent:
        head.append(f"{report.absent:,} more not in the collection")
    write(f"{'; '.join(head)}; {short_path(report.system)}; {report.seconds:.1f} s")
    tell_unread(report.unread)
    names = [metric.name for metric in report.directions[0].metrics]
    head = ["", *(one.direction for one in report.directions)]
    rows = [["queries", *(f"{one.queries:,}" for one in report.directions)]]
    if any(one.candidates for one in report.directions):
        rows.append(["candidates", *(f"{one.candidates:,}" for one in report.directions)])
    for place, name in enumerate(names):
        rows.append([name, *(_value(one.metrics[place], one.depth) for one in report.directions)])
    for line in table(head, rows, right=range(1, len(head))):
        write(line)
    for found in report.recall:
        write(
            f"recall@10 of {found.index} over {found.target} vectors, {found.query} queries: {found.recall_at_10:.4f}"
            f" ({found.queries:,} queries)"
        )
    for one in report.latency:
        write(f"{one.what}: p50 {one.p50:.2f} ms, p95 {one.p95:.2f}, p99 {one.p99:.2f} ({one.queries} queries)")
    if with_worst:
        for failure in report.worst:
            _tell_failure(failure)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _value(metric: Metric, depth: int | None) -> str:
    if metric.name == "median rank":
        return f"{_rank(metric.value, depth)} ({_rank(metric.low, depth)}–{_rank(metric.high, depth)})"
    return f"{100 * metric.value:.1f} ({100 * metric.low:.1f}–{100 * metric.high:.1f})"


def _rank(rank: float, depth: int | None = None) -> str:
    if math.isinf(rank):
        return f">{depth}" if depth else "not found"
    return f"{rank:,.0f}"


def _without_infinities(value: Any) -> Any:
    """Return a value whose infinite numbers are null, for JSON has none."""
    if isinstance(value, dict):
        return {name: _without_infinities(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _tell_failure(failure: Failure) -> None:
    rank = "not found" if failure.rank is None else f"rank {failure.rank:,}"
    write(f"{failure.direction}  {rank}  {short_path(failure.query)}")
    for found in failure.found[:_SHOWN_INSTEAD]:
        write(f"    {found.score:.3f}  {short_path(found.name)}")


def _tell_differences(comparisons: tuple[Comparison, ...], *, as_json: bool) -> None:
    if as_json:
        write(to_json(_without_infinities([asdict(one) for one in comparisons])))
        return
    for one in comparisons:
        write(f"{one.direction}, {one.queries:,} queries; A {short_path(one.a)}; B {short_path(one.b)}")
        rows = []
        for difference in one.differences:
            factor = 1.0 if difference.name == "median rank" else 100.0
            change, low, high = (factor * value for value in (difference.difference, difference.low, difference.high))
            rows.append(
                [
                    difference.name,
                    _rank(difference.a) if factor == 1.0 else f"{100 * difference.a:.1f}",
                    _rank(difference.b) if factor == 1.0 else f"{100 * difference.b:.1f}",
                    f"{change:+.2f} ({low:+.2f} to {high:+.2f})",
                    f"{difference.p:.4f}",
                ]
            )
        for line in table(["", "A", "B", "B − A (95 %)", "p"], rows, right=(1, 2, 3, 4)):
            write(line)
    note("mmsearch: p is of a paired randomisation test; the median rank's B − A is the mean difference of log ranks.")
