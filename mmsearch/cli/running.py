"""What commands that run for long share: Ctrl-C ends them at the next batch, and they show how they get on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from mmsearch.cli import exits
from mmsearch.cli.output import note, short_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer import Failed, Progress
    from indexer.stages import StageReport

_SHOWN_FAILURES = 10
INTERRUPTED = "mmsearch: interrupted; everything so far is kept, run the same command again to go on."


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end the run at the next batch, and a second one at once."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise exits.Interrupted
        stop.set()
        note("mmsearch: stopping at the next batch (once more to stop at once) …")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress | None]:
    """Yield what shows how a run gets on: a bar on a terminal, else lines; None when it is to be quiet."""
    if quiet:
        yield None
        return
    from mmsearch.cli.progress import BarProgress, LineProgress

    if sys.stderr.isatty():
        with BarProgress() as bar:
            yield bar
    else:
        yield LineProgress()


def note_failures(failed: Sequence[Failed]) -> None:
    """Tell the first of the files that could not be read, and why."""
    for failure in failed[:_SHOWN_FAILURES]:
        note(f"  {short_path(failure.key)}: {failure.reason.removeprefix(failure.key).strip()}")
    if len(failed) > _SHOWN_FAILURES:
        note(f"  … and {len(failed) - _SHOWN_FAILURES:,} more (all of them with --json)")


def stages_line(stages: tuple[StageReport, ...]) -> str:
    """Return how fast each stage was and how much of the time it was at work; the busiest holds up the others."""
    parts = [f"{one.stage} {one.per_second:,.0f}/s ({one.busy:.0%} busy)" for one in stages]
    busiest = max(stages, key=lambda one: one.busy)
    return f"mmsearch: {', '.join(parts)}; the slowest is {busiest.stage}"
