"""How `mmsearch index` shows that it gets on: a bar on a terminal, a line now and then elsewhere. On stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from indexer import Progress
from mmsearch.cli.output import note

_LINE_SECONDS = 10.0


class BarProgress(Progress):
    """A bar with rate and, once the scan has come to its end, the time left."""

    def __init__(self) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("scanning", total=None)

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def found(self, entries: int, *, complete: bool) -> None:
        """Show how many there are to do."""
        if complete:
            self._bar.update(self._task, total=entries, description="indexing")

    def done(self, entries: int) -> None:
        """Advance the bar."""
        self._bar.advance(self._task, entries)

    def building(self) -> None:
        """Say what takes the time now."""
        self._bar.update(self._task, description="looking after the search index")


class LineProgress(Progress):
    """A line every ten seconds, for logs."""

    def __init__(self) -> None:
        self._found = self._done = 0
        self._complete = False
        self._started = self._last = time.monotonic()

    def found(self, entries: int, *, complete: bool) -> None:
        """Count what there is to do."""
        self._found, self._complete = entries, complete

    def done(self, entries: int) -> None:
        """Count what is done, and say so now and then."""
        self._done += entries
        now = time.monotonic()
        if now - self._last < _LINE_SECONDS:
            return
        self._last = now
        rate = self._done / (now - self._started)
        left = f", {(self._found - self._done) / rate:.0f} s left" if self._complete and rate else ""
        total = f"{self._found:,}" + ("" if self._complete else "+")
        note(f"mmsearch: {self._done:,} of {total} done, {rate:.0f}/s{left}")


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")
