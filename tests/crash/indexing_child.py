"""Indexes argv[1] into argv[2] and appends the key of every embedded item to argv[3]. Run to be killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import indexer.pipeline
import mmsearch.collection.writer
from indexer import Progress, index
from mmsearch.types import Modality

SEAL_ROWS = 90
COMMIT_SECONDS = 0.3
"""Small, so that the run commits and seals again and again."""


class Log(Progress):
    """Writes what was embedded straight to the kernel, where a kill cannot lose it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def embedded(self, keys: Sequence[str], modality: Modality) -> None:
        os.write(self._file, "".join(f"{key}\n" for key in keys).encode())


if __name__ == "__main__":
    mmsearch.collection.writer.SEAL_ROWS = SEAL_ROWS
    indexer.pipeline.COMMIT_SECONDS = COMMIT_SECONDS
    report = index([sys.argv[1]], collection=Path(sys.argv[2]), index_kind="ivfpq", progress=Log(sys.argv[3]))
    assert not report.failed, report.failed
