"""A collection against a plain dict: whatever is done to files and collection, it holds what the folder holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from indexer import index
from mmsearch.collection.collection import Collection
from mmsearch.collection.compaction import compact
from mmsearch.collection.maintenance import maintain, verify
from mmsearch.decoding.decoder import DirectDecoder
from mmsearch.engine.engine import SearchEngine
from mmsearch.types import Modality
from tests.support import ToyEncoder, picture

NAMES = st.sampled_from([f"{folder}{name}.png" for folder in ("", "a/", "a/b/", "ü/") for name in "pqrst"])
CONTENTS = st.integers(0, 30)
K, BASE = 1000, 24


class Folder(RuleBasedStateMachine):
    """Pictures come, change, move, are copied and go; the collection follows at each commit."""

    files = Bundle("files")

    @initialize()
    def begin(self) -> None:
        """A folder of pictures that stay, in a new collection."""
        self.root = Path(tempfile.mkdtemp(prefix="mmsearch-state-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("indexer.load.make_decoder", DirectDecoder)
        self.patch.setattr("mmsearch.collection.writer.SEAL_ROWS", 6)
        self.patch.setattr("mmsearch.collection.compaction.MERGE_FROM", 2)
        self.patch.setattr("mmsearch.vectors.spec.MIN_TRAIN", 20)  # there is always enough for an index
        self.place, self.folder = self.root / "c", self.root / "pictures"
        self.model: dict[str, int] = {}  # what lies in the folder
        self.committed: dict[str, int] = {}  # what the collection must hold
        for number in range(BASE):
            self.write(f"base/{number}.png", 100 + number)
        self.commit()

    def write(self, name: str, content: int) -> None:
        """Write a picture."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(content).save(path)
        self.model[name] = content

    @rule(name=NAMES, content=CONTENTS)
    def put(self, name: str, content: int) -> None:
        """Add or change a picture."""
        self.write(name, content)

    @rule(old=NAMES, new=NAMES)
    def move(self, old: str, new: str) -> None:
        """Move a picture, perhaps over another."""
        if old in self.model and old != new:
            (self.folder / new).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / old).rename(self.folder / new)
            self.model[new] = self.model.pop(old)

    @rule(first=NAMES, second=NAMES)
    def swap(self, first: str, second: str) -> None:
        """Let two pictures change places."""
        if first in self.model and second in self.model and first != second:
            aside = self.root / "aside"
            (self.folder / first).rename(aside)
            (self.folder / second).rename(self.folder / first)
            aside.rename(self.folder / second)
            self.model[first], self.model[second] = self.model[second], self.model[first]

    @rule(old=NAMES, new=NAMES)
    def copy(self, old: str, new: str) -> None:
        """Copy a picture with its times."""
        if old in self.model and old != new:
            (self.folder / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.folder / old, self.folder / new)
            self.model[new] = self.model[old]

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """Delete a picture."""
        if name in self.model:
            (self.folder / name).unlink()
            del self.model[name]

    @rule()
    def commit(self) -> None:
        """Index the folder."""
        report = index([self.folder], collection=self.place, encoder=ToyEncoder(), allow_mass_delete=True)
        assert report.failed == []
        self.committed = dict(self.model)

    @rule()
    def seal(self) -> None:
        """Seal what is not."""
        with Collection.open(self.place) as collection, collection.writer() as writer:
            writer.seal(Modality.IMAGE)

    @rule(kind=st.sampled_from(["flat", "ivfpq", "ivfsq8"]))
    def build(self, kind: str) -> None:
        """Build an index, or drop it."""
        with Collection.open(self.place) as collection, collection.writer() as writer:
            maintain(collection, writer, kind=kind, recall=0.99)
            assert ("IVF" in collection.info().modalities[Modality.IMAGE].index) == (kind != "flat")

    @rule()
    def compact(self) -> None:
        """Drop the rows of what was deleted."""
        with Collection.open(self.place) as collection, collection.writer() as writer:
            compact(collection, writer)

    @invariant()
    def holds_what_was_committed(self) -> None:
        """Verify, and find every picture by its own content."""
        if not hasattr(self, "place"):
            return
        with SearchEngine(Collection.open(self.place), ToyEncoder()) as engine:
            assert verify(engine.collection).problems == ()
            for content in {held for name, held in self.committed.items() if "base" not in name} | {100}:
                hits = engine.search(image=picture(content), k=K)
                assert len(hits) == len(self.committed)
                same = {str(Path(hit.item.uri).relative_to(self.folder)) for hit in hits if hit.similarity > 0.999}
                assert same == {name for name, held in self.committed.items() if held == content}

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "root"):
            self.patch.undo()
            shutil.rmtree(self.root)


Folder.TestCase.settings = settings(
    max_examples=12, stateful_step_count=18, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFolder = Folder.TestCase
