"""Every file name and path inside a collection; nobody else joins them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsearch.types import Modality

FORMAT_NAME = "mmsearch-collection"
FORMAT_VERSION = 1

_CATALOG = "catalog.sqlite3"
_DATA_FILE = re.compile(r"vectors/\w+/\d{12}-[0-9a-f]{8}\.npy|ann/\w+/[0-9a-f]{32}/index\.faiss")
_STAGED_FILE = re.compile(r"[0-9a-f]{32}\.part")
_INCOMING = "reembed"
_INCOMING_FOLDER = re.compile(r"[0-9a-f]{16}")
_INCOMING_FILE = re.compile(r"\d{12}-[0-9a-f]{32}\.npy")


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

    def is_data_file(self, file: str) -> bool:
        """Return True for a name that a segment or ANN file can have; nothing else may be read on its word."""
        return _DATA_FILE.fullmatch(file) is not None

    def new_beside(self) -> Path:
        """Return a hidden folder beside this collection that nobody has had, to make it in."""
        return self.root.with_name(f".{self.root.name}-{uuid.uuid4().hex}.part")

    def file_of(self, path: Path) -> str:
        """Return the name, as in the catalog, of a path in the collection."""
        return path.relative_to(self.root).as_posix()

    def new_staged(self) -> Path:
        """Return a path in the staging folder that no file has had."""
        return self.tmp / f"{uuid.uuid4().hex}.part"

    def data_files(self) -> Iterator[str]:
        """Yield the names of all segments and ANN files that lie here, named by the catalog or not; no other files."""
        for folder in ("vectors", "ann"):
            for path in sorted((self.root / folder).rglob("*")):
                name = path.relative_to(self.root).as_posix()
                if _DATA_FILE.fullmatch(name) and path.is_file():
                    yield name

    def staged_files(self) -> list[Path]:
        """Return what a killed writer left in the staging folder."""
        if not self.tmp.is_dir():
            return []
        return sorted(path for path in self.tmp.iterdir() if _STAGED_FILE.fullmatch(path.name))

    def incoming_names(self) -> list[str]:
        """Return how the fingerprints begin of the encoders whose rows gather here, or did when a run was killed."""
        folder = self.root / _INCOMING
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if _INCOMING_FOLDER.fullmatch(path.name))

    def incoming_files(self, fingerprint: str, modality: Modality) -> list[Path]:
        """Return the files of rows of another encoder, in the order of their names."""
        folder = self._incoming(fingerprint, modality)
        return sorted(path for path in folder.glob("*") if _INCOMING_FILE.fullmatch(path.name))

    def new_incoming(self, fingerprint: str, modality: Modality, first_id: int, sha256: str) -> Path:
        """Return the path of a file of such rows, whose name says what must be in it."""
        return self._incoming(fingerprint, modality) / f"{first_id:012d}-{sha256[:32]}.npy"

    def incoming_folders(self, fingerprint: str) -> list[Path]:
        """Return the folders that such rows lie in, and those around them, innermost first."""
        folders = [self._incoming(fingerprint, modality) for modality in Modality]
        return [path for path in (*folders, folders[0].parent, self.root / _INCOMING) if path.is_dir()]

    def _incoming(self, fingerprint: str, modality: Modality) -> Path:
        return self.root / _INCOMING / fingerprint[:16] / modality

    def states(self, fingerprint: str) -> Path:
        """Return the folder in which what a reranker keeps of pictures lies; it may be deleted at any time."""
        return self.cache / "states" / fingerprint[:16]

    def views(self, fingerprint: str) -> Path:
        """Return the folder of the summed vectors of views, by encoder and views; it may be deleted at any time."""
        return self.cache / "views" / fingerprint[:16]

    @property
    def cache(self) -> Path:
        """What can be made again; it may be deleted at any time."""
        return self.root / "cache"

    def strangers(self) -> list[str]:
        """Return the names in a folder without a manifest that a creation cut short cannot have left there."""
        if self.manifest.exists() or not self.root.exists():
            return []
        if not self.root.is_dir():
            return [self.root.name]
        names = {path.name for path in self.root.iterdir() if not path.name.startswith(_CATALOG)} - {self.lock.name}
        if self.tmp.is_dir() and len(list(self.tmp.iterdir())) == len(self.staged_files()):
            names.discard(self.tmp.name)
        return sorted(names)
