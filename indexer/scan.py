"""ScanAhead: a scan in a thread of its own, so that what there is to do is known while it is being done."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from mmsearch.types import ScanFailure, Source, SourceEntry

AHEAD = 200_000
"""Entries that may wait to be taken: some 60 MB. Up to so many the total is known early, and with it the time left."""

_BATCH, _BATCH_SECONDS = 256, 0.05
"""Entries are handed over so many at a time, or as many as there are after so long: waking a thread costs more."""

_Found = SourceEntry | ScanFailure


class ScanAhead:
    """Iterates over what a source yields. `found` and `complete` tell how far the scan has got meanwhile."""

    def __init__(self, source: Source, stop: threading.Event) -> None:
        """`stop` ends the iteration early; see `stopped`."""
        self.found = 0
        self.complete = False
        self.stopped = False
        self._source = source
        self._stop = stop
        self._queue: queue.Queue[list[_Found] | BaseException | None] = queue.Queue(AHEAD // _BATCH)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[_Found]:
        thread = threading.Thread(target=self._scan, name="mmsearch-scan", daemon=True)
        thread.start()
        try:
            while True:
                if self._stop.is_set():
                    self.stopped = True
                    return
                try:
                    batch = self._queue.get(timeout=0.2)
                except queue.Empty:
                    continue
                if batch is None:
                    return
                if isinstance(batch, BaseException):
                    raise batch
                for entry in batch:
                    if self._stop.is_set():
                        break
                    yield entry
        finally:
            self._closed.set()
            if not self.stopped:  # a scan that hangs in a dead network drive must not keep Ctrl-C waiting
                thread.join()

    def _scan(self) -> None:
        try:
            batch: list[_Found] = []
            due = time.monotonic() + _BATCH_SECONDS
            for entry in self._source.scan():
                self.found += isinstance(entry, SourceEntry)
                batch.append(entry)
                if len(batch) >= _BATCH or time.monotonic() >= due:
                    self._offer(batch)
                    batch, due = [], time.monotonic() + _BATCH_SECONDS
                if self._closed.is_set():
                    return
            self._offer(batch)
            self.complete = True
            self._offer(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that iterates
            self._offer(error)

    def _offer(self, batch: list[_Found] | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(batch, timeout=0.2)
                return
            except queue.Full:
                continue
