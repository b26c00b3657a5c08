"""Every file name and path inside a collection; nobody else joins them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsearch.types import Modality

FORMAT_NAME = "mmsearch-collection"
FORMAT_VERSION = 1

_CATALOG = "catalog.sqlite3"
_OURS = {"mmsearch.json", "writer.lock", "vectors", "ann", "tmp", "cache"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of one collection; `file` names in the catalog are relative to `root`, with forward slashes."""

    root: Path

    @property
    def manifest(self) -> Path:
        """Written once, last of all at creation: where it is, there is a collection."""
        return self.root / "mmsearch.json"

    @property
    def catalog(self) -> Path:
        """The SQLite file."""
        return self.root / _CATALOG

    @property
    def lock(self) -> Path:
        """The file whose lock the one writer holds."""
        return self.root / "writer.lock"

    @property
    def tmp(self) -> Path:
        """Staging; the next writer empties it."""
        return self.root / "tmp"

    def new_segment(self, modality: Modality, first_id: int) -> str:
        """Return a name that no file has had."""
        return f"vectors/{modality}/{first_id:012d}-{uuid.uuid4().hex[:8]}.npy"

    def new_ann(self, modality: Modality) -> str:
        """Return a name that no file has had."""
        return f"ann/{modality}/{uuid.uuid4().hex}/index.faiss"

    def path(self, file: str) -> Path:
        """Return the path of a file that the catalog names."""
        return self.root / file

    def data_files(self) -> Iterator[str]:
        """Yield the names of all segments and ANN files that lie here, named by the catalog or not."""
        for folder in ("vectors", "ann"):
            for path in sorted((self.root / folder).rglob("*")):
                if path.is_file():
                    yield path.relative_to(self.root).as_posix()

    def strangers(self) -> list[str]:
        """Return the names in the folder that are not ours, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.name not in _OURS and not p.name.startswith(_CATALOG))
