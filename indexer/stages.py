"""StageTimes: how busy each stage of the pipeline was, so that a user sees which one the others wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stages of the work, in the order in which a picture goes through them."""

    READ = "read"  # from the disk, and hashed
    DECODE = "decode"
    PREPARE = "prepare"  # resized to the encoder's input
    ENCODE = "encode"
    CAPTIONS = "captions"  # encoded, by the same worker as the pictures
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did: so many pictures (or captions), and seconds of work by `workers` at a time.

    `per_second` is how many it would do alone, beside stages that take their share of the cores; `busy` is the
    share of the run, from 0 to 1, that its workers were at work. The stage with the highest is the one to speed up.
    """

    stage: Stage
    items: int
    seconds: float
    workers: int
    per_second: float
    busy: float


class StageTimes:
    """Collects from any thread."""

    def __init__(self, *, loaders: int) -> None:
        """`loaders` is how many pictures are read, decoded and prepared at a time."""
        self._workers = {stage: loaders if stage in (Stage.READ, Stage.DECODE, Stage.PREPARE) else 1 for stage in Stage}
        self._items = dict.fromkeys(Stage, 0)
        self._seconds = dict.fromkeys(Stage, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, stage: Stage, items: int = 1) -> Iterator[None]:
        """Count the time of a block for a stage; a block that raises counts its time alone."""
        started = time.perf_counter()
        done = 0
        try:
            yield
            done = items
        finally:
            self.count(stage, time.perf_counter() - started, done)

    def count(self, stage: Stage, seconds: float, items: int = 1) -> None:
        """Count what was measured elsewhere for a stage."""
        with self._lock:
            self._seconds[stage] += seconds
            self._items[stage] += items

    def report(self, elapsed: float) -> tuple[StageReport, ...]:
        """Return what the stages did in a run of `elapsed` seconds; those that had nothing to do are left out."""
        with self._lock:
            return tuple(
                StageReport(
                    stage=stage,
                    items=self._items[stage],
                    seconds=self._seconds[stage],
                    workers=self._workers[stage],
                    per_second=self._items[stage] * self._workers[stage] / self._seconds[stage],
                    busy=min(1.0, self._seconds[stage] / (self._workers[stage] * max(elapsed, 1e-9))),
                )
                for stage in Stage
                if self._items[stage] and self._seconds[stage] > 0
            )
